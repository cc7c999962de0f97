"""The one error tree of mentorec.

Every error that a user can cause derives from :class:`MentorecError`; the command line prints it as one line
and exits with code 2. Anything else is a defect and keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Iterable


class MentorecError(Exception):
    """Root of our errors. The message names the value, what is legal and what to do next."""


class ConfigError(MentorecError):
    """A configuration file, override or command-line value is not legal."""


class DataError(MentorecError):
    """A raw file, a table or a row is not what the stage can use."""


class LeakageError(DataError):
    """Data from after the split boundary, or of another split, would reach training."""


class ArtifactError(MentorecError):
    """A stored artifact is missing, damaged, or belongs to other settings."""


class StorageError(MentorecError):
    """The storage root cannot be reached, read or written."""


class TrainingError(MentorecError):
    """Training stopped because its numbers are no longer usable (NaN or Inf loss)."""


class ResourceError(MentorecError):
    """The cluster or machine lacks what a stage asks for."""


class MissingExtraError(MentorecError):
    """An optional package is needed and not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"the package {package!r} is not installed; install it with: pip install 'mentorec[{extra}]'")
        self.package, self.extra = package, extra

    def __reduce__(self) -> tuple[type[MissingExtraError], tuple[str, str]]:
        """Made again from its two parts: an exception is pickled with its message alone, and Ray pickles them all."""
        return type(self), (self.package, self.extra)


def ours(exc: BaseException | None) -> MentorecError | None:
    """Our error, also where Ray brings it back from a worker inside an exception of its own; None: it is a defect."""
    while exc is not None:
        inside = getattr(exc, "cause", None)  # Ray's task errors hold the worker's exception there
        if isinstance(exc, MentorecError) and inside is None:
            return exc
        from_ray = type(exc).__module__.partition(".")[0] == "ray" or inside is not None
        exc = (inside or exc.__cause__) if from_ray else None
    return None


def illegal(what: str, value: object, legal: Iterable[object] | str, next_step: str = "") -> str:
    """The one-line form of a bad value: ``what: got VALUE; legal: …; next step``."""
    options = legal if isinstance(legal, str) else ", ".join(map(str, legal))
    tail = f"; {next_step}" if next_step else ""
    return f"{what}: got {value!r}; legal: {options}{tail}"
