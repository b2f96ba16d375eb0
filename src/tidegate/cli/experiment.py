"""`tidegate experiment`: several versions side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from tidegate.cli.main import SAID_NO
from tidegate.cli.option import home_option, json_option, key_option, open_local
from tidegate.cli.screen import print_json, print_table

if TYPE_CHECKING:
    from tidegate.operation.experiment import WantedArm


@click.group(short_help="Have several versions answer fixed shares of the keys.")
def experiment() -> None:
    """An experiment measures: it decides nothing by itself. Keys stick to their arm while it lasts."""


@experiment.command(
    short_help="Start an experiment.",
    epilog="\b\nExample:\n  tidegate experiment start flight-delay b=3:20 c=4:20",
)
@click.argument("service")
@click.argument("arms", nargs=-1, required=True, metavar="NAME=VERSION:PERCENT...")
@click.option("--reason", default="", help="Why, in your words; kept with the decision.")
@key_option
@home_option
@json_option
def start(
    service: str, arms: tuple[str, ...], *, reason: str, key: str | None, home: Path | None, as_json: bool
) -> None:
    """Give each arm its percentage of the keys of SERVICE; stable keeps the rest.

    Every worker has the versions ready before the first request goes to them. If one cannot load them,
    traffic stays as it is, and the exit status is 3.
    """
    from tidegate.operation.experiment import start as start_experiment

    local = open_local(home, must_exist=True)
    moved = start_experiment(
        local.unit,
        local.cell,
        service,
        arms=[_arm(each) for each in arms],
        principal=local.principal,
        clock=local.clock,
        reason=reason,
        key=key,
    )
    if as_json:
        print_json(moved)
    elif moved.decision.outcome == "committed":
        click.echo(f"The experiment on {service} has started: {', '.join(arms)}.")
    else:
        click.echo(f"Traffic of {service} stays where it was: {moved.decision.reason}.")
    if moved.decision.outcome != "committed":
        raise click.exceptions.Exit(SAID_NO)


def _arm(text: str) -> WantedArm:
    from tidegate.core.error import InvalidSetting
    from tidegate.operation.experiment import WantedArm

    name, equals, rest = text.partition("=")
    version, colon, percent = rest.partition(":")
    try:
        share = float(percent.removesuffix("%"))
        if not (equals and colon and 0 < share <= 100):
            raise ValueError
        return WantedArm(name, int(version), share / 100)
    except ValueError:
        raise InvalidSetting(
            f"{text!r} is no arm: a name, a version and a share in percent above 0 and at most 100.",
            hint="For example b=3:20 for an arm b in which version 3 answers 20% of the keys.",
        ) from None


@experiment.command(
    short_help="Show what each arm has done.",
    epilog="\b\nExample:\n  tidegate experiment show flight-delay",
)
@click.argument("service", required=False)
@home_option
@json_option
def show(service: str | None, *, home: Path | None, as_json: bool) -> None:
    """Show requests, errors, fallbacks and service times of each arm since the experiment began."""
    from tidegate.operation.experiment import results
    from tidegate.operation.meant import only_service
    from tidegate.release.move import deployed

    local = open_local(home, must_exist=True)
    route = local.routes.read()
    name = service or only_service(route)
    found = results(local.unit, local.home.ledger, deployed(route.services.get(name), name))
    if as_json:
        print_json(found)
        return
    if not found:
        click.echo(f"No experiment on {name} goes on.")
        return
    print_table(
        ("arm", "#version", "#share", "#requests", "#errors", "#fallback", "#p50 us", "#p99 us", "#outcomes"),
        [
            (
                each.name,
                each.version,
                f"{each.share:.1%}",
                each.tally.requests,
                sum(each.tally.errors.values()),
                each.tally.fallback,
                f"{each.tally.quantile_us(0.5):.0f}",
                f"{each.tally.quantile_us(0.99):.0f}",
                each.tally.joined,
            )
            for each in found
        ],
    )


@experiment.command(
    short_help="End an experiment.", epilog="\b\nExample:\n  tidegate experiment stop flight-delay"
)
@click.argument("service", required=False)
@click.option("--reason", default="", help="Why, in your words; kept with the decision.")
@home_option
@json_option
def stop(service: str | None, *, reason: str, home: Path | None, as_json: bool) -> None:
    """Give all keys of SERVICE back to stable. Nothing is latched."""
    from tidegate.operation.experiment import stop as stop_experiment
    from tidegate.operation.meant import only_service

    local = open_local(home, must_exist=True)
    name = service or only_service(local.routes.read())
    moved = stop_experiment(
        local.unit, local.cell, name, principal=local.principal, clock=local.clock, reason=reason
    )
    if as_json:
        print_json(moved)
    elif moved.decision.outcome == "unchanged":
        click.echo(f"There was no experiment on {name}.")
    else:
        click.echo(f"Version {moved.decision.version} of {name} has all the traffic again.")
