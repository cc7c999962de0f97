"""The keywords engine: features of a catalogue, what is told of a user, and what never is."""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipeline.profile import candidates, catalogue, fields, keywords, tokens
from pipeline.profile.features import ItemFeatures, Kind
from pipeline.profile.histories import Histories
from pipeline.profile.keywords import KeywordsWriter
from pipeline.store.columns import CATEGORY, FIELDS, ITEMS, SIGNALS, TITLE, USER_IDX

NAN = float("nan")
Item = tuple[str | None, str | None, dict[str, str]]
PERFUMES: list[Item] = [
    ("Rose water of May", "Perfume", {"price": "10"}),
    ("Rose water and musk", "Perfume", {"price": "20"}),
    ("Musk and amber", "Perfume", {"price": "30"}),
    ("Amber soap", "Soap", {"price": "40"}),
    ("Plain soap 250 ml", "Soap", {"price": "1"}),
    ("Cedar candle", "Candle", {"year": "1994"}),
    ("Cedar and plain candle", "Candle", {"year": "1999"}),
    ("Solitaire", "Candle", {}),
    ("May", "Perfume", {}),
    (None, None, {}),
]


def features_of(items: list[Item], folder: Path) -> ItemFeatures:
    texts = pa.array([list(told.items()) for _, _, told in items], pa.map_(pa.string(), pa.string()))
    catalogue.build([pa.record_batch({
        TITLE: pa.array([title for title, _, _ in items], pa.string()),
        CATEGORY: pa.array([category for _, category, _ in items], pa.string()), FIELDS: texts})], folder)
    return ItemFeatures.open(folder)


def histories_of(*users: list[tuple[int, float]]) -> Histories:
    signals = [[None if math.isnan(signal) else signal for _, signal in user] for user in users]
    return Histories.from_table(pa.table({
        USER_IDX: np.arange(len(users)),
        ITEMS: pa.array([[item for item, _ in user] for user in users], pa.list_(pa.int32())),
        SIGNALS: pa.array(signals, pa.list_(pa.float32()))}))


@pytest.fixture(scope="module")
def perfumes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("features")
    features_of(PERFUMES, folder)
    return folder


def profile_of(folder: Path, user: list[tuple[int, float]], form: str = "long", liked_signal: float | None = None,
               max_terms: int = 24) -> str:
    writer = KeywordsWriter(folder, max_terms, form, liked_signal)  # type: ignore[arg-type]
    draft, = writer.write(histories_of(user), "overall")
    assert draft.text is not None and draft.reason is None
    return draft.text


def test_features_are_the_words_phrases_and_values_that_items_share(perfumes: Path) -> None:
    items = ItemFeatures.open(perfumes)
    by_kind = {kind: {label for label, k in zip(items.labels.to_pylist(), items.kind_F, strict=True) if k == kind}
               for kind in Kind}
    assert by_kind[Kind.TERM] == {"rose", "water", "rose water", "musk", "amber", "plain", "cedar", "candle", "soap",
                                  "may"}
    assert by_kind[Kind.CATEGORY] == {"perfume", "soap", "candle"}
    assert by_kind[Kind.DECADE] == {"1990s"}


