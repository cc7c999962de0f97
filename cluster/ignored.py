"""What Ray leaves out of the folder that it uploads with a job, by Ray's own rules and matcher."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Iterable
from functools import cache, partial
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

ALWAYS = (".git", ".venv", "venv", "__pycache__")
"""Left out wherever they lie, unless the environment names others."""
_OTHERS = "RAY_OVERRIDE_RUNTIME_ENV_DEFAULT_EXCLUDES"
_NO_GITIGNORE = "RAY_RUNTIME_ENV_IGNORE_GITIGNORE"
_MATCHER = "mentorec_rays_pathspec"


def left_out(file: Path, folder: Path) -> bool:
    """Whether a file below the uploaded folder stays behind.

    As ``ray._private.runtime_env.packaging`` walks: the ignore files of the folder itself and of those on the way to
    the file count, each for what lies below it, and none takes back what another names.
    """
    patterns = _patterns()
    if patterns is None:  # without Ray nothing is uploaded
        return False
    names = [".rayignore"] if os.environ.get(_NO_GITIGNORE) == "1" else [".gitignore", ".rayignore"]
    rules = [(folder, patterns(filter(None, map(str.strip, os.environ.get(_OTHERS, ",".join(ALWAYS)).split(",")))))]
    inside = file.relative_to(folder)
    for path in (folder / step for step in reversed((inside, *inside.parents))):
        for ignore_file in (path / name for name in names):
            if ignore_file.is_file():
                with ignore_file.open(errors="replace") as lines:
                    rules.append((path, patterns(lines)))
        if any(rule.match_file(str(path.relative_to(below))) for below, rule in rules):
            return True
    return False


@cache
def _patterns() -> Callable[[Iterable[str]], Any] | None:
    """Makes a matcher of an ignore file's lines; None: there is no Ray.

    It is loaded from among Ray's files, without Ray: a dry run does not import that.
    """
    ray = PathFinder.find_spec("ray")
    if ray is None or ray.origin is None:
        return None
    code = Path(ray.origin).parent / "_private" / "thirdparty" / "pathspec" / "__init__.py"
    spec = importlib.util.spec_from_file_location(_MATCHER, code, submodule_search_locations=[str(code.parent)])
    if spec is None or spec.loader is None:
        return None
    module = sys.modules[_MATCHER] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return partial(module.PathSpec.from_lines, "gitwildmatch")
