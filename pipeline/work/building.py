"""An artifact found, or built by this process: what every builder says and gives back."""

from __future__ import annotations

from collections.abc import Callable

from cluster.storage import Storage
from pipeline.store import artifacts
from pipeline.store.artifacts import Artifact, ArtifactDir, StageKey
from pipeline.store.leases import Lease, LeaseTaken, take_from_the_dead
from pipeline.work.progress import news, say


def take_folder(storage: Storage, folder: str) -> Lease:
    """The lease of a run's or a search's folder.

    Raises:
        LeaseTaken: a live process holds it.
    """
    def tell(taken: LeaseTaken) -> None:
        say(f"{folder}: process {taken.owner.get('pid')} on {taken.owner.get('host')} held it last; waiting whether it "
            f"lives, {storage.lease_timeout_s:g} s at most (storage.lease_timeout_s)")

    return take_from_the_dead(storage, f"{folder}/lock.json", folder, tell)


def find_or_build(storage: Storage, key: StageKey, label: str, build: Callable[[ArtifactDir], Artifact], *,
                  resumable: bool, found: str) -> Artifact:
    """The artifact of a key; while another process builds it, its end is awaited.

    Args:
        label: begins every line that is said.
        build: fills the folder and commits it; where it fails, the lease is given back.
        resumable: take up what a killed attempt has left.
        found: what is said where nothing is to be built.
    """
    out = artifacts.find_or_begin(storage, key, resumable, lambda taken: say(
        f"{label}: process {taken.owner.get('pid')} on {taken.owner.get('host')} is building it; waiting"))
    if isinstance(out, Artifact):
        say(f"{label}: {found}")
        return out
    if out.resumed:
        say(f"{label}: going on with the unfinished attempt {out.attempt}")
    if out.lease is not None:
        out.lease.news = news
    try:
        return build(out)
    except BaseException:
        out.release()
        raise
