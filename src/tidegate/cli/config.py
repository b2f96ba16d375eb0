"""`tidegate config`."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from tidegate.cli.option import home_option, json_option
from tidegate.cli.screen import print_json, print_table


@click.group(short_help="Show the settings and where they come from.")
def config() -> None:
    """Show the settings: default < tidegate.toml < TIDEGATE_* variables < flags."""


@config.command(
    epilog="\b\nExamples:\n  tidegate config show\n  TIDEGATE_PORT=9000 tidegate config show --json"
)
@home_option
@json_option
def show(home: Path | None, as_json: bool) -> None:
    """Show each setting, its value and where it comes from. Secrets are masked."""
    from tidegate.bootstrap.setting import masked, read_settings

    resolved = read_settings({"home": None if home is None else str(home)})
    rows = [
        (name, masked(name, value), resolved.sources[name])
        for name, value in msgspec.structs.asdict(resolved.settings).items()
    ]
    if as_json:
        print_json({name: {"value": value, "source": source} for name, value, source in rows})
    else:
        print_table(("setting", "value", "from"), rows)
