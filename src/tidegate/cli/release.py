"""`tidegate release`: move traffic to a version by evidence, and look at it meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tidegate.cli.main import SAID_NO
from tidegate.cli.option import (
    FILE,
    NUMBER,
    REASON,
    home_option,
    json_option,
    key_option,
    open_local,
    reason_option,
)
from tidegate.cli.screen import console, moment, print_json, print_table

if TYPE_CHECKING:
    from tidegate.bootstrap.local import Local
    from tidegate.operation.watching import ReleaseView
    from tidegate.release.machine import State
    from tidegate.release.plan import Forecast, Plan

_LOOK_S = 1.0
_SHADOW_NAME = "shadow"


@click.group(short_help="Move traffic to a version by evidence, step by step.")
def release() -> None:
    """A release tries a version as a shadow, then on a growing share, and takes it back by itself."""


@release.command(
    short_help="Start the release of a version.",
    epilog="\b\nExamples:\n  tidegate release start flight-delay 4\n"
    '  tidegate release start flight-delay 4 --steps 5,25,50 --least 10m --reason "fresh weather"',
)
@click.argument("service")
@click.argument("version", type=NUMBER)
@click.option("--plan", "plan_file", type=FILE, help="JSON file of the plan, instead of the service's own.")
@click.option("--steps", help="Shares in percent, for example 1,5,25,50; everything comes after the last.")
@click.option("--least", help="How long each step and the shadow last at least, for example 90s or 10m.")
@click.option("--no-shadow", is_flag=True, help="Answer users from the first moment: no shadow before.")
@click.option(
    "--approve", multiple=True, help="Share in percent that waits for `approve`; 100 the promotion."
)
@click.option("--override", type=REASON, default="", help="Why it goes though it has not passed its gates.")
@click.option("--allow-slow", is_flag=True, help="Start even if it takes longer than the plan allows.")
@reason_option
@key_option
@home_option
@json_option
def start(
    service: str,
    version: int,
    *,
    plan_file: Path | None,
    steps: str | None,
    least: str | None,
    no_shadow: bool,
    approve: tuple[str, ...],
    override: str,
    allow_slow: bool,
    reason: str,
    key: str | None,
    home: Path | None,
    as_json: bool,
) -> None:
    """Release VERSION of SERVICE: shadow, then 1%, 5%, 25%, 50% and all of the traffic.

    Each step is left when the evidence says that the next one does no harm. Whatever regresses is taken
    back at once, by itself, and latched. The controller of `tidegate up` carries it out; this command
    only starts it.
    """
    from tidegate.operation.compatible import check_takes_over
    from tidegate.operation.gate import gate_state
    from tidegate.operation.rollout import start_release
    from tidegate.operation.version import show_version
    from tidegate.operation.watching import read_traffic
    from tidegate.release.plan import percents

    local = open_local(home, must_exist=True)
    candidate = _manifest(local, show_version(local.unit, service, number=version).manifest)
    routed = (cell.routes.read().services.get(service) for cell in local.cells.values())
    route = next((each for each in routed if each is not None), None)
    if route is not None and route.stable is not None:
        present = _manifest(local, route.manifests[route.stable])
        check_takes_over(service, present.contract, candidate.contract, version=version)
    plan = _plan(candidate, plan_file)
    plan = _changed(plan, steps=steps, least=least, no_shadow=no_shadow, approve=approve)
    objective_ms = candidate.objectives.latency_p99_ms
    latency_us = None if objective_ms is None else objective_ms * 1000
    begun = start_release(
        local.unit,
        local.cells,
        service,
        version=version,
        plan=plan,
        fallback_of=local.fallback_of,
        principal=local.principal,
        clock=local.clock,
        gate_of=lambda name, number: gate_state(
            local.unit, name, number, champion=None if route is None else route.stable
        ),
        override=override,
        traffic=read_traffic(local.home.ledger, service, clock=local.clock, latency_us=latency_us),
        allow_slow=allow_slow,
        latency_us=latency_us,
        mature_s=candidate.objectives.outcome_within_s,
        outputs=candidate.contract.output.names,
        target=candidate.target,
        reason=reason,
        key=key,
    )
    if as_json:
        print_json(begun)
        return
    click.echo(
        f"Release {begun.state.id} has started: version {version} of {service} beside version "
        f"{begun.state.stable} (decision {begun.decision})."
    )
    click.echo(f"Steps: {percents(each.share for each in plan.steps)}, then everything.")
    _tell_forecast(begun.expected)
    click.echo(f"Watch it: tidegate release watch {service}")


def _manifest(local: Local, digest: str) -> Any:
    from tidegate.core.digest import Digest
    from tidegate.service.manifest import Manifest

    return Manifest.from_json(local.artifacts.read_bytes(Digest(digest)))


def _plan(manifest: Any, path: Path | None) -> Plan:
    from tidegate.core.error import InvalidSetting
    from tidegate.release.plan import Plan, read_plan

    if path is None:
        return getattr(manifest, "plan", None) or Plan()
    try:
        return read_plan(path.read_bytes())
    except InvalidSetting as error:
        raise InvalidSetting(
            f"{path} cannot be used: {error.message}", hint=error.hint, **error.context
        ) from error


def _changed(
    plan: Plan, *, steps: str | None, least: str | None, no_shadow: bool, approve: tuple[str, ...]
) -> Plan:
    """Return the plan with what the command line says otherwise."""
    from msgspec.structs import replace

    from tidegate.release.plan import PlanStep
    from tidegate.service.declare import duration_s

    if steps is not None:
        least_s = plan.steps[0].least_s if plan.steps else 60.0
        plan = replace(plan, steps=tuple(PlanStep(_share(each), least_s) for each in steps.split(",")))
    if least is not None:
        least_s = duration_s(least)
        plan = replace(plan, steps=tuple(replace(each, least_s=least_s) for each in plan.steps))
        if plan.shadow is not None:
            plan = replace(plan, shadow=replace(plan.shadow, least_s=least_s))
    if no_shadow:
        plan = replace(plan, shadow=None)
    if approve:
        plan = replace(plan, approve=tuple(map(_share, approve)))
    return plan


def _share(text: str) -> float:
    from tidegate.core.error import InvalidSetting

    try:
        percent = float(text.strip().removesuffix("%"))
    except ValueError:
        percent = -1.0
    if not 0 < percent <= 100:
        raise InvalidSetting(
            f"A share is a number of percent above 0 and at most 100. Got {text.strip()!r}.",
            hint="For example --steps 1,5,25,50",
        )
    return percent / 100


def _tell_forecast(expected: Forecast | None) -> None:
    if expected is None:
        click.echo("How long it takes is not known: no traffic was counted lately.")
        return
    for step in expected.steps:
        name = _SHADOW_NAME if not step.share else f"{step.share:.4g}".rstrip(".")
        label = name if name == _SHADOW_NAME else f"{step.share:.1%}"
        click.echo(f"  {label:>7}: about {_duration(step.seconds)}, {step.keys:,.0f} keys")
    click.echo(
        f"If it is as good as the version before, it takes about {_duration(expected.total_s)}; "
        f"{expected.slowest} take longest to prove."
    )


def _duration(seconds: float) -> str:
    from tidegate.release.plan import in_words

    return in_words(seconds)


def _service(local: Local, service: str | None) -> str:
    """Return the service that is meant: the named one, or the one with a release under way."""
    from tidegate.core.error import InvalidSetting, NotFound
    from tidegate.operation.rollout import list_releases

    if service is not None:
        return service
    found = list_releases(local.unit)
    under_way = list(dict.fromkeys(each.service for each in found if each.is_open))
    if len(under_way) == 1:
        return under_way[0]
    if under_way:
        raise InvalidSetting(
            f"Releases of several services are under way: {', '.join(sorted(under_way))}.",
            hint="Name the one you mean.",
        )
    if not found:
        raise NotFound("There never was a release here.", hint="Start one: tidegate release start ...")
    return found[0].service


@release.command(
    short_help="Show where a release stands.",
    epilog="\b\nExamples:\n  tidegate release status\n  tidegate release status flight-delay --json",
)
@click.argument("service", required=False)
@home_option
@json_option
def status(service: str | None, *, home: Path | None, as_json: bool) -> None:
    """Show the latest release of SERVICE, or of the one that is under way, with what its rules say now."""
    local = open_local(home, must_exist=True)
    view = _view(local, _service(local, service))
    if as_json:
        print_json(view)
    else:
        console().print(_render(view))


@release.command(
    name="list",
    short_help="List releases, the latest first.",
    epilog="\b\nExample:\n  tidegate release list flight-delay",
)
@click.argument("service", required=False)
@home_option
@json_option
def list_all(service: str | None, *, home: Path | None, as_json: bool) -> None:
    """List the releases of one SERVICE or all."""
    from tidegate.operation.rollout import list_releases
    from tidegate.operation.version import check_service

    unit = open_local(home, must_exist=True).unit
    found = list_releases(unit, service)
    if not found:
        check_service(unit, service)
    if as_json:
        print_json(found)
        return
    if not found:
        click.echo(f"There never was a release {f'of {service}' if service else 'here'}.")
        return
    print_table(
        ("release", "started", "service", "#version", "stage", "by", "why"),
        [
            (
                each.id,
                moment(each.started_us),
                each.service,
                f"{each.stable} -> {each.candidate}",
                each.ending or each.stage,
                each.by.name,
                each.reason,
            )
            for each in found
        ],
    )


@release.command(
    short_help="Watch a release until it ends.",
    epilog="\b\nExample:\n  tidegate release watch flight-delay",
)
@click.argument("service", required=False)
@click.option("--every", "every_s", type=float, default=_LOOK_S, help="Seconds between two looks.")
@home_option
def watch(service: str | None, *, every_s: float, home: Path | None) -> None:
    """Show a release of SERVICE live: share, counts, evidence against its threshold, time left.

    Ends with the release. The exit status is 3 if the version did not take over. Ctrl-C ends the
    watching, not the release.
    """
    import time

    from rich.live import Live

    local = open_local(home, must_exist=True)
    name = _service(local, service)
    view = _view(local, name)
    with Live(_render(view), console=console(), auto_refresh=False) as live:
        while view.state.is_open:
            time.sleep(max(0.05, every_s))
            view = _view(local, name)
            live.update(_render(view), refresh=True)
    if view.state.ending != "promoted":
        raise click.exceptions.Exit(SAID_NO)


def _view(local: Local, service: str) -> ReleaseView:
    from tidegate.operation.watching import watch_release

    return watch_release(local.unit, local.home.ledger, service, clock=local.clock, cells=local.cells)


_COLOURS = {"safe": "green", "regressed": "red", "invalid": "red", "undecided": "yellow"}


def _render(view: ReleaseView) -> Any:
    """Return a release as something that rich can draw."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    state = view.state
    parts: list[Any] = [Text(_headline(view), style="bold"), Text(_progress(view))]
    if state.reason:
        parts.append(Text(state.reason))
    if view.waiting:
        parts.append(Text(f"waiting: {view.waiting}", style="yellow"))
    if view.rules:
        table = Table(box=SIMPLE_HEAD, pad_edge=False)
        for name, justify in (("rule", "left"), ("verdict", "left"), ("against it", "right")):
            table.add_column(name, justify=justify)  # type: ignore[arg-type]  # one of rich's own words
        table.add_column("proof of safety")
        table.add_column("what was seen")
        for rule in view.rules:
            bar = "" if rule.proven is None else f"{_bar(rule.proven)} {rule.proven:4.0%}"
            table.add_row(
                rule.rule,
                Text(str(rule.verdict), style=_COLOURS.get(str(rule.verdict), "")),
                f"{rule.evidence:.1f} of {rule.threshold:.1f}",
                bar,
                rule.reason,
            )
        parts.append(table)
    return Group(*parts)


