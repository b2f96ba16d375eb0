"""Where `tidegate` begins: what cannot wait is asked of the running controller before anything is imported.

Only the plain forms of `rollback` are understood here. Whatever else is typed, and whenever nobody
answers in time, the command line is read as always and the command does its work itself.
"""

from __future__ import annotations

import os
import sys

from tidegate.core.lane import ask

PATIENCE_S = 0.5
"""How long the controller may take to begin; at ten times what the machine can carry it takes 40 ms."""


def main() -> None:
    """Run the command line."""
    asked = _ask(sys.argv[1:])
    from tidegate.cli.main import main as run

    run(asked)


def _ask(arguments: list[str]) -> bytes | None:
    if arguments[:1] != ["rollback"]:
        return None
    said = plain_rollback(arguments[1:])
    home = None if said is None else said.pop("home", None) or plain_home()
    if said is None or home is None:
        return None
    # not the module `json`, whose import takes as long as the rollback
    fields = ",".join(f'"{name}":{value}' for name, value in said.items())
    return ask(home, f"{{{fields}}}".encode(), wait_s=PATIENCE_S)


def plain_rollback(arguments: list[str]) -> dict[str, str] | None:
    """Return what a rollback's arguments say, by field, as JSON; `home` as it is.

    Returns:
        None if they say anything that takes more to understand: then nothing was asked of anybody.
    """
    said: dict[str, str] = {}
    rest = iter(arguments)
    for each in rest:
        name, is_joined, value = each.partition("=")
        if each == "--keep":
            name, value = "keep", "true"
        elif name in ("--to", "--reason", "--home"):
            name, value = name[2:], value if is_joined else next(rest, "")
        elif not each.startswith("-"):
            name, value = "service", each
        else:
            return None
        if name in said or not value.isprintable() or value.startswith("-") or not value:
            return None
        if name == "to" and not (value.isascii() and value.isdigit() and value[0] != "0" and len(value) < 10):
            return None
        if name in ("service", "reason"):
            value = '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
        said[name] = value
    return said


def plain_home() -> str | None:
    """Return the home that the settings name; None where a file has to be read for it, or a cell is named."""
    if {"TIDEGATE_CONFIG", "TIDEGATE_CELL"} & os.environ.keys() or os.path.exists("tidegate.toml"):  # noqa: PTH110
        return None
    return os.environ.get("TIDEGATE_HOME", ".tidegate") or None
