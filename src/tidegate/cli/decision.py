"""`tidegate decisions`."""

from __future__ import annotations

from pathlib import Path

import click

from tidegate.cli.option import home_option, json_option, open_local
from tidegate.cli.screen import moment, print_json, print_table


@click.command(
    short_help="List what was decided, by whom and on which evidence.",
    epilog="\b\nExamples:\n  tidegate decisions flight-delay\n  tidegate decisions --kind rollback --json",
)
@click.argument("service", required=False)
@click.option("--kind", help="Only decisions of this kind: first-deployment, switch, rollback, ...")
@click.option("--version", type=int, help="Only decisions about this version.")
@home_option
@json_option
def decisions(
    service: str | None, kind: str | None, version: int | None, home: Path | None, as_json: bool
) -> None:
    """List what was decided about one SERVICE or all; `--json` gives the whole evidence."""
    from tidegate.operation.version import list_decisions

    found = list_decisions(open_local(home, must_exist=True).unit, service, kind=kind, version=version)
    if as_json:
        print_json(found)
        return
    if not found:
        click.echo("Nothing was decided yet.")
        return
    print_table(
        ("#number", "when", "service", "decision", "#version", "outcome", "by", "why"),
        [
            (
                stored.id,
                moment(stored.decision.at_us),
                stored.decision.service,
                stored.decision.kind,
                "-" if stored.decision.version is None else stored.decision.version,
                stored.decision.outcome,
                stored.decision.principal.name,
                stored.decision.reason
                or "; ".join(evidence.reason for evidence in stored.decision.evidence if evidence.reason),
            )
            for stored in found
        ],
    )