def _headline(view: ReleaseView) -> str:
    state = view.state
    where = f"ended: {state.ending}" if not state.is_open else str(state.stage)
    paused = ", paused" if state.paused and state.is_open else ""
    frozen = ", frozen" if state.invalid and state.is_open else ""
    return f"{state.service} {state.stable} -> {state.candidate}   {where}{paused}{frozen}   ({state.id})"


def _progress(view: ReleaseView) -> str:
    state = view.state
    line = f"share {view.share:.1%}  {_bar(view.share)}"
    if state.step < 0 and state.is_open:
        line += f"   {view.candidate:,} pairs"
    else:
        line += f"   rows: candidate {view.candidate:,}, stable {view.stable:,}"
    if state.is_open:
        line += f"   in this stage {_duration(state.stage_s)}"
        left = "not known" if view.left_s is None else f"about {_duration(view.left_s)}"
        line += f"   left if it is as good: {left}"
    return line


def _bar(part: float, *, width: int = 16) -> str:
    full = round(width * max(0.0, min(1.0, part)))
    return "█" * full + "░" * (width - full)


def _words(summary: str, example: str) -> Callable[[Any], Any]:
    """Return what the commands share by which a person says something to a running release."""

    def decorate(function: Any) -> Any:
        function = json_option(home_option(key_option(function)))
        function = reason_option(function)
        function = click.argument("service", required=False)(function)
        return release.command(short_help=summary, epilog=f"\b\nExample:\n  {example}")(function)

    return decorate


