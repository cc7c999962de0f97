"""What passes the gate, and what does not, and why."""

from __future__ import annotations

import json
import pickle
import sys
from typing import Any, get_args

import pytest

from configs.errors import MissingExtraError
from pipeline.profile.prompts import language
from pipeline.profile.prompts.cleaning import Cleaner
from pipeline.profile.prompts.config import Form, GateConfig, PromptConfig
from pipeline.profile.prompts.faults import is_refusal, repeated_share, word_count
from pipeline.profile.prompts.gate import REASONS, Gate, Reason, Verdict
from pipeline.profile.prompts.languages import CLOSE, LANGUAGES

GOOD = {
    "en": """This customer favours nail care above all, with a strong lean towards colourful polishes and the tools
that go with them; most choices are inexpensive, everyday products rather than luxury ones.

They look for quick-drying formulas, pastel and glitter finishes, and gentle removers. Fragrance matters little.

What they liked tends to be easy to apply and forgiving: smooth brushes, even coverage, shades that stay for days.

Thick formulas that chip early, and heavily scented hand creams, are what the less liked things have in common.

In sum, a playful collector of affordable nail colours who lately turns to base coats and strengtheners.""",
    "de": """Diese Person bevorzugt vor allem düstere Kriminalfilme und Thriller aus den neunziger Jahren, dazu
gelegentlich historische Dramen. Wichtig sind ihr eine dichte Atmosphäre, ein langsames Erzähltempo und starke
Schauspieler. Was ihr gefiel, erzählt von moralischen Konflikten und gebrochenen Helden. Alberne Komödien und laute
Actionfilme lassen sie kalt. Zusammengefasst: ein Mensch mit Sinn für ernste, gut gebaute Geschichten.""",
    "fr": """Cette personne apprécie surtout les comédies dramatiques françaises et italiennes, avec une préférence
nette pour les films des années soixante. Elle recherche des dialogues vifs, des personnages nuancés et une certaine
mélancolie. Les œuvres appréciées ont en commun un humour discret et une grande attention aux relations familiales.
Elle se lasse vite des films d'action bruyants. En résumé, un goût classique, fidèle et curieux à la fois.""",
    "es": """A esta persona le gustan sobre todo los productos para el cuidado del cabello rizado y las cremas
hidratantes de precio medio. Busca ingredientes naturales, aromas suaves y envases sencillos. Lo que más le agrada
deja el pelo definido sin endurecerlo. No le convencen los productos con alcohol ni los perfumes intensos. En resumen,
una clienta práctica que repite lo que le funciona y prueba novedades con cautela.""",
    "ru": """Зритель предпочитает советские и современные российские комедии, а также детективные сериалы. Его
привлекают живые диалоги, узнаваемые актёры и спокойный ритм повествования. Понравившиеся картины объединяет мягкий
юмор и внимание к семейным отношениям. Фильмы ужасов и громкие боевики он обычно бросает в самом начале. В целом это
зритель с устойчивым вкусом, который в последнее время всё чаще выбирает сериалы.""",
    "ja": """この視聴者は、静かな人間ドラマと家族の物語を好み、特に二千年代の邦画に強い関心を示している。
繊細な心理描写、美しい風景、ゆったりとしたテンポを重視する。気に入った作品には、登場人物の成長と温かい余韻が共通している。
騒がしいアクションや過度な暴力表現は途中で離れる傾向がある。まとめると、落ち着いた雰囲気の作品を選ぶ視聴者である。""",
    "zh": """这位用户主要喜欢护肤类产品，尤其偏爱温和保湿的面霜和精华，价格多在中等水平。她看重天然成分、清爽质地和
淡雅香味。受好评的产品大多吸收快、不油腻，适合敏感肌肤。香味过浓或含酒精的产品往往不受欢迎。总的来说，她是一位
注重功效、愿意重复购买的理性消费者，最近开始尝试抗衰老系列。""",
    "ko": """이 시청자는 잔잔한 가족 드라마와 로맨스 영화를 특히 좋아하며 최근 십 년 사이의 한국 작품을 자주 선택한다.
섬세한 감정 묘사와 현실적인 대사, 느린 전개를 중요하게 여긴다. 좋아했던 작품들은 따뜻한 여운과 성장하는 인물을
공통으로 가진다. 지나치게 폭력적인 영화나 시끄러운 액션은 끝까지 보지 않는 편이다. 요약하면 차분한 취향의 시청자이며
앞으로도 일상을 다룬 이야기를 선택할 가능성이 크다. 새로운 감독의 작품에도 점차 관심을 보이고 있다.""",
}
ENGLISH = GOOD["en"]
RECORD: dict[str, Any] = {
    "tastes": ["dark crime thrillers", "courtroom drama"], "attributes": ["slow pace", "moral conflict"],
    "price_or_era": "the 1990s", "dislikes": ["slapstick"],
    "behaviour_over_time": "Moved from action films to quieter dramas and now explores older classics.",
    "summary": "A viewer who wants serious, well built stories and will probably turn to classic noir next."}
