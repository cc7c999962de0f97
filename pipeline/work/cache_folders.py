"""Where the hub's cache lies, the same for every process. Imports nothing heavy: every command begins here."""

from __future__ import annotations

import os

_CACHE_FOLDERS = ("HF_HOME", "HF_HUB_CACHE")


def fix_cache_folders() -> None:
    """Relative folders of the hub's cache count from the present working folder in every process that is started, also
    where that works in another one, as Ray's may. To be called before ``huggingface_hub`` is imported, which reads them
    once."""
    for name in _CACHE_FOLDERS:
        if os.environ.get(name):
            os.environ[name] = os.path.abspath(os.path.expanduser(os.path.expandvars(os.environ[name])))