def test_features_do_not_depend_on_how_many_items_are_worked_on_at_once(
        perfumes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A portion of three tokens, values and items cuts between every two items, and holds an item that is longer."""
    monkeypatch.setattr(candidates, "_PORTION", 3)
    features_of(PERFUMES, tmp_path)
    for name in ("items.arrow", "features.arrow"):
        assert (tmp_path / name).read_bytes() == (perfumes / name).read_bytes()


@pytest.mark.parametrize("portion", [1, 40, 1_000_000])
@pytest.mark.parametrize("seed", range(4))
def test_features_are_those_of_a_slow_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, portion: int
                                            ) -> None:
    """Beside sets and dicts: which words, phrases and categories there are, in how many items, and whose they are."""
    monkeypatch.setattr(candidates, "_PORTION", portion)
    rng = np.random.default_rng(seed)
    words = ["rose", "roses", "musk", "amber", "soap", "the", "250", "oil"]
    titles = [" ".join(rng.choice(words, rng.integers(0, 6))) for _ in range(30)]
    categories = [str(rng.choice(["Perfume", "Soap", "Bath"])) if rng.random() < 0.7 else None for _ in titles]
    items = features_of([(title, category, {}) for title, category in zip(titles, categories, strict=True)], tmp_path)

    told = [[{"roses": "rose"}.get(word, word) if word not in ("the", "250") else None for word in title.split()]
            for title in titles]
    in_words = [{word for word in each if word} for each in told]
    in_pairs = [{pair for pair in itertools.pairwise(each) if all(pair) and pair[0] != pair[1]} for each in told]
    of_word = Counter(word for each in in_words for word in each)
    of_pair = Counter(pair for each in in_pairs for pair in each)
    of_category = Counter(category.lower() for category in categories if category)
    expected = {(Kind.TERM, word): n for word, n in of_word.items() if 2 <= n <= 15}
    expected |= {(Kind.TERM, " ".join(pair)): n for pair, n in of_pair.items()
                 if max(2, 0.1 * min(of_word[word] for word in pair)) <= n <= 15}
    expected |= {(Kind.CATEGORY, category): n for category, n in of_category.items() if n >= 2}
    names = list(zip(items.kind_F.tolist(), items.labels.to_pylist(), strict=True))
    assert dict(zip(names, items.count_F.tolist(), strict=True)) == expected
    assert names == sorted(expected)
    for item, (each, pairs, category) in enumerate(zip(in_words, in_pairs, categories, strict=True), 1):
        own = ({(Kind.TERM, word) for word in each} | {(Kind.TERM, " ".join(pair)) for pair in pairs}
               | {(Kind.CATEGORY, str(category).lower())})
        listed = items.features_E[items.offsets_I[item]:items.offsets_I[item + 1]].tolist()
        assert [names[feature] for feature in listed] == sorted(own & expected.keys())


def test_a_catalogue_of_values_alone_and_one_of_nothing_have_their_features(tmp_path: Path) -> None:
    items = features_of([(None, "Soap", {}), (None, "Soap", {}), (None, None, {})], tmp_path)
    assert items.labels.to_pylist() == ["soap"] and items.offsets_I.tolist() == [0, 0, 1, 2, 2]
    assert features_of([(None, None, {})], tmp_path).labels.to_pylist() == []


def test_a_feature_weighs_by_its_rarity_smoothed_for_few_items(perfumes: Path) -> None:
    items = ItemFeatures.open(perfumes)
    weight = dict(zip(zip(items.kind_F.tolist(), items.labels.to_pylist(), strict=True), items.weight_F, strict=True))
    assert weight[Kind.TERM, "musk"] == pytest.approx(math.log(1 + 10 / 2) * 2 / (2 + 5))
    assert weight[Kind.CATEGORY, "perfume"] == pytest.approx(math.log(1 + 10 / 4) * 4 / (4 + 5))


def test_price_level_is_the_mid_rank_among_known_prices_of_the_market(tmp_path: Path) -> None:
    items = features_of([
        ("a", None, {"price": "$5.00", "locale": "UK"}), ("b", None, {"price": "1,500", "locale": "JP"}),
        ("c", None, {"price": "7", "locale": "UK"}), ("d", None, {"locale": "UK"})], tmp_path)
    np.testing.assert_allclose(items.price_I[1:], [(0 + 1) / (2 * 2), (0 + 1) / (2 * 1), (1 + 2) / (2 * 2), NAN])


def test_a_known_name_or_short_recurring_values_give_a_field_its_role() -> None:
    sample = [{"brand": f"house {n % 3}", "genres": "War|Drama", "blurb": f"a long line of words about item {n}",
               "Price": "3", "title": "x"} for n in range(12)]
    roles = fields.roles(sample)
    assert roles == {"brand": fields.Role.ATTRIBUTE, "genres": fields.Role.CATEGORY, "blurb": fields.Role.PROSE,
                     "Price": fields.Role.PRICE, "title": fields.Role.UNUSED}
    assert fields.parts("War|Sci-Fi, 'Drama'") == ["war", "sci-fi", "drama"]
    assert fields.decade(None, "Heat (1995)") == "1990s" and fields.decade("2007-05-01", None) == "2000s"
    assert fields.field_noun("countries") == "country" and fields.field_noun("studios") == "studio"


def test_numbers_stop_words_and_template_tokens_are_no_words() -> None:
    text = "<start_of_turn>Ignore 250 ml of the “rose”-water <|im_end|> {\"a\": 1}"
    words = [word for segment in tokens.segments(text) for word in map(tokens.clean, segment) if word]
    assert words == ["ignore", "rose", "water"]


def test_japanese_text_is_cut_where_the_script_changes() -> None:
    words = [word for segment in tokens.segments("天然ローズの石鹸") for word in map(tokens.clean, segment) if word]
    assert words == ["天然", "ローズ", "石鹸"]


def test_liked_and_disliked_are_told_apart_by_the_users_mean(perfumes: Path) -> None:
    favours, _, liked, disliked, _ = profile_of(perfumes, [(1, 5.0), (2, 5.0), (6, 1.0), (7, 1.0)]).split("\n")
    assert "rose water" in favours.lower() and "perfume" in favours and "cedar" not in favours
    assert "cedar" in disliked.lower() and "rose" not in disliked.lower()
    assert "cedar" not in liked.lower()


def test_a_fixed_threshold_overrides_the_mean(perfumes: Path) -> None:
    user = [(1, 3.0), (2, 3.0), (6, 1.0), (7, 1.0)]
    assert "cedar" in profile_of(perfumes, user).split("\n")[3]
    assert profile_of(perfumes, user, liked_signal=1.0).split("\n")[3] == "The less liked things share nothing."
    assert "rose" in profile_of(perfumes, user, liked_signal=4.0).split("\n")[3].lower()


def test_without_signals_there_are_no_dislikes_and_the_shared_words_are_told(perfumes: Path) -> None:
    _, _, shared, disliked, _ = profile_of(perfumes, [(2, NAN), (3, NAN)], max_terms=6).split("\n")
    assert disliked == "No dislikes are known."
    assert shared.endswith(("what several choices share.", "share nothing more."))


def test_recent_words_are_those_of_the_latest_third(tmp_path: Path) -> None:
    before, after = ["pear", "plum", "peach", "melon", "lemon", "grape"], ["oak", "elm", "ash"]
    features_of([(f"{word} thing", None, {}) for word in before + after for _ in range(2)], tmp_path)
    user = [(2 * n + 1, NAN) for n in range(9)]
    over_time = profile_of(tmp_path, user, form="short", max_terms=12).split("\n")[4]
    told = re.fullmatch(r"Behaviour over time: lately (\w+); before that (\w+); wide-ranging", over_time)
    assert told is not None and told.group(1) in after and told.group(2) in before
    assert "lately" not in profile_of(tmp_path, user[6:])


def test_coming_back_to_the_same_items_is_told(perfumes: Path) -> None:
    assert "often comes back to the same things" in profile_of(perfumes, [(1, NAN), (2, NAN), (1, NAN), (2, NAN)])
    assert "comes back" not in profile_of(perfumes, [(1, NAN), (2, NAN)])


def test_price_and_decade_are_told(perfumes: Path) -> None:
    text = profile_of(perfumes, [(4, NAN), (3, NAN), (6, NAN)], form="short")
    assert "Price or era: expensive; 1990s" in text


@pytest.mark.parametrize("form", ["long", "short"])
def test_no_title_no_rating_and_no_more_words_than_allowed(perfumes: Path, form: str) -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        user = [(int(i) + 1, float(s)) for i, s in zip(rng.integers(0, 9, 6), rng.integers(1, 6, 6), strict=True)]
        text = profile_of(perfumes, user, form=form).lower()
        for item, _ in user:
            title = str(PERFUMES[item - 1][0]).lower()
            assert not re.search(rf"\b{re.escape(title)}\b", text), (title, text)
        assert not re.search(r"\d", text.replace("1990s", ""))
    told = profile_of(perfumes, [(n, NAN) for n in range(1, 8)], form="short", max_terms=3)
    tastes = told.split("\n")[0].removeprefix("Tastes: ").split("; ")[0].split(", ")
    assert len(tastes) <= 3


def test_a_word_that_is_the_title_of_a_met_item_is_not_told(perfumes: Path) -> None:
    assert "may" not in profile_of(perfumes, [(9, NAN), (1, NAN), (2, NAN)]).lower().replace("mayb", "")
    assert "may" in profile_of(perfumes, [(1, NAN), (2, NAN)]).lower()


def test_long_has_five_paragraphs_and_short_six_fields(perfumes: Path) -> None:
    user = [(1, 5.0), (4, 2.0), (6, 3.0)]
    assert len(profile_of(perfumes, user).split("\n")) == 5
    names = [line.split(": ")[0] for line in profile_of(perfumes, user, form="short").split("\n")]
    assert names == ["Tastes", "Attributes", "Price or era", "Dislikes", "Behaviour over time", "Summary"]


def test_a_user_of_textless_items_is_rejected_with_the_reason(perfumes: Path) -> None:
    drafts = KeywordsWriter(perfumes, 24, "long", None).write(histories_of([(10, 5.0)], [(1, 5.0)]), "overall")
    assert drafts[0].text is None and drafts[0].reason == "no item text"
    assert drafts[1].text is not None


def test_a_users_text_does_not_depend_on_the_batch(perfumes: Path) -> None:
    rng = np.random.default_rng(1)
    users = [[(int(i) + 1, float(s)) for i, s in zip(rng.integers(0, 9, n), rng.integers(1, 6, n), strict=True)]
             for n in rng.integers(1, 12, 40)]
    writer = KeywordsWriter(perfumes, 24, "long", None)
    together = [draft.text for draft in writer.write(histories_of(*users), "overall")]
    assert together == [writer.write(histories_of(user), "overall")[0].text for user in users]


def test_long_histories_are_worked_on_in_portions_with_the_same_texts(perfumes: Path,
                                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    users = [[(n % 9 + 1, NAN) for n in range(length)] for length in (3, 400, 1, 7, 90)]
    writer = KeywordsWriter(perfumes, 24, "long", None)
    whole = writer.write(histories_of(*users), "overall")
    monkeypatch.setattr(keywords, "_MAX_PAIRS", 50)
    assert len(writer._portions(histories_of(*users))) == 3
    assert writer.write(histories_of(*users), "overall") == whole


def test_item_order_does_not_change_a_text(tmp_path: Path, perfumes: Path) -> None:
    order = [6, 2, 8, 0, 9, 4, 1, 7, 5, 3]
    features_of([PERFUMES[n] for n in order], tmp_path)
    user = [(1, 5.0), (2, 4.0), (4, 1.0), (6, 3.0), (7, 2.0)]
    renamed = [(order.index(item - 1) + 1, signal) for item, signal in user]
    assert profile_of(tmp_path, renamed) == profile_of(perfumes, user)


def test_angles_cut_the_history() -> None:
    histories = histories_of([(1, 1.0), (2, 5.0), (3, 5.0), (4, NAN)], [(5, NAN)], [])
    assert histories.angle("recent").items_M.tolist() == [3, 4, 5]  # ceil(4 / 3) = 2 and ceil(1 / 3) = 1
    assert histories.angle("favourites").items_M.tolist() == [2, 3]
    assert histories.angle("favourites").lengths_N.tolist() == [2, 0, 0]
    assert histories.last(2).items_M.tolist() == [3, 4, 5]
    assert histories.take(np.array([False, True, True])).users_N.tolist() == [1, 2]


def test_a_catalogue_without_any_text_has_no_features(tmp_path: Path) -> None:
    items = features_of([(None, None, {}), ("", None, {})], tmp_path)
    assert len(items.kind_F) == 0
    draft, = KeywordsWriter(tmp_path, 24, "long", None).write(histories_of([(1, NAN)]), "overall")
    assert draft.reason == "no item text"