LOOP = "They like soft colours and soft shades of soft colours. " * 40
needs_detector = pytest.mark.skipif("not __import__('importlib').util.find_spec('py3langid')",
                                    reason="the language detector py3langid is not installed")


def gate(form: Form = "long", code: str = "en", cleaner: Cleaner | None = None, **settings: Any) -> Gate:
    return Gate(GateConfig(**{"language": False} | settings), PromptConfig(language=code), form, cleaner or Cleaner())


def record(**changes: Any) -> str:
    return json.dumps(RECORD | changes, ensure_ascii=False)


@pytest.mark.parametrize("code", GOOD)
def test_good_profiles_pass_in_every_language(code: str) -> None:
    verdict = gate(code=code).check(GOOD[code], "stop", ["Cream", "Drama"])
    assert verdict == Verdict("\n".join(line.strip() for line in GOOD[code].splitlines() if line.strip()))


@needs_detector
@pytest.mark.parametrize("code", GOOD)
def test_the_detector_knows_good_profiles_and_their_language(code: str) -> None:
    assert gate(code=code, language=True).check(GOOD[code], "stop").reason is None
    others = [other for other in GOOD if other != code]
    assert [gate(code=other, language=True).check(GOOD[code], "stop").reason for other in others] == [
        "wrong language"] * len(others)


@needs_detector
def test_the_detector_knows_all_languages_a_profile_may_be_in() -> None:
    assert set(language.detector().labels) == set(LANGUAGES)
    assert set().union(*CLOSE) <= set(LANGUAGES)


@needs_detector
@pytest.mark.parametrize("text", [
    "Summary: OPI, Essie, Maybelline, L'Oréal Paris, Garnier Fructis, Neutrogena, Aveeno, Dove, Olay, Revlon.",
    "Favours anime, shonen and kawaii stories, telenovelas, film noir, giallo, chanson and Bollywood musicals.",
    "нет"])
def test_the_detector_does_not_guess(text: str) -> None:
    assert not language.in_other_language(text, "en", 0.9)


@needs_detector
def test_the_language_of_a_record_is_that_of_its_sentences() -> None:
    russian = record(summary=GOOD["ru"][:300], behaviour_over_time="Постепенно перешёл от комедий к сериалам.")
    assert gate("short", language=True).check(russian, "stop").reason == "wrong language"
    names = record(tastes=["jidaigeki", "nouvelle vague", "telenovela"], attributes=["Weltschmerz", "saudade"])
    assert gate("short", language=True).check(names, "stop").reason is None


def test_a_missing_detector_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "py3langid", None)
    monkeypatch.setitem(sys.modules, "py3langid.langid", None)
    language.detector.cache_clear()
    with pytest.raises(MissingExtraError, match=r"'py3langid' is not installed; install it with"):
        gate(language=True).ready()
    gate(language=False).ready()
    gate(enabled=False, language=True).ready()


BAD: list[tuple[str | None, str | None, Reason]] = [
    (None, None, "empty"), ("", "stop", "empty"), ("  \n\t ", "stop", "whitespace"),
    ("\u200b\u2060\n", "stop", "whitespace"),
    ("<end_of_turn>", "stop", "whitespace"), ("**\n#\n---", "stop", "whitespace"), (None, "content_filter", "refusal"),
    ("I'm sorry, but I can't help with that request. " + ENGLISH, "stop", "refusal"),
    ("I cannot create a profile of a real person. " + ENGLISH, "stop", "refusal"),
    ("As an AI language model, I do not have personal tastes. " + ENGLISH, "stop", "refusal"),
    ("**I'm unable to write this profile.** " + ENGLISH, "stop", "refusal"),
    ("Please provide the history of the customer. " + ENGLISH, "stop", "refusal"),
    ("Es tut mir leid, aber dabei kann ich nicht helfen. " + ENGLISH, "stop", "refusal"),
    ("Je suis désolé, mais je ne peux pas vous aider. " + ENGLISH, "stop", "refusal"),
    ("Lo siento, no puedo ayudar con eso. " + ENGLISH, "stop", "refusal"),
    ("Извините, но я не могу помочь. " + ENGLISH, "stop", "refusal"),
    ("抱歉，我无法提供这样的内容。" + ENGLISH, "stop", "refusal"),
    ("申し訳ありませんが、お手伝いできません。" + ENGLISH, "stop", "refusal"),
    (LOOP, "length", "repetition"), (ENGLISH + "\n" + "soft colours " * 200, "length", "repetition"),
    ("good " * 500, "length", "repetition"), (GOOD["zh"] + "她喜欢温和的面霜和精华，" * 30, "length", "repetition"),
    ("Soap", "stop", "too short"), ("Likes soap, candles and perfume very much.", "stop", "too short"),
    ("喜欢护肤品和香水。", "stop", "too short"),
    (ENGLISH + " They loved Toy Story most.", "stop", "title leaked"),
]


