"""Who is at work on something: a small file that one process takes, keeps alive by a heartbeat, and gives back.

On a local file system each look at a lease and the write that follows it are one step, under a file lock that lies
beside the lease (and stays: an empty file). Object stores as pyarrow shows them have no conditional put, so there a
lease is written, and counts if it is still the one that was written after `SETTLE_S`: two processes can both hold it
only if one takes longer than that between its look and its write. The later one then takes the earlier's attempt for a
dead process's; the earlier is refused when it wants to commit (`Lease.taken_over`).
"""

from __future__ import annotations

import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psutil
from filelock import FileLock

from cluster.storage import Storage
from configs.errors import ArtifactError

SETTLE_S = 1.0
_POLL_S = 0.5
_BEATS = 6
"""Heartbeats within the time after which a silent holder counts as dead."""
_NAMESPACE = "/proc/self/ns/pid"
"""Of process ids: containers that share a hostname have one each."""
_MOST_S = 10.0
"""Most seconds between heartbeats, which also carry the news of the work."""


class LeaseTaken(ArtifactError):
    """Another live process holds the lease."""

    def __init__(self, what: str, path: str, owner: dict[str, Any]) -> None:
        super().__init__(f"{what}: process {owner.get('pid')} on {owner.get('host')} is at work on it; wait for it, "
                         f"stop it, or delete {path} if it is long gone")
        self.owner = owner


class Lease:
    """A lease that this process holds; a thread renews it."""

    def __init__(self, storage: Storage, path: str, record: dict[str, Any]) -> None:
        self._storage, self._path, self._record = storage, path, record
        self.news: Callable[[], str | None] = lambda: None
        """How far the work is, for whoever reads the lease; asked at each heartbeat, in a thread of its own."""
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)
        self._thread.start()

    @property
    def token(self) -> str:
        """What tells this holding of the lease from every other."""
        return str(self._record["token"])

    def release(self) -> None:
        """Give it back; harmless when it is not held any more."""
        self._over.set()
        self._thread.join()
        with _alone(self._storage, self._path):
            if self.held():
                self._storage.delete(self._path)

    def held(self) -> bool:
        """Whether nobody has taken it over, for example while this machine was asleep."""
        found = _read(self._storage, self._path)
        return found is not None and found.get("token") == self._record["token"]

    def taken_over(self) -> bool:
        """Whether another process has it; one that somebody deleted by hand is nobody's."""
        found = _read(self._storage, self._path)
        if not found:  # nobody's; or it cannot be read, as amid a heartbeat
            return False
        return found.get("token") != self._record["token"]

    def _renew(self) -> None:
        while not self._over.wait(min(self._storage.lease_timeout_s / _BEATS, _MOST_S)):
            beat = {"beat": time.time(), "news": self._news()}
            try:
                with _alone(self._storage, self._path):
                    if self.held():
                        self._storage.write_json(self._path, self._record | beat)
            except Exception:  # a full disk or a silent store: the work itself will say so, and the next beat may pass
                continue

    def _news(self) -> str | None:
        try:
            return self.news()
        except Exception:  # whatever it is about, the heart goes on beating
            return None


def mine() -> dict[str, Any]:
    """The record of this process."""
    return {**_place(), "pid": os.getpid(), "created": psutil.Process().create_time(), "beat": time.time(),
            "token": uuid.uuid4().hex}


def alive(record: dict[str, Any], timeout_s: float) -> bool:
    """Whether the holder still runs: asked of this machine's process table, or told by the age of its heartbeat."""
    if not _in_sight(record):
        return bool(time.time() - record.get("beat", 0.0) < timeout_s)
    try:
        return bool(abs(psutil.Process(record["pid"]).create_time() - record["created"]) < 1.0)
    except (psutil.NoSuchProcess, KeyError):
        return False


def _place() -> dict[str, str]:
    """Of whose processes this one sees the table."""
    there = os.path.islink(_NAMESPACE)
    return {"host": socket.gethostname(), "pid_namespace": os.readlink(_NAMESPACE) if there else ""}


def _in_sight(record: dict[str, Any]) -> bool:
    """Whether the holder, if it lives, stands in the process table that this process sees."""
    return all(record.get(name) == value for name, value in _place().items())


def holder(storage: Storage, path: str) -> dict[str, Any] | None:
    """The record of whoever lives and holds a lease: `host`, `pid`, `created`, `beat`, `token`, and its `news`."""
    found = _read(storage, path)
    return found if found and alive(found, storage.lease_timeout_s) else None


def take(storage: Storage, path: str, what: str) -> Lease:
    """Take a lease, over from a dead holder if need be.

    Raises:
        LeaseTaken: a live process holds it, this one included.
    """
    record = mine()
    if storage.is_local:
        storage.make_dir(path.rpartition("/")[0])
    while True:
        with _alone(storage, path):
            found = _read(storage, path)
            if found is not None and alive(found, storage.lease_timeout_s):
                raise LeaseTaken(what, storage.path(path), found)
            storage.write_json(path, record)
        if storage.is_local:
            return Lease(storage, path, record)
        time.sleep(SETTLE_S)
        if (_read(storage, path) or {}).get("token") == record["token"]:
            return Lease(storage, path, record)


def take_from_the_dead(storage: Storage, path: str, what: str, tell: Callable[[LeaseTaken], None]) -> Lease:
    """:func:`take`, but a holder on another host or in another container may have died: wait until it gives a sign, or
    has given none for too long. So a job that the cluster starts anew on another node goes on.

    ``tell`` is called once, before the waiting.

    Raises:
        LeaseTaken: a process that this one sees holds it, or one elsewhere that lives.
    """
    first, since = None, time.monotonic()
    while True:
        try:
            return take(storage, path, what)
        except LeaseTaken as taken:
            if _in_sight(taken.owner):
                raise
            if first is None:
                first = taken
                tell(taken)
            elif any(taken.owner.get(sign) != first.owner.get(sign) for sign in ("token", "beat")):
                raise
            elif time.monotonic() - since > storage.lease_timeout_s:  # its clock may be ahead of ours
                with _alone(storage, path):
                    if _read(storage, path) == taken.owner:
                        storage.delete(path)
                continue
            time.sleep(_POLL_S)


def take_or_wait(storage: Storage, path: str, what: str, tell: Callable[[LeaseTaken], None],
                 done: Callable[[], bool]) -> Lease | None:
    """Take a lease once its holder has given it back or died; None as soon as ``done`` (what it built is there).

    ``tell`` is called once, before the waiting.
    """
    told = False
    while not done():
        try:
            lease = take(storage, path, what)
        except LeaseTaken as taken:
            if not told:
                tell(taken)
            told = True
            time.sleep(_POLL_S)
            continue
        if not done():
            return lease
        lease.release()
    return None


@contextmanager
def _alone(storage: Storage, path: str) -> Iterator[None]:
    """No other process or thread looks at this lease or changes it meanwhile; without effect in an object store."""
    if not storage.is_local:
        yield
        return
    with storage.writing(f"{path}.guard") as guard:
        lock = FileLock(guard)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _read(storage: Storage, path: str) -> dict[str, Any] | None:
    """The record, {} where it cannot be read as one, None where there is none."""
    if not storage.exists(path):
        return None
    try:
        found = storage.read_json(path)
    except FileNotFoundError:
        return None
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
