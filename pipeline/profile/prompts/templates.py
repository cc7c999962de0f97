"""Instructions from Jinja2 templates: shipped ones or the user's own, in a sandbox, every name checked."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, Final, Literal, get_args

from configs.errors import ConfigError
from configs.files import SHIPPED
from pipeline.profile.prompts.config import Form, PromptConfig
from pipeline.profile.prompts.domains import signal_of
from pipeline.profile.prompts.languages import LANGUAGES
from pipeline.profile.prompts.record import FIELDS, LIMITS
from pipeline.profile.prompts.signals import note

Task = Literal["leaf", "merge", "update"]
TASKS: Final[tuple[Task, ...]] = get_args(Task)
ANGLES: Final = ("overall", "recent", "favourites")
SHIPPED_TEMPLATES: Final = SHIPPED / "prompts"
MAX_CHARS: Final = 20_000
"""Longer instructions are refused: they would leave no room for the user."""


def instructions(config: PromptConfig, form: Form) -> dict[tuple[Task, str], str]:
    """The instructions of every task and angle.

    Raises:
        ConfigError: a template of the user's own is missing, or does not render to sound instructions; the message
            names file, line and remedy.
    """
    import jinja2
    from jinja2.sandbox import SandboxedEnvironment

    folders, name = _found(config, form)
    environment = SandboxedEnvironment(
        loader=jinja2.FileSystemLoader(folders), undefined=jinja2.StrictUndefined, autoescape=False,
        trim_blocks=True, lstrip_blocks=True)
    shown = f"{folders[0] / name}"
    try:
        template = environment.get_template(name)
        return {(task, angle): _checked(template.render(_names(config, task, angle)), shown, form)
                for task in TASKS for angle in ANGLES}
    except jinja2.TemplateSyntaxError as exc:
        raise ConfigError(f"{exc.filename or shown}: line {exc.lineno}: {exc.message}; mend the template") from exc
    except jinja2.TemplateNotFound as exc:
        raise ConfigError(f"{shown}: there is no template {exc.name!r} to extend or include; shipped: "
                          f"{', '.join(_shipped())}") from exc
    except jinja2.UndefinedError as exc:
        raise ConfigError(f"{shown}: {exc.message}; legal names: {', '.join(_names(config, 'leaf', 'overall'))}, and "
                          "what the template sets itself (shared templates want person, thing, things)") from exc
    except (jinja2.TemplateError, OSError, RecursionError, ArithmeticError, LookupError, TypeError, ValueError) as exc:
        raise ConfigError(f"{shown}: cannot be rendered: {exc}; mend the template") from exc


def _names(config: PromptConfig, task: Task, angle: str) -> dict[str, Any]:
    """What a template may use; documented in ``configs/prompts/generic/long.jinja``."""
    signal = signal_of(config)
    return {"task": task, "angle": angle, "style": config.style, "language": LANGUAGES[config.language],
            "max_words": config.max_words, "limits": LIMITS, "signal": signal.kind, "signal_note": note(signal),
            "attributes": bool(config.attributes), "reviews": config.reviews}


def _found(config: PromptConfig, form: Form) -> tuple[list[Path], str]:
    """Folders to look in, the first of which has the template; and its name."""
    if config.templates is None:
        return [SHIPPED_TEMPLATES / config.domain, SHIPPED_TEMPLATES], f"{form}.jinja"
    path = Path(os.path.expandvars(config.templates)).expanduser()
    file = path / f"{form}.jinja" if path.is_dir() else path
    if not file.is_file():
        raise ConfigError(f"prompt.templates: got {config.templates!r}, and {file} is not there; legal: a folder with "
                          f"{form}.jinja, or a template file; start from a copy of {SHIPPED_TEMPLATES / 'generic'}")
    return [file.parent, SHIPPED_TEMPLATES], file.name


def _checked(text: str, shown: str, form: Form) -> str:
    text = re.sub(r"\n{3,}", "\n\n", "\n".join(line.rstrip() for line in text.strip().splitlines()))
    if not text:
        raise ConfigError(f"{shown}: renders to nothing; write the instructions into it")
    if len(text) > MAX_CHARS:
        raise ConfigError(f"{shown}: renders to {len(text):,} characters; legal: at most {MAX_CHARS:,}; shorten it")
    missing = [name for name in FIELDS if name not in text] if form == "short" else []
    if missing:
        raise ConfigError(f"{shown}: never tells of {', '.join(missing)}; the `short` form needs every field of the "
                          f"record: {', '.join(FIELDS)}")
    return text


def _shipped() -> list[str]:
    return sorted(str(path.relative_to(SHIPPED_TEMPLATES)) for path in SHIPPED_TEMPLATES.rglob("*.jinja"))