@pytest.mark.parametrize(("text", "finish", "reason"), BAD)
def test_bad_texts_are_refused_with_their_reason(text: str | None, finish: str | None, reason: Reason) -> None:
    assert gate().check(text, finish, ["Toy Story (1995)"]) == Verdict(None, reason)


BAD_RECORDS: list[tuple[str | None, str, Reason]] = [
    (None, "stop", "empty"), (" ", "stop", "whitespace"), (record()[:200], "length", "cut off"),
    (" " * 500, "length", "whitespace"), ('{"tastes": [' + " " * 500, "length", "cut off"),
    ("I'm sorry, but I can't help with that.", "stop", "refusal"), ("Likes dark films.", "stop", "not the schema"),
    ("{}", "stop", "not the schema"), (record(rating=5), "stop", "not the schema"),
    (record(summary="I cannot help with writing profiles of people."), "stop", "refusal"),
    (record(summary="dark films and " * 26), "stop", "repetition"),
    (record(tastes=["x"], attributes=[], price_or_era="", dislikes=[], behaviour_over_time="x", summary="x"), "stop",
     "too short"),
    (record(tastes=["Toy Story"]), "stop", "title leaked"),
]


@pytest.mark.parametrize(("text", "finish", "reason"), BAD_RECORDS)
def test_bad_records_are_refused_with_their_reason(text: str | None, finish: str, reason: Reason) -> None:
    assert gate("short").check(text, finish, ["Toy Story (1995)"]) == Verdict(None, reason)


def test_a_whole_record_passes_and_is_rendered() -> None:
    expected = ("Tastes: dark crime thrillers, courtroom drama\nAttributes: slow pace, moral conflict\n"
                "Price or era: the 1990s\nDislikes: slapstick\nBehaviour over time: Moved from action films to quieter "
                "dramas and now explores older classics.\nSummary: A viewer who wants serious, well built stories and "
                "will probably turn to classic noir next.")
    for text, finish in ((record(), "stop"), (f"```json\n{record()}\n```", "stop"), (record(), "length")):
        assert gate("short").check(text, finish, ["Heat", "Drama"]) == Verdict(expected)


REASONING = "Okay, the user wants a profile. First there is a blanket, hmm. I should avoid titles such as Toy Story."


@pytest.mark.parametrize("text", [
    f"<think>\n{REASONING}\n</think>\n\n{ENGLISH}", f"{REASONING}\n</think>\n\n{ENGLISH}",
    f"<THINKING>{REASONING}</THINKING>{ENGLISH}", f"[THINK]{REASONING}[/THINK]{ENGLISH}",
    f"<seed:think>{REASONING}</seed:think>{ENGLISH}", f"{ENGLISH}\n<think>Was that good? {REASONING}",
    f"<think>a<think>b</think>c</think>{ENGLISH}", f"<think></think>{ENGLISH}<think>{REASONING}</think>"])
def test_reasoning_is_cut_and_counted(text: str) -> None:
    expected = gate().check(ENGLISH, "stop").text
    assert gate().check(text, "stop", ["Toy Story (1995)"]) == Verdict(expected, None, reasoning=True)


@pytest.mark.parametrize("form", ["long", "short"])
@pytest.mark.parametrize("text", [f"<think>{REASONING}", f"<think>{REASONING}</think>\n", f"{REASONING}</think>"])
def test_reasoning_without_an_answer_is_a_reason(form: Form, text: str) -> None:
    assert gate(form).check(text, "length") == Verdict(None, "only reasoning", reasoning=True)


def test_words_like_the_tags_are_no_reasoning() -> None:
    text = ENGLISH + " They think [2] thoughts of reasoning, a < b and <b>bold</b> [thinking] of it."
    assert (gate().check(text.replace("[thinking]", "thinking"), "stop").reasoning) is False