@_words("Hold a release where it is.", 'tidegate release pause flight-delay --reason "holiday"')
def pause(service: str | None, *, reason: str, key: str | None, home: Path | None, as_json: bool) -> None:
    """Hold the release of SERVICE at its share. Keys stay where they are; a regression still ends it."""
    from tidegate.operation.rollout import pause_release

    local = open_local(home, must_exist=True)
    name = _service(local, service)
    state = pause_release(
        local.unit, name, principal=local.principal, clock=local.clock, reason=reason, key=key
    )
    _tell(state, f"The release of {name} holds at {state.share:.1%}.", as_json=as_json)


@_words("Let a paused release go on.", "tidegate release resume flight-delay")
def resume(service: str | None, *, reason: str, key: str | None, home: Path | None, as_json: bool) -> None:
    """Let the release of SERVICE go on from where it was held, with the same keys."""
    from tidegate.operation.rollout import resume_release

    local = open_local(home, must_exist=True)
    name = _service(local, service)
    state = resume_release(
        local.unit, name, principal=local.principal, clock=local.clock, reason=reason, key=key
    )
    _tell(state, f"The release of {name} goes on at {state.share:.1%}.", as_json=as_json)


@_words("Agree to the share that a release waits for.", "tidegate release approve flight-delay")
def approve(service: str | None, *, reason: str, key: str | None, home: Path | None, as_json: bool) -> None:
    """Agree to the next share of the release of SERVICE, where its plan waits for a person."""
    from tidegate.operation.rollout import approve_release

    local = open_local(home, must_exist=True)
    name = _service(local, service)
    state = approve_release(
        local.unit, name, principal=local.principal, clock=local.clock, reason=reason, key=key
    )
    _tell(state, f"The release of {name} may go to {state.approved:.1%}.", as_json=as_json)


