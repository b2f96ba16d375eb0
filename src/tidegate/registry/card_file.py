"""`card.toml`: the written parts of a model card, in a file beside the service."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from pathlib import Path

from tidegate.core.error import InvalidSetting, NotFound
from tidegate.registry.card import PARTS, QUESTIONS

CARD_FILE = "card.toml"


def read_card(path: Path, service: str) -> dict[str, str]:
    """Return the parts that a `card.toml` holds for a service: its own table's, over those of the top.

    Raises:
        InvalidSetting: It is no TOML, a part does not exist, or is no text.
        NotFound: There is no such file.
    """
    try:
        given = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise NotFound(f"There is no file {path}.", path=str(path)) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise InvalidSetting(
            f"{path} cannot be read as TOML: {error}",
            hint='Write parts as name = "text", or name = """several lines""".',
            path=str(path),
        ) from error
    parts = {name: value for name, value in given.items() if not isinstance(value, dict)}
    parts |= given.get(service, {}) if isinstance(given.get(service), dict) else {}
    for name, text in parts.items():
        if name not in PARTS:
            raise InvalidSetting(
                f"{path}: a model card has no part {name!r}.", hint=f"Parts: {', '.join(PARTS)}.", part=name
            )
        if not isinstance(text, str):
            raise InvalidSetting(f"{path}: the part {name!r} must be text. Got {text!r}.", part=name)
    return {name: text.strip() for name, text in parts.items()}


def asking(missing: Iterable[str]) -> str:
    """Return the questions that missing parts leave open, and where their answers go."""
    asked = "; ".join(f"{name} ({QUESTIONS[name]})" for name in missing)
    return (
        f"missing: {asked}. Write them into {CARD_FILE} beside service.py, into tg.Card(...), or for this "
        "version: tidegate card VERSION --fill"
    )
