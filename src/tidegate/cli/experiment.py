"""`tidegate experiment`: several versions side by side."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tidegate.cli.main import SAID_NO
from tidegate.cli.option import home_option, json_option, key_option, open_local, reason_option
from tidegate.cli.screen import print_json, print_table

if TYPE_CHECKING:
    from tidegate.bootstrap.local import Local
    from tidegate.operation.experiment import ExperimentResult, WantedArm
    from tidegate.release.declaration import Experiment
    from tidegate.service.manifest import Manifest
    from tidegate.statistics.interval import Interval


@click.group(short_help="Have several versions answer fixed shares of the keys.")
def experiment() -> None:
    """An experiment measures: it decides nothing by itself. Keys stick to their arm while it lasts."""


@experiment.command(
    short_help="Start an experiment.",
    epilog="\b\nExamples:\n  tidegate experiment start flight-delay b=3:20 c=4:20 --outcome rebooked\n"
    "  tidegate experiment start flight-delay b=3 c=4",
)
@click.argument("service")
@click.argument("arms", nargs=-1, required=True, metavar="NAME=VERSION[:PERCENT]...")
@click.option("--outcome", help="Outcome that counts, instead of the one that the service declares.")
@click.option("--against", help="Output that foretells the outcome: that both differ is what counts.")
@click.option("--number", is_flag=True, help="The outcome's number itself counts, and is averaged.")
@click.option("--within", help="How long outcomes take, such as 1d; as the service declares unless given.")
@reason_option
@key_option
@home_option
@json_option
def start(
    service: str,
    arms: tuple[str, ...],
    *,
    outcome: str | None,
    against: str | None,
    number: bool,
    within: str | None,
    reason: str,
    key: str | None,
    home: Path | None,
    as_json: bool,
) -> None:
    """Give each arm its percentage of the keys of SERVICE; stable keeps the rest.

    What it measures, and percentages that are left out, are as the service declares: tg.Experiment.
    Every worker has the versions ready before the first request goes to them. If one cannot load them,
    traffic stays as it is, and the exit status is 3.
    """
    from tidegate.operation.experiment import start as start_experiment
    from tidegate.release.plan import percents
    from tidegate.service.declare import duration_s

    local = open_local(home, must_exist=True)
    manifest = _stable(local, service)
    measured = _measured(manifest, outcome=outcome, against=against, number=number)
    wanted = [_arm(each, measured.arms) for each in arms]
    horizon_s = (manifest.objectives.outcome_within_s or 0.0) if manifest is not None else 0.0
    moved = start_experiment(
        local.unit,
        local.cell,
        service,
        arms=wanted,
        principal=local.principal,
        clock=local.clock,
        measured=measured,
        horizon_s=horizon_s if within is None else duration_s(within),
        target=manifest.target if manifest is not None else "",
        reason=reason,
        key=key,
    )
    if as_json:
        print_json(moved)
    elif moved.decision.outcome == "committed":
        told = (f"{each.name} is version {each.version} with {percents([each.share])}" for each in wanted)
        click.echo(f"The experiment on {service} has started: {', '.join(told)} of the keys.")
    else:
        click.echo(f"Traffic of {service} stays where it was: {moved.decision.reason}.")
    if moved.decision.outcome != "committed":
        raise click.exceptions.Exit(SAID_NO)


def _stable(local: Local, service: str) -> Manifest | None:
    """Return what the version that answers now was compiled to."""
    from tidegate.service.manifest import Manifest

    route = local.routes.read().services.get(service)
    if route is None or route.stable is None:
        return None
    return Manifest.from_json(local.artifacts.read_bytes(route.manifests[route.stable]))


def _measured(
    manifest: Manifest | None, *, outcome: str | None, against: str | None, number: bool
) -> Experiment:
    from msgspec.structs import replace

    from tidegate.release.declaration import Experiment

    declared = manifest.experiment if manifest is not None else None
    found = declared or Experiment()
    if outcome is not None or against is not None or number:
        found = replace(found, outcome=outcome or found.outcome, against=against or "", number=number)
    return found.checked(manifest.contract.output.names if manifest is not None else ())


def _arm(text: str, shares: Mapping[str, float]) -> WantedArm:
    from tidegate.core.error import InvalidSetting
    from tidegate.operation.experiment import WantedArm

    name, equals, rest = text.partition("=")
    version, colon, percent = rest.partition(":")
    try:
        share = float(percent.removesuffix("%")) if colon else 100 * shares.get(name, 0.0)
        if not (equals and 0 < share <= 100):
            raise ValueError
        return WantedArm(name, int(version), share / 100)
    except ValueError:
        raise InvalidSetting(
            f"{text!r} is no arm: a name, a version and a share in percent above 0 and at most 100.",
            hint="For example b=3:20 for an arm b in which version 3 answers 20% of the keys; without the "
            "percentage where the service declares it: tg.Experiment(arms={'b': 0.2}).",
        ) from None


@experiment.command(
    short_help="Show what each arm has done, and how they differ.",
    epilog="\b\nExample:\n  tidegate experiment status flight-delay",
)
@click.argument("service", required=False)
@home_option
@json_option
def status(service: str | None, *, home: Path | None, as_json: bool) -> None:
    """Show traffic of each arm since the experiment began, and what it measures.

    Intervals hold at all times at once, so that one may look every day and stop when they say enough. A
    difference whose interval leaves 0 out is none of chance.
    """
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
    if found is None:
        click.echo(f"No experiment on {name} goes on.")
        return
    print_table(
        ("arm", "#version", "#share", "#requests", "#errors", "#fallback", "#p50 us", "#p99 us", "#keys"),
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
                each.count.keys,
            )
            for each in found.arms
        ],
    )
    if found.measured.outcome:
        _tell_measured(found)
    if not found.is_valid:
        click.echo("Keys did not come to the arms as promised: nothing here may be compared.")


def _tell_measured(found: ExperimentResult) -> None:
    measured = found.measured
    what = f"{measured.outcome} unlike {measured.against}" if measured.against else measured.outcome
    print_table(
        (
            "arm",
            "#outcomes",
            f"#{what}",
            f"#{1 - measured.alpha:.0%} interval",
            "#more than stable",
            "verdict",
        ),
        [
            (
                each.name,
                each.count.known,
                _figure(each.count.total / each.count.known if each.count.known else None, measured.number),
                _interval(each.rate, measured.number),
                _interval(each.difference, measured.number),
                each.verdict or "-",
            )
            for each in found.arms
        ],
    )
    click.echo(f"Outcomes count when their requests are {found.horizon_s:g} s old, of each key the first.")


def _figure(value: float | None, number: bool) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if number else f"{value:.2%}"


def _interval(interval: Interval | None, number: bool) -> str:
    if interval is None:
        return "-"
    return f"{_figure(interval.low, number)} to {_figure(interval.high, number)}"


@experiment.command(
    short_help="End an experiment.", epilog="\b\nExample:\n  tidegate experiment stop flight-delay"
)
@click.argument("service", required=False)
@reason_option
@home_option
@json_option
def stop(service: str | None, *, reason: str, home: Path | None, as_json: bool) -> None:
    """Give all keys of SERVICE back to stable. Nothing is latched."""
    from tidegate.operation.experiment import stop as stop_experiment
    from tidegate.operation.meant import only_service

    local = open_local(home, must_exist=True)
    name = service or only_service(local.routes.read())
    moved = stop_experiment(
        local.unit,
        local.cell,
        name,
        principal=local.principal,
        clock=local.clock,
        ledger=local.home.ledger,
        reason=reason,
    )
    if as_json:
        print_json(moved)
    elif moved.decision.outcome == "unchanged":
        click.echo(f"There was no experiment on {name}.")
    else:
        click.echo(f"Version {moved.decision.version} of {name} has all the traffic again.")
