"""Reading, overriding, validating and dumping configurations."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, model_validator

from configs import yaml12
from configs.base import Config
from configs.errors import ConfigError
from configs.files import assign, flatten, merge, read_yaml, resolve_path
from configs.loader import dump, json_schema, load


class Circle(Config):
    kind: Literal["circle"] = "circle"
    radius: float = Field(default=1.0, gt=0)


class Square(Config):
    kind: Literal["square"] = "square"
    side: float
    corners: tuple[str, ...] = ()


class Paint(Config):
    colour: str = "red"
    layers: int = 1


class Drawing(Config):
    name: str = "d"
    shape: Annotated[Circle | Square, Field(discriminator="kind")] = Circle()
    paint: Paint = Paint()
    limit: float | None = None
    column: str | Annotated[int, Field(ge=1)] = 1
    columns: tuple[int, ...] | dict[str, int] = ()
    execution: Paint = Paint()

    @model_validator(mode="after")
    def _fits(self) -> Drawing:
        if self.paint.layers > 9:
            raise ValueError("at most 9 layers fit")
        return self


def _file(folder: Path, text: str, name: str = "c.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-3", 1e-3), ("1E6", 1e6), ("5.", 5.0), (".5", 0.5), ("-2", -2), ("010", 10), ("0x1F", 31), ("0o17", 15),
     ("1_000", "1_000"), ("1:30", "1:30"), ("2020-01-01", "2020-01-01"), ("no", "no"), ("off", "off"), ("NO", "NO"),
     ("true", True), ("False", False), ("null", None), ("~", None), ("", None), ("=", "="), ("'7'", "7"),
     ("[1, 2]", [1, 2]), ("{a: 1e2}", {"a": 100.0})],
)
def test_plain_scalars_are_read_as_yaml_1_2(tmp_path: Path, text: str, value: object) -> None:
    read = read_yaml(_file(tmp_path, f"a: {text}\n"))["a"]
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(("text", "written"), [
    ("/plain/path", "/plain/path"), ("s3://bucket/a", "s3://bucket/a"), ("ü/😀", "ü/😀"), ("run #3", '"run #3"'),
    ("a: b", '"a: b"'), ("5", '"5"'), ("", '""'), (" a\n", '" a\\n"'), ("😀 #1", '"\\U0001F600 #1"'),
    ("\x7f", '"\\x7F"'), ("long #" + " b" * 99, '"long #' + " b" * 99 + '"')])
def test_a_text_on_one_line_is_read_back(text: str, written: str) -> None:
    assert yaml12.inline(text) == written and yaml12.parse(written) == text


def test_merge_keys_and_a_byte_order_mark_are_read(tmp_path: Path) -> None:
    assert read_yaml(_file(tmp_path, "\ufeffx: &x {k: 1, l: 2}\ny:\n  <<: *x\n  l: 3\n"))["y"] == {"k": 1, "l": 3}


def test_an_empty_file_is_an_empty_mapping(tmp_path: Path) -> None:
    assert load(Drawing, _file(tmp_path, "# nothing\n")) == Drawing()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [("a: 1\na: 2\n", "key 'a' stands twice"), ("- 1\n", "got a list"), ("a: [1\n", "not valid YAML"),
     ("a: 1\n---\nb: 2\n", "not valid YAML"),
     ("extends: [1]\n", r"takes a relative path or a list of them, got \[1\]"),
     ("extends: nowhere.yaml\n", "no configuration file"), ("extends: c.yaml\n", "deeper than 8")],
)
def test_a_bad_file_is_one_line(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint) as caught:
        read_yaml(_file(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_utf_16_names_the_byte(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_bytes("a: 1".encode("utf-16"))
    with pytest.raises(ConfigError, match="not UTF-8 at byte 0"):
        read_yaml(path)


def test_yaml_makes_no_python_objects(tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    with pytest.raises(ConfigError, match="not valid YAML"):
        read_yaml(_file(tmp_path, f"a: !!python/object/apply:os.mkdir ['{touched}']\n"))
    assert not touched.exists()


def test_extends_merges_groups_and_replaces_another_kind_whole(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    _file(tmp_path, "name: base\nshape: {kind: circle, radius: 3}\npaint: {colour: blue}\n", "base.yaml")
    path = _file(tmp_path / "sub", "extends: ../base.yaml\nshape: {kind: square, side: 2}\npaint: {layers: 4}\n")
    drawing = load(Drawing, path)
    assert drawing == Drawing(name="base", shape=Square(side=2), paint=Paint(colour="blue", layers=4))


def test_of_several_extended_files_the_later_wins(tmp_path: Path) -> None:
    _file(tmp_path, "name: first\nlimit: 1\npaint: {colour: blue, layers: 1}\n", "first.yaml")
    _file(tmp_path, "limit: 2\npaint: {layers: 2}\n", "second.yaml")
    assert read_yaml(_file(tmp_path, "extends: [first.yaml, second.yaml]\npaint: {layers: 3}\n")) == {
        "name": "first", "limit": 2, "paint": {"colour": "blue", "layers": 3}}
    assert read_yaml(_file(tmp_path, "extends: [second.yaml, first.yaml]\n"))["limit"] == 1


def test_merge_keeps_what_the_top_does_not_say() -> None:
    assert merge({"a": {"x": 1, "y": 2}, "b": 3}, {"a": {"y": 5}}) == {"a": {"x": 1, "y": 5}, "b": 3}
    assert merge({"kind": "k", "x": 1}, {"kind": "k", "y": 2}) == {"kind": "k", "x": 1, "y": 2}
    assert merge({"kind": "k", "x": 1}, {"kind": "l", "y": 2}) == {"kind": "l", "y": 2}


def test_overrides_are_applied_in_order(tmp_path: Path) -> None:
    path = _file(tmp_path, "paint: {layers: 2, colour: green}\n")
    drawing = load(Drawing, path, ["paint.layers=3", "limit=1e-2", "paint.layers=4", "name='7'"])
    assert drawing == Drawing(name="7", paint=Paint(colour="green", layers=4), limit=1e-2)
    assert load(Drawing, path, ["limit=2", "limit="]).limit is None


def test_an_override_reaches_into_an_empty_group() -> None:
    """As `dump` writes one that is off."""
    values: dict[str, Any] = {"train": {"item_init": None}, "model": None}
    for assignment in ("train.item_init.kind=text", "model.dropout=0.2"):
        assign(values, assignment)
    assert values == {"train": {"item_init": {"kind": "text"}}, "model": {"dropout": 0.2}}


def test_an_override_changes_no_alias_of_its_group(tmp_path: Path) -> None:
    values = read_yaml(_file(tmp_path, "a: &both {train: {lr: 0.1}, tags: [&one {x: 1}, *one]}\nb: *both\n"))
    assign(values, "a.train.lr=0.2")
    assert (values["a"]["train"]["lr"], values["b"]["train"]["lr"]) == (0.2, 0.1)
    assert values["b"]["tags"] == [{"x": 1}] * 2
    with pytest.raises(ConfigError, match="an anchor holds an alias of itself"):
        read_yaml(_file(tmp_path, "a: &all {b: *all}\n"))


@pytest.mark.parametrize("overrides", [["shape.side=2", "shape.kind=square"], ["shape.kind=square", "shape.side=2"]])
def test_a_kind_override_replaces_the_group_wherever_it_stands(tmp_path: Path, overrides: list[str]) -> None:
    path = _file(tmp_path, "shape: {kind: circle, radius: 3}\n")
    assert load(Drawing, path, overrides).shape == Square(side=2)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [(["paint.layers"], "override 'paint.layers': expected key.path=value, for example train.alpha=0.6"),
     (["=3"], "override '=3': expected key.path=value, for example train.alpha=0.6"),
     (["name=x", "name.first=y"], "override 'name.first=y': 'name' is a value, not a group of settings"),
     (["paint.colr=x"], "unknown setting 'paint.colr'; did you mean 'colour'?"),
     (["paint.zzz=x"], "unknown setting 'paint.zzz'; legal: colour, layers"),
     (["shape={kind: circle, radios: 2}"], "unknown setting 'shape.radios'; did you mean 'radius'?"),
     (["shape={kind: square, sid: 2}"], "unknown setting 'shape.sid'; did you mean 'side'? (and 1 more)"),
     (["shape={kind: circle, radius: 0}"], "shape.radius: got 0; legal: more than 0"),
     (["shape={kind: square}"], "shape.side: this setting is required"),
     (["shape={kind: square, side: 1, corners: [2]}"], "shape.corners.0: got 2; legal: text; write it in quotes"),
     (["shape={kind: square, side: 1, corners: 2}"], "shape.corners: got 2; legal: a list, such as [1, 2]"),
     (["paint.layers=two"], "paint.layers: got 'two'; legal: a whole number"),
     (["paint.layers=1.5"], "paint.layers: got 1.5; legal: a whole number"),
     (["shape.radius=2"], "shape: `kind` is missing; legal: circle, square; add shape.kind=…"),
     (["shape.kind=blob"], "shape.kind: got 'blob'; legal: 'circle', 'square'"),
     (["paint.layers=10"], "the configuration: at most 9 layers fit"),
     (["column=0"], "column: got 0; legal: 1 or more"),
     (["column=1.5"], "column: got 1.5; legal: a whole number, or text; write it in quotes"),
     (["column=[x]"], "column: got ['x']; legal: a whole number, or text; write it in quotes"),
     (["column=null"], "column: got None; legal: a whole number, or text; write it in quotes"),
     (["column={a: 1}"], "column: got a group of settings; legal: a whole number, or text; write it in quotes"),
     (["columns=3"], "columns: got 3; legal: a group of settings, one `key: value` per line, or a list, such as [1, 2]"
      ),
     (["limit=.nan"], "limit: got nan; legal: a finite number"),
     (["name=7"], "name: got 7; legal: text; write it in quotes"),
     (["paint=3"], "paint: got 3; legal: a group of settings, one `key: value` per line")],
)
def test_a_bad_value_names_what_is_legal(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(Drawing, None, overrides)
    assert str(caught.value) == message


def test_the_file_is_named_in_the_error(tmp_path: Path) -> None:
    path = _file(tmp_path, "paint: {colr: 1}\n")
    with pytest.raises(ConfigError, match=f"in {path}; did you mean"):
        load(Drawing, path)


def test_shipped_files_are_found_by_name_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert resolve_path("configs/demo.yaml") == resolve_path("demo.yaml") == resolve_path("demo")
    with pytest.raises(ConfigError, match=r"did you mean .*demo\.yaml"):
        resolve_path("configs/dmo.yaml")
    assert resolve_path("audit/ml-1m-qwen2.5-1.5b") == resolve_path("audit/ml-1m-qwen2.5-1.5b.yaml")
    for other in ("demo.local", "demo.txt", "configs/demo.yml"):  # a file that is missing, not the shipped one
        with pytest.raises(ConfigError, match=f"no configuration file '{other}'"):
            resolve_path(other)


def test_a_local_file_comes_before_a_shipped_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    _file(tmp_path, "name: mine\n", "demo.yaml")
    assert read_yaml("demo.yaml") == {"name": "mine"}


@given(st.builds(
    Drawing, name=st.text(), limit=st.none() | st.floats(allow_nan=False, allow_infinity=False),
    paint=st.builds(Paint, colour=st.text(), layers=st.integers(-(10**6), 9)),
    shape=st.builds(Circle, radius=st.floats(min_value=1e-300, max_value=1e300))
    | st.builds(Square, side=st.floats(allow_nan=False, allow_infinity=False),
                corners=st.lists(st.text(), max_size=3).map(tuple))))
def test_what_is_dumped_loads_to_the_same(tmp_path_factory: pytest.TempPathFactory, drawing: Drawing) -> None:
    path = tmp_path_factory.mktemp("dump") / "c.yaml"
    path.write_text(dump(drawing), encoding="utf-8", newline="")
    assert load(Drawing, path) == drawing


@pytest.mark.parametrize(
    "word", ["1e-3", "010", "0o17", "1_000", "1:30", "2020-01-01", "no", "true", "null", "~", ".inf"])
def test_words_that_look_like_other_things_survive_a_dump(tmp_path: Path, word: str) -> None:
    drawing = Drawing(name=word)
    assert load(Drawing, _file(tmp_path, dump(drawing))) == drawing


def test_the_key_leaves_execution_out_at_any_depth() -> None:
    class Outer(Config):
        inner: Drawing = Drawing()
        listed: tuple[Drawing, ...] = (Drawing(),)

    changed = Drawing(execution=Paint(layers=5))
    assert Outer(inner=changed, listed=(changed,)).key() == Outer().key()
    assert Outer(inner=Drawing(paint=Paint(layers=5))).key() != Outer().key()


def test_a_mapping_may_have_a_key_named_execution() -> None:
    class Outer(Config):
        sizes: dict[str, int] = {}
        named: dict[str, Drawing] = {}

    assert Outer(sizes={"execution": 40}).key()["sizes"] == {"execution": 40}
    base = Outer(named={"execution": Drawing()})
    assert set(base.key()["named"]) == {"execution"}
    assert Outer(named={"execution": Drawing(execution=Paint(layers=5))}).key() == base.key()
    assert Outer(named={"execution": Drawing(paint=Paint(layers=5))}).key() != base.key()


def test_flatten_names_leaves_and_keeps_lists_whole() -> None:
    assert flatten({"a": {"b": 1, "c": {"d": [1, 2]}}, "e": {}}) == {"a.b": 1, "a.c.d": [1, 2], "e": {}}


def test_the_json_schema_carries_the_docstrings() -> None:
    class Documented(Config):
        steps: int = 1
        """How many steps."""

    assert '"description": "How many steps."' in json_schema(Documented)
