"""Who may import whom, read from the source; and which modules must stay light at import time."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

ALLOWED = {
    "configs": {"configs"},
    "models": {"configs", "models"},
    "cluster": {"configs", "cluster"},
    "pipeline": {"configs", "models", "cluster", "pipeline"},
    "tuning": {"configs", "models", "cluster", "pipeline", "tuning"},
}
"""Folder → our folders that it may import."""

COMPOSITION_ROOT = "pipeline/commands/cli.py"
"""The only module of `pipeline` that may import `tuning`, and only inside a command's function."""

HEAVY = {"torch", "ray", "polars", "sentence_transformers", "umap", "matplotlib", "scipy", "sklearn", "vllm",
         "transformers", "optuna", "cuml", "pandas"}

LIGHT = [
    *(str(path.relative_to(ROOT)) for folder in ALLOWED for path in (ROOT / folder).rglob("*.py")
      if path.name in ("config.py", "definition.py", "keys.py", "__init__.py")),
    *(str(path.relative_to(ROOT)) for folder in ("cluster", "configs") for path in (ROOT / folder).glob("*.py")),
    *(f"pipeline/{name}.py" for name in (
        "__main__", "config", "describe", "family", "plan", "run", "stage", "stages", "commands/answering",
        "commands/cli", "commands/clean", "commands/invocation", "commands/jobs", "commands/looking",
        "commands/options", "commands/outcome", "commands/runs", "commands/show", "commands/status", "prove/controls",
        "prove/proof", "store/artifacts", "store/columns", "store/digests",
        "store/leases", "work/progress", "work/text")),
]
"""Modules that --help, --dry-run and config errors go through."""

FILES = sorted(str(path.relative_to(ROOT)) for folder in ALLOWED for path in (ROOT / folder).rglob("*.py"))


def _imports(path: str) -> Iterator[tuple[str, bool]]:
    """(dotted module, whether it stands inside a function) of every import; TYPE_CHECKING blocks are left out."""
    yield from _walk(ast.parse((ROOT / path).read_text(encoding="utf-8")), inside=False)


def _walk(node: ast.AST, inside: bool) -> Iterator[tuple[str, bool]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            continue
        if isinstance(child, ast.Import):
            yield from ((alias.name, inside) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, "relative import"
            yield child.module or "", inside
        yield from _walk(child, inside or isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)))


@pytest.mark.parametrize("path", FILES)
def test_imports_point_one_way(path: str) -> None:
    folder = path.partition("/")[0]
    for module, inside in _imports(path):
        top = module.partition(".")[0]
        if top in ALLOWED and not (path == COMPOSITION_ROOT and top == "tuning" and inside):
            assert top in ALLOWED[folder], f"{path} imports {module}"
        assert top != "tests", f"{path} imports {module}"


@pytest.mark.parametrize("path", [path for path in FILES if path.startswith("models/")])
def test_models_know_no_ray_and_no_files(path: str) -> None:
    assert not {module.partition(".")[0] for module, _ in _imports(path)} & {"ray", "pyarrow", "polars", "safetensors"}


@pytest.mark.parametrize("path", sorted(set(LIGHT)))
def test_light_modules_import_nothing_heavy_at_the_top(path: str) -> None:
    at_import = {module.partition(".")[0] for module, inside in _imports(path) if not inside}
    assert not at_import & HEAVY


def test_the_walk_sees_what_it_must(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "m.py").write_text(
        "import a.b\nfrom c import d\nif TYPE_CHECKING:\n    import e\n"
        "class X:\n    import f\n    def g(self):\n        from h.i import j\n"
        "try:\n    import k\nexcept E:\n    raise\n")
    monkeypatch.setattr(f"{__name__}.ROOT", tmp_path)
    assert list(_imports("m.py")) == [("a.b", False), ("c", False), ("f", False), ("h.i", True), ("k", False)]


def test_every_package_is_shipped() -> None:
    """`pip install` takes the packages that setuptools finds; a folder without ``__init__.py`` would stay behind."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    found = {str(path.parent.relative_to(ROOT)).replace("/", ".") for folder in ALLOWED
             for path in (ROOT / folder).rglob("__init__.py")}
    with_code = {str(Path(path).parent).replace("/", ".") for path in FILES}
    assert with_code == found
    assert all(any(fnmatch(name, pattern) for pattern in settings["packages"]["find"]["include"]) for name in found)
