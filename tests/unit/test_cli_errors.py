"""Which exceptions the command line prints as one line, and with which exit code it ends."""

from __future__ import annotations

import io
import pickle
import sys
from pathlib import Path

import pytest

from configs import yaml12
from configs.errors import ConfigError, DataError, MissingExtraError, ours
from pipeline.commands import cli
from pipeline.commands.ending import Terminated


def _raised_by_a_task(error: Exception) -> Exception:
    """What `ray.get` raises when a task has raised ``error``."""
    from ray.exceptions import RayTaskError

    wrapped: Exception = RayTaskError("task", f"Traceback …\n{error}", error).as_instanceof_cause()
    return wrapped


def test_our_errors_are_ours() -> None:
    error = DataError("x")
    assert ours(error) is error


def test_an_error_from_a_worker_is_told_without_rays_wrapping() -> None:
    error = DataError("row 3 is bad")
    wrapped = _raised_by_a_task(error)
    assert wrapped is not error
    assert str(ours(wrapped)) == "row 3 is bad"


def test_every_error_survives_the_way_from_a_worker() -> None:
    error = MissingExtraError("vllm", "llm")
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is MissingExtraError and str(back) == str(error)
    assert str(ours(_raised_by_a_task(error))) == str(error)


def test_an_error_that_ray_raises_from_ours_is_ours() -> None:
    from ray.exceptions import RayError

    error = RayError("job failed")
    error.__cause__ = _raised_by_a_task(DataError("row 3 is bad"))
    assert str(ours(error)) == "row 3 is bad"


def test_everything_else_is_a_defect() -> None:
    assert ours(KeyError("x")) is None
    assert ours(_raised_by_a_task(KeyError("x"))) is None


def test_a_defect_that_follows_one_of_our_errors_stays_a_defect() -> None:
    error = KeyError("x")
    error.__cause__ = ConfigError("handled wrongly")
    assert ours(error) is None


@pytest.mark.parametrize(
    ("raised", "code", "stderr"),
    [(DataError("one\n  two"), 2, "error: one two\n"),
     (KeyboardInterrupt(), 130, "interrupted; the same command goes on\n"),
     (Terminated(), 143, "terminated; the same command goes on\n"),
     (None, 0, "")],
)
def test_exit_codes(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], raised: BaseException | None,
                    code: int, stderr: str) -> None:
    def command(**_: object) -> int:
        if raised is not None:
            raise raised
        return 0

    monkeypatch.setattr(cli, "app", command)
    with pytest.raises(SystemExit) as ended:
        cli.main(["anything"])
    assert ended.value.code == code
    assert capsys.readouterr().err == stderr


def test_a_defect_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def command(**_: object) -> int:
        raise KeyError("defect")

    monkeypatch.setattr(cli, "app", command)
    with pytest.raises(KeyError, match="defect"):
        cli.main(["anything"])


class Pipe(io.TextIOWrapper):
    """A stream of an encoding, over bytes that can be looked at."""

    def __init__(self, encoding: str) -> None:
        super().__init__(io.BytesIO(), encoding=encoding, write_through=True)


@pytest.mark.parametrize(("encoding", "shown"), [
    ("ascii", b"? 3 ? (1 CPU) ? caf?\n"), ("latin-1", b"? 3 \xd7 (1 CPU) ? caf\xe9\n"),
    ("utf-8", "→ 3 × (1 CPU) … café\n".encode())])
def test_what_a_stream_cannot_show_is_replaced(monkeypatch: pytest.MonkeyPatch, encoding: str, shown: bytes) -> None:
    out, err = Pipe(encoding), Pipe(encoding)

    def command(**_: object) -> int:
        print("→ 3 × (1 CPU) … café")
        raise DataError("‘quoted’")

    monkeypatch.setattr(cli, "app", command)
    monkeypatch.setattr("sys.stdout", out)
    monkeypatch.setattr("sys.stderr", err)
    with pytest.raises(SystemExit) as ended:
        cli.main(["anything"])
    assert ended.value.code == 2
    assert out.buffer.getvalue() == shown  # type: ignore[attr-defined]
    assert err.buffer.getvalue().startswith(b"error: ")  # type: ignore[attr-defined]


def test_closed_streams_take_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    def command(**_: object) -> int:
        print("to nobody")
        print("to nobody", file=sys.stderr)
        return 0

    monkeypatch.setattr(cli, "app", command)
    monkeypatch.setattr("sys.stdout", None)
    monkeypatch.setattr("sys.stderr", None)
    with pytest.raises(SystemExit) as ended:
        cli.main(["anything"])
    assert ended.value.code == 0


def test_a_file_to_record_in_is_refused_before_any_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    taken = tmp_path / "taken"
    taken.touch()
    with pytest.raises(SystemExit) as caught:
        cli.main(["report", "--record", str(taken)])
    assert caught.value.code == 2
    assert "taken' is a file" in capsys.readouterr().err


def test_a_model_of_any_name_is_served(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["serve", "/models/a: 😀 #1", "--dry-run"])
    assert ended.value.code in (0, None)
    assert yaml12.parse(capsys.readouterr().out)["model"] == "/models/a: 😀 #1"
