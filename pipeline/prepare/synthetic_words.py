"""The word lists behind generated catalogues."""

from __future__ import annotations

from typing import Final

# One theme per line: its category, then its own words.
_THEMES: Final = """
Camping: tent sleeping campfire hiking trail backpack lantern wilderness canteen hammock compass bivouac
Coffee: espresso roast barista beans grinder latte crema arabica percolator mocha cappuccino brew
Baby Care: infant diaper pacifier stroller nursery crib toddler teething bib swaddle newborn rattle
Guitars: guitar fretboard strings amplifier pickup acoustic chord strumming capo tremolo luthier riff
Fishing: angler lure tackle rod reel trout bait bobber hook bass waders flyfishing
Skin Care: moisturizer serum cleanser hydrating wrinkle exfoliating retinol collagen toner pores complexion lotion
Video Games: console gamer controller joystick multiplayer arcade dungeon quest pixel esports shooter platformer
Gardening: seeds compost trowel perennial pruning watering greenhouse soil mulch tomato orchid fertilizer
Yoga: yoga asana meditation stretching pilates breathing mindfulness chakra vinyasa balance flexibility namaste
Baking: cake frosting flour oven dough cupcake whisk pastry muffin yeast fondant spatula
Cycling: bicycle pedal handlebar derailleur saddle velodrome cyclist spokes drivetrain tire crankset peloton
Dogs: puppy leash kibble canine kennel chew collar grooming retriever terrier fetch bark
Astronomy: telescope galaxy nebula planet stargazing constellation lunar eyepiece comet observatory orbit cosmos
Photography: camera lens shutter tripod aperture exposure portrait darkroom telephoto bokeh flash megapixel
Carpentry: chisel plywood sawdust lathe dovetail sander workbench jigsaw oak clamp planer mortise
Painting: watercolor easel canvas brush acrylic pigment palette gouache sketch gesso pastel varnish
Swimming: swimsuit goggles snorkel poolside freestyle flippers lifeguard diving aquatic butterfly lap chlorine
Knitting: yarn wool needles crochet cardigan stitch merino skein cable pattern mittens purl
Cats: kitten litter catnip feline scratching whiskers purring tabby meow siamese mouser paw
Running: marathon jogging sprint sneakers pace cadence treadmill runner racing stride endurance cushioning
Tea: oolong teapot chamomile infuser matcha herbal steeping darjeeling kettle jasmine teacup rooibos
Chess: chess pawn rook bishop checkmate gambit grandmaster endgame knight castling chessboard stalemate
Skiing: ski slope snowboard powder alpine chairlift bindings poles piste mogul avalanche helmet
Jewelry: necklace earrings diamond bracelet sterling pendant gemstone sapphire brooch bridal carat pearl
Home Audio: speaker subwoofer headphones turntable vinyl stereo surround soundbar woofer hifi equalizer treble
Dinosaurs: dinosaur fossil tyrannosaurus jurassic triceratops raptor prehistoric stegosaurus mammoth claws bones eggs
Sailing: sailboat anchor rigging mast regatta yacht nautical keel spinnaker harbor buoy helm
Horses: horse saddlery bridle stirrup equestrian stable gallop pony mane dressage hoof jockey
Cheese: cheddar gouda brie fondue camembert parmesan dairy creamy mozzarella rind ricotta aged
Trains: locomotive railway caboose steam track conductor freight carriage station signal tunnel diesel
Perfume: fragrance cologne musk vanilla bergamot sandalwood floral scent eau patchouli amber lavender
Drones: drone quadcopter propeller gimbal aerial hover pilot altitude rotor waypoint airframe telemetry
Wine: merlot chardonnay vineyard corkscrew decanter sommelier cabernet riesling tannin grape cellar bordeaux
Boxing: boxing gloves punching jab uppercut sparring knockout ringside heavyweight mouthguard footwork bout
Aquariums: aquarium goldfish coral filter betta tropical guppy algae reef substrate cichlid tank
Sewing: sewing thread fabric bobbin seamstress quilting hem tailor zipper applique thimble buttonhole
Magic Tricks: magician wand illusion levitation trick cards conjuring rabbit mentalism vanish escape sleight
Farming: tractor harvest barn plow cattle silo hay irrigation livestock rooster acreage wheat
Basketball: basketball dunk hoop backboard dribble rebound jersey court layup playoffs jumper slam
Barbecue: barbecue grill brisket smoker charcoal ribs marinade skewer tongs pitmaster hickory rub
Robotics: robot servo arduino sensor actuator circuit soldering microcontroller gripper automation lidar firmware
Weddings: wedding bride bouquet veil groom invitation bridesmaid ceremony tuxedo reception confetti vows
Office: stapler notebook binder folder highlighter envelope calendar clipboard desk planner ballpoint ledger
Cocktails: cocktail shaker bitters martini mixology jigger muddler vermouth bourbon mojito garnish rum
Hair Care: shampoo conditioner keratin hairbrush curls blowdryer dandruff volumizing frizz straightener scalp mousse
Home Cleaning: vacuum mop detergent bleach sponge disinfectant stain broom dustpan degreaser microfiber scrub
Vampires: vampire gothic coffin bloodthirsty transylvania crypt undead fangs bat nosferatu garlic midnight
Westerns: cowboy outlaw sheriff saloon rodeo stagecoach frontier gunslinger ranch lasso bandit prairie
Space Opera: starship alien hyperspace android laser asteroid cyborg interstellar rebel warp spaceport colony
Detectives: detective murder clue inspector alibi suspect forensic sleuth mystery crime culprit whodunit
Romance: romance kiss lovers sweetheart passion heartbreak soulmate valentine wedlock darling longing courtship
History: medieval castle empire viking pharaoh crusade roman monarchy chronicle dynasty archaeology armor
Cooking: skillet wok spices cookbook saucepan simmer chef recipe seasoning saute casserole ladle
Cars: sedan engine brake windshield dashboard turbo exhaust sparkplug gearbox carburetor tyre chassis
Motorcycles: motorcycle biker throttle chopper sidecar crankcase leather scooter enduro touring fairing saddlebag
Makeup: lipstick mascara eyeliner blush foundation eyeshadow concealer bronzer primer brow lipgloss rouge
Nails: manicure polish cuticle acrylics pedicure topcoat lacquer nailart emery gel nailfile glossy
Birds: parrot birdcage feeder hummingbird finch canary nest plumage binoculars owl sparrow aviary
Soccer: soccer goalkeeper striker penalty stadium midfield cleats shinguards offside corner football league
Tennis: tennis racket serve backhand volley baseline grandslam umpire forehand topspin ace deuce
Vitamins: vitamin probiotic omega magnesium supplement capsule immune antioxidant zinc turmeric tablet ginseng
Smart Home: thermostat doorbell smartbulb wifi hub voice assistant router dimmer intercom motion streaming
Lighting: chandelier lampshade bulb sconce floodlight halogen dimmable candle lumens fixture glow tealight
Furniture: sofa armchair bookshelf mattress ottoman recliner dresser wardrobe cushion upholstery footstool cabinet
"""

THEMES: Final[tuple[tuple[str, tuple[str, ...]], ...]] = tuple(
    (name, tuple(words.split())) for name, _, words in (line.partition(": ") for line in _THEMES.split("\n") if line))
"""64 pairs of a category name and its twelve own words; no word stands twice."""

FILLER: Final = (
    "quality", "daily", "product", "item",
    "useful", "article", "handy", "reliable", "everyday", "household", "practical", "standard", "size", "neutral",
    "finish", "package")
"""What stands at each place of an item's text when no taste is told there: first the title's words, then the
description's."""

VARIANTS: Final = ("classic", "modern", "simple", "compact")
"""One of them stands in place of the filler's first word."""

SYLLABLES: Final = (
    "al", "bo", "ca", "del", "er", "fin", "gra", "hel", "is", "jo", "ka", "lum", "mor", "nel", "or", "pal", "que", "ri",
    "sol", "tan", "ul", "ver", "wes", "xan", "yor", "zen")
"""Brand names are made of these."""
