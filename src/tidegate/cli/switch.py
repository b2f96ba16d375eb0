"""`tidegate switch`."""

from __future__ import annotations

from pathlib import Path

import click

from tidegate.cli.main import SAID_NO
from tidegate.cli.option import NUMBER, home_option, json_option, key_option, open_local, reason_option
from tidegate.cli.screen import print_json


@click.command(
    short_help="Move all traffic of a service to another version.",
    epilog='\b\nExamples:\n  tidegate switch flight-delay 2 --reason "better on September"\n'
    "  tidegate switch flight-delay 2 --clear-latch",
)
@click.argument("service")
@click.argument("version", type=NUMBER)
@reason_option
@click.option(
    "--clear-latch", is_flag=True, help="First clear the latch that an earlier rollback of it left behind."
)
@key_option
@home_option
@json_option
def switch(
    service: str,
    version: int,
    *,
    reason: str,
    clear_latch: bool,
    key: str | None,
    home: Path | None,
    as_json: bool,
) -> None:
    """Move all traffic of SERVICE to VERSION, at once, after every worker has it ready.

    If a worker cannot load it, traffic stays where it is, and the exit status is 3.
    """
    from tidegate.operation.gate import gate_state
    from tidegate.operation.release import switch_to, unlatch

    local = open_local(home, must_exist=True)
    if clear_latch:
        unlatch(
            local.unit,
            local.cell,
            service,
            version=version,
            principal=local.principal,
            clock=local.clock,
            reason=reason,
        )
    route = local.routes.read().services.get(service)
    moved = switch_to(
        local.unit,
        local.cell,
        service,
        version=version,
        fallback_of=local.fallback_of,
        principal=local.principal,
        clock=local.clock,
        reason=reason,
        key=key,
    )
    outcome = moved.decision.outcome
    state = gate_state(local.unit, service, version, champion=route.stable if route else None)
    if not state.passed and outcome != "aborted":
        click.secho(f"{state.words} It has the traffic all the same.", fg="yellow", err=True)
    if as_json:
        print_json(moved)
    elif outcome == "committed":
        kept = "waits for the database" if moved.number is None else moved.number
        click.echo(f"Version {version} of {service} has all the traffic (decision {kept}).")
    elif outcome == "unchanged":
        click.echo(f"Version {version} of {service} had all the traffic already.")
    else:
        click.echo(f"Traffic of {service} stays where it was: {moved.decision.reason}.")
    if outcome == "aborted":
        raise click.exceptions.Exit(SAID_NO)
