"""The entry point, ``mentorec`` and ``python -m pipeline``: first of all, are our packages the ones that are found?"""

from __future__ import annotations

import sys
from importlib.machinery import PathFinder
from pathlib import Path

_CODE = Path(__file__).resolve().parents[1]
_PACKAGES = ("cluster", "configs", "models", "pipeline", "tuning")


def main() -> None:
    """Run the command line; exit code 2 where other code stands in place of a package of ours."""
    for name in _PACKAGES:
        other = _in_our_place(name)
        if other is not None:
            print(f"error: {other} is found before mentorec's own package {name!r}; rename it, or take {other.parent} "
                  "off PYTHONPATH, the working folder or the job's upload", file=sys.stderr)
            sys.exit(2)
    from pipeline.commands.cli import main as run

    run()


def _in_our_place(name: str) -> Path | None:
    """The folder or file that ``import name`` would take instead of ours."""
    spec = PathFinder.find_spec(name)
    if spec is None:  # found by other means, as where the sources are installed as they are
        return None
    found = [Path(spec.origin)] if spec.origin else [Path(folder) for folder in spec.submodule_search_locations or ()]
    place = found[0].parent if found and found[0].name == "__init__.py" else found[0]
    return None if place.resolve() == _CODE / name else place


if __name__ == "__main__":
    main()
