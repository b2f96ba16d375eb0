"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from tidegate.bootstrap.local import Local

F = TypeVar("F", bound=Callable[..., Any])

FOLDER = click.Path(path_type=Path, file_okay=False)
FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
PLACE = click.Path(path_type=Path, exists=True)


def home_option(command: F) -> F:
    """Add `--home`."""
    return click.option(
        "--home",
        type=FOLDER,
        help="Home folder: .tidegate in the current folder unless TIDEGATE_HOME says otherwise.",
    )(command)


def json_option(command: F) -> F:
    """Add `--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")(command)


def key_option(command: F) -> F:
    """Add `--key`."""
    return click.option(
        "--key", help="Idempotency key: repeating a command with the same key changes nothing more."
    )(command)


def open_local(home: Path | None, **flags: Any) -> Local:
    """Open the home that the settings and flags name."""
    from tidegate.bootstrap.local import Local
    from tidegate.bootstrap.setting import read_settings

    resolved = read_settings({"home": None if home is None else str(home), **flags})
    return Local(resolved.settings)
