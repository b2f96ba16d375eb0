"""`tidegate signals`."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tidegate.cli.option import REASON, home_option, json_option, open_local
from tidegate.cli.screen import moment, print_json, print_table

if TYPE_CHECKING:
    from tidegate.bootstrap.local import Local
    from tidegate.monitoring.signal import Signal

_LONGEST_MUTE_S = 10 * 365 * 86_400.0


@click.group(short_help="List and show what deserves attention; acknowledge, mute, resolve it.")
def signals() -> None:
    """Look at what deserves attention, and say what is done about it."""


@signals.command(
    "list", epilog="\b\nExamples:\n  tidegate signals list\n  tidegate signals list flight-delay --all --json"
)
@click.argument("service", required=False)
@click.option("--all", "with_past", is_flag=True, help="Also those that are over.")
@home_option
@json_option
def list_signals(service: str | None, *, with_past: bool, home: Path | None, as_json: bool) -> None:
    """List the signals of SERVICE or of all, the latest first."""
    from tidegate.monitoring.signal import State
    from tidegate.operation.signal import stored_signals
    from tidegate.operation.version import check_service

    local = open_local(home, must_exist=True)
    found = stored_signals(local.unit, service)
    if not found:
        check_service(local.unit, service)
    shown = [each for each in found if with_past or each.state is not State.RESOLVED]
    if as_json:
        print_json(shown)
        return
    if not shown:
        click.echo("No signals.")
        return
    now_us = local.clock.wall_us()
    print_table(
        ("signal", "service", "severity", "since", "last", "state", "what", "cost"),
        [
            (
                each.id,
                each.service,
                each.severity.value,
                each.first_on,
                each.last_on,
                "muted" if each.is_muted(now_us) and each.state is not State.RESOLVED else each.state.value,
                each.title,
                each.cost,
            )
            for each in shown
        ],
    )


@signals.command(epilog="\b\nExamples:\n  tidegate signals show 3f9a\n  tidegate signals show 3f9a --json")
@click.argument("id")
@home_option
@json_option
def show(id: str, *, home: Path | None, as_json: bool) -> None:
    """Show one signal with its evidence; the first digits of its ID are enough."""
    from tidegate.core.error import NotFound
    from tidegate.operation.signal import stored_signals

    local = open_local(home, must_exist=True)
    found = [each for each in stored_signals(local.unit) if each.id.startswith(id)]
    if len(found) != 1:
        raise NotFound(
            f"{len(found)} signals have an id that begins with {id!r}; expected one.",
            hint="`tidegate signals list --all` shows them.",
        )
    if as_json:
        print_json(found[0])
    else:
        _print_signal(found[0])


@signals.command(epilog="\b\nExamples:\n  tidegate signals ack 3f9a")
@click.argument("id")
@home_option
def ack(id: str, *, home: Path | None) -> None:
    """Say that you have seen it: nobody is told again, it stays until it is over."""
    local = open_local(home, must_exist=True)
    _say(_change(local, id, "acknowledged"))


@signals.command(epilog="\b\nExamples:\n  tidegate signals mute 3f9a --for 2d")
@click.argument("id")
@click.option("--for", "length", required=True, help="How long: 90m, 12h, 2d, 1w.")
@home_option
def mute(id: str, *, length: str, home: Path | None) -> None:
    """Tell nobody about it for a while."""
    from tidegate.service.declare import duration_s

    seconds = duration_s(length)
    if seconds > _LONGEST_MUTE_S:
        raise click.BadParameter(
            f"{length} is longer than ten years; resolve it instead.", param_hint="--for"
        )
    local = open_local(home, must_exist=True)
    until_us = local.clock.wall_us() + int(seconds * 1e6)
    changed = _change(local, id, "muted", until_us=until_us)
    click.echo(f"{changed.id} is muted until {moment(until_us)}.")


@signals.command(
    epilog='\b\nExamples:\n  tidegate signals resolve 3f9a --reason "the new schedule; reference renewed"'
)
@click.argument("id")
@click.option(
    "--reason", type=REASON, required=True, help="Why it is over, in your words; kept with the decision."
)
@home_option
def resolve(id: str, *, reason: str, home: Path | None) -> None:
    """End it. What the monitors find later is a new signal."""
    local = open_local(home, must_exist=True)
    _say(_change(local, id, "resolved", reason=reason))


def _change(local: Local, id: str, word: str, *, until_us: int = 0, reason: str = "") -> Signal:
    from tidegate.operation.signal import change_signal

    today = datetime.fromtimestamp(local.clock.wall_us() / 1e6, UTC).date()
    acts = {
        "acknowledged": lambda book, whole: book.acknowledge(whole, local.principal.name),
        "muted": lambda book, whole: book.mute(whole, until_us),
        "resolved": lambda book, whole: book.resolve(whole, today, reason),
    }
    return change_signal(local.unit, id, acts[word], word=word, principal=local.principal, clock=local.clock)


def _say(signal: Signal) -> None:
    click.echo(f"{signal.id} is {signal.state.value}: {signal.title}.")


def _print_signal(signal: Signal) -> None:
    lines = [
        f"{signal.title}",
        f"  service   {signal.service}{f', owner {signal.owner}' if signal.owner else ''}",
        f"  severity  {signal.severity.value}, {signal.state.value}",
        f"  since     {signal.first_on}, last found {signal.last_on}, on {signal.n_windows} days",
        f"  cost      {signal.cost or 'not known'}",
        f"  to do     {signal.remedy}",
        f"  replay    {signal.replay}",
    ]
    if signal.resolved_on:
        lines.append(f"  over      {signal.resolved_on}: {signal.resolution}")
    click.echo("\n".join(lines))
    evidence = dict(signal.evidence)
    moved = evidence.pop("fields", ())
    for name, value in evidence.items():
        shown = f"{value:.4g}" if isinstance(value, float) else value
        click.echo(f"  {name.replace('_', ' '):<9} {shown}")
    if moved:
        print_table(
            (
                "field",
                "share of rows that moved most",
                "#before",
                "#now",
                "#PSI",
                "#missing",
                "#effect on error",
            ),
            [_moved(each) for each in moved],
        )
    click.echo(f"All of it: tidegate signals show {signal.id} --json")


def _moved(field: Mapping[str, Any]) -> tuple[str, ...]:
    what, before, now = field["moved"]
    effect = field.get("effect")
    return (
        field["field"].partition(".")[2] or field["field"],
        what,
        f"{before:.1%}",
        f"{now:.1%}",
        f"{field['psi']:.3f}",
        f"{field['missing']:.1%}",
        "-" if effect is None else f"{effect:+.4f}",
    )
