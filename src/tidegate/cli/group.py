"""A group that loads a command's module only when that command runs."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, NamedTuple

import click


class Lazy(NamedTuple):
    """Where a command is, and what the list of commands says of it.

    Attributes:
        module: Module of `tidegate.cli`.
        attribute: Name of the command in it.
        summary: One line; equal to the command's own (a test compares them).
    """

    module: str
    attribute: str
    summary: str


class LazyGroup(click.Group):
    """Lists commands from a table and imports the one that is called."""

    def __init__(self, *args: Any, lazy: Mapping[str, Lazy], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.lazy = lazy

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.lazy)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        found = self.lazy.get(cmd_name)
        if found is None:
            return None
        command = getattr(import_module(f"tidegate.cli.{found.module}"), found.attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, found.summary) for name, found in self.lazy.items()])
