"""`tidegate safe-mode`."""

from __future__ import annotations

from pathlib import Path

import click

from tidegate.cli.option import home_option, json_option, key_option, open_local, reason_option
from tidegate.cli.screen import print_json


@click.command(
    name="safe-mode",
    short_help="Send every request to the fallback, or let the models answer again.",
    epilog='\b\nExamples:\n  tidegate safe-mode on flight-delay --reason "weather feed is broken"\n'
    "  tidegate safe-mode off",
)
@click.argument("state", type=click.Choice(["on", "off"]))
@click.argument("service", required=False)
@click.option("--all", "all_services", is_flag=True, help="Every service that has a fallback.")
@reason_option
@key_option
@home_option
@json_option
def safe_mode(
    state: str,
    service: str | None,
    *,
    all_services: bool,
    reason: str,
    key: str | None,
    home: Path | None,
    as_json: bool,
) -> None:
    """Have the fallback chain of SERVICE answer every request, or end that.

    SERVICE may be left out where there is only one. Needs only local files: it works with the
    database, the network and the controller down. Versions and their shares stay as they are.
    """
    from tidegate.core.error import InvalidSetting
    from tidegate.operation.meant import only_service
    from tidegate.operation.release import change_safe_mode

    local = open_local(home, must_exist=True)
    route = local.routes.read()
    if service is not None and all_services:
        raise InvalidSetting("Name a service or say --all, not both.")
    if all_services:
        services = [name for name, each in route.services.items() if each.arms and each.fallback]
    else:
        services = [service or only_service(route)]
    moves = []
    for name in services:
        moved = change_safe_mode(
            lambda: local.unit,
            local.cell,
            name,
            on=state == "on",
            principal=local.principal,
            clock=local.clock,
            reason=reason,
            key=key if key is None or not all_services else f"{key}/{name}",
        )
        moves.append(moved)
        if not as_json:
            was = "already " if moved.decision.outcome == "unchanged" else ""
            says = "its fallback answers every request" if state == "on" else "its versions answer"
            click.echo(f"{name} is {was}{'in' if state == 'on' else 'out of'} safe mode: {says}.")
    if as_json:
        print_json(moves)
    if any(moved.number is None for moved in moves):
        click.echo(
            "The database could not be reached; the decision waits in a file until it can be.", err=True
        )
