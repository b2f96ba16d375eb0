"""`tidegate latch`: the versions that were rolled back."""

from __future__ import annotations

from pathlib import Path

import click

from tidegate.cli.main import SAID_NO
from tidegate.cli.option import NUMBER, home_option, json_option, open_local, reason_option
from tidegate.cli.screen import moment, print_json, print_table


@click.group(short_help="List and clear what keeps rolled-back versions from coming back.")
def latch() -> None:
    """A version that was rolled back is latched: nothing sends it traffic until a person clears it."""


@latch.command(
    name="list", short_help="List the latched versions.", epilog="\b\nExample:\n  tidegate latch list"
)
@click.argument("service", required=False)
@home_option
@json_option
def list_latches(service: str | None, *, home: Path | None, as_json: bool) -> None:
    """List the latched versions of one SERVICE or all, with who rolled them back and why."""
    from tidegate.operation.version import check_service

    local = open_local(home, must_exist=True)
    route = local.routes.read()
    if service not in route.services:
        check_service(local.unit, service)
    found = [
        (name, each)
        for name, one in sorted(route.services.items())
        if service in (None, name)
        for each in one.latched
    ]
    if as_json:
        print_json([{"service": name, "latch": each} for name, each in found])
        return
    if not found:
        click.echo("No version is latched.")
        return
    print_table(
        ("service", "#version", "since", "by", "why"),
        [(name, each.version, moment(each.at_us), each.by, each.reason) for name, each in found],
    )


@latch.command(
    name="clear",
    short_help="Let a rolled-back version get traffic again.",
    epilog='\b\nExample:\n  tidegate latch clear flight-delay 2 --reason "it was the weather feed"',
)
@click.argument("service")
@click.argument("version", type=NUMBER)
@reason_option
@home_option
@json_option
def clear(service: str, version: int, *, reason: str, home: Path | None, as_json: bool) -> None:
    """Clear the latch of VERSION of SERVICE. It gets no traffic by that, it only may again.

    The exit status is 3 where it was not latched.
    """
    from tidegate.operation.release import unlatch

    local = open_local(home, must_exist=True)
    moved = unlatch(
        local.unit,
        local.cell,
        service,
        version=version,
        principal=local.principal,
        clock=local.clock,
        reason=reason,
    )
    if as_json:
        print_json(moved)
    elif moved.decision.outcome == "committed":
        click.echo(f"Version {version} of {service} may be switched or released to again.")
    else:
        click.echo(f"Version {version} of {service} was not latched.")
    if moved.decision.outcome != "committed":
        raise click.exceptions.Exit(SAID_NO)