def test_a_record_is_found_behind_reasoning_and_prose() -> None:
    text = f"<think>{{}} {REASONING}</think>Here it is:\n```json\n{record()}\n```\nLet me know!"
    verdict = gate("short").check(text, "stop")
    assert verdict.text == gate("short").check(record(), "stop").text is not None and verdict.reasoning


def test_every_reason_is_met() -> None:
    met = {reason for _, _, reason in (*BAD, *BAD_RECORDS)} | {"wrong language", "only reasoning"}
    assert met == set(REASONS) == set(get_args(Reason))


def test_a_text_that_was_cut_ends_with_a_sentence() -> None:
    cut = ENGLISH + " They will prob"
    assert gate().check(cut, "length").text == gate().check(ENGLISH, "stop").text
    assert (gate().check(cut, "stop").text or "").endswith("They will prob")
    mostly_one = "A short one. " + " ".join(f"w{n}" for n in range(60))
    assert gate().check(mostly_one, "length").text == mostly_one
    assert (gate(code="zh").check(GOOD["zh"] + "她还", "length").text or "").endswith("抗衰老系列。")


def test_markup_and_control_tokens_do_not_reach_the_encoder() -> None:
    text = "## Profile\n\n**Favours:** *soft* things <end_of_turn>\n- one\n1. two " + ENGLISH + "\x1b[0m EOT"
    told = gate(cleaner=Cleaner(("EOT",))).check(text, "stop").text or ""
    assert told.startswith("Profile\nFavours: soft things\none\ntwo This customer")
    assert told.endswith("strengtheners.(0m")


class TestLeaks:
    def test_common_titles_do_not_reject_everything(self) -> None:
        common = ["Cream", "Nail Polish", "Hand Creams", "Base Coats", "Glitter"]
        assert gate().check(ENGLISH, "stop", common).reason is None

    def test_more_may_be_allowed_or_none_looked_for(self) -> None:
        text = ENGLISH + " They loved Toy Story and Star Wars."
        titles = ["Toy Story (1995)", "Star Wars"]
        assert gate(max_leaked_titles=1).check(text, "stop", titles).reason == "title leaked"
        assert gate(max_leaked_titles=2).check(text, "stop", titles).reason is None
        assert gate(max_leaked_titles=None).check(text, "stop", titles).reason is None


def test_a_gate_that_is_off_keeps_only_what_can_be_encoded() -> None:
    off = gate(enabled=False)
    assert off.check(LOOP, "length").text and off.check("Soap", "stop").text == "Soap"
    assert [off.check(text, "stop").reason for text in (None, "", " \n")] == ["empty", "empty", "whitespace"]
    short = gate("short", enabled=False)
    assert short.check("I'm sorry", "stop").reason == "not the schema"
    assert short.check(record()[:99], "length").reason == "cut off"
    assert short.check(record(summary="I'm sorry"), "stop").text


def test_settings_move_the_bounds() -> None:
    assert gate(min_words=2).check("Likes soap.", "stop").text == "Likes soap."
    assert gate(min_words=200).check(ENGLISH, "stop").reason == "too short"
    assert gate(max_repeated=1.0).check(LOOP, "stop").text
    assert gate(max_repeated=0.01).check(ENGLISH + ENGLISH, "stop").reason == "repetition"


def test_a_gate_travels() -> None:
    again = pickle.loads(pickle.dumps(gate(cleaner=Cleaner(("<bos>",)))))
    assert again.check(ENGLISH, "stop").text


@pytest.mark.parametrize("text", [
    "Loves films about robots, such as an AI that goes rogue, and stories of survival.",
    "This viewer cannot stand horror and will not watch sequels.", "Unfortunately dated comedies are not for them.",
    "Sorry heroes and anti-heroes fill the stories they like.", *GOOD.values()])
def test_what_is_no_refusal(text: str) -> None:
    assert not is_refusal(text)


@pytest.mark.parametrize(("text", "words"), [
    ("", 0), ("one, two; it's three-four", 5), ("温和保湿的面霜", 3), ("温和 cream", 2), ("조용한 영화", 2)])
def test_words_are_counted_in_every_script(text: str, words: int) -> None:
    assert word_count(text) == words


def test_repetition_is_a_share() -> None:
    words = [f"w{n}" for n in range(19)]
    assert repeated_share(" ".join(words)) == 0
    assert repeated_share(" ".join(words + words)) == 1 - 19 / 35
    assert repeated_share("a b c") == 0
    late_loop = [f"w{n}" for n in range(300)] + ["soft", "colours"] * 40
    assert repeated_share(" ".join(late_loop)) == 1 - 2 / 57
    assert max(map(repeated_share, GOOD.values())) < 0.1