@_words(
    "Give the candidate everything, whatever the evidence says.",
    'tidegate release promote flight-delay --reason "the old one reads a feed that is gone"',
)
def promote(service: str | None, *, reason: str, key: str | None, home: Path | None, as_json: bool) -> None:
    """Promote the candidate of SERVICE now. It needs a reason, which is kept with your name."""
    from tidegate.operation.rollout import promote_now

    local = open_local(home, must_exist=True)
    name = _service(local, service)
    state = promote_now(
        local.unit, name, principal=local.principal, clock=local.clock, reason=reason, key=key
    )
    _tell(state, f"Version {state.candidate} of {name} gets all the traffic.", as_json=as_json)


@_words("Call a release off.", "tidegate release abort flight-delay")
def abort(service: str | None, *, reason: str, key: str | None, home: Path | None, as_json: bool) -> None:
    """Give the candidate's traffic of SERVICE back to stable, and end the release. Nothing is latched.

    Works without the controller. With the database down traffic goes back too, but the release may go on:
    the exit status is 1. Where nothing is under way it does nothing.
    """
    from tidegate.core.error import TidegateError
    from tidegate.operation.meant import service_to_roll_back
    from tidegate.operation.rollout import abort_release

    local = open_local(home, must_exist=True)
    try:
        name = _service(local, service)
    except TidegateError:
        name = service_to_roll_back(local.routes.read(), now_us=local.clock.wall_us())
    state = abort_release(
        lambda: local.unit,
        local.cells,
        name,
        principal=local.principal,
        clock=local.clock,
        reason=reason,
        key=key,
    )
    if state is None:
        route = local.routes.read().services.get(name)
        holder = "no version" if route is None or route.stable is None else f"version {route.stable}"
        text = f"No release of {name} goes on: {holder} has its traffic."
    else:
        text = f"The release of {name} is over: version {state.stable} has its traffic."
    _tell(state, text, as_json=as_json)


def _tell(state: State | None, text: str, *, as_json: bool) -> None:
    if as_json:
        print_json(state)
    else:
        click.echo(text)
