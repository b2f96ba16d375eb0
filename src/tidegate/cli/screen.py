"""Putting results before a person, or a program."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click
import msgspec

if TYPE_CHECKING:
    from rich.console import Console

_PIPE_WIDTH = 200
"""Columns of a table that goes to a file or a pipe: nothing has to be cut there."""


def print_json(value: Any) -> None:
    """Print plain data or structs as indented JSON."""
    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def console() -> Console:
    """Return the console for standard output, made anew so that a redirected stream counts."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH, highlight=False)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, title: str = "") -> None:
    """Print a table; columns whose name starts with `#` hold numbers."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(title=title or None, box=SIMPLE_HEAD, title_justify="left", pad_edge=False)
    for name in columns:
        table.add_column(name.removeprefix("#"), justify="right" if name.startswith("#") else "left")
    for row in rows:
        table.add_row(*(str(value) for value in row))
    console().print(table)


def moment(at_us: int) -> str:
    """Return microseconds since 1970 as a time in UTC, to the second."""
    return datetime.fromtimestamp(at_us / 1e6, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def short(digest: str) -> str:
    """Return as much of a digest as tells it from others at a glance."""
    return digest.removeprefix("sha256:")[:12]
