"""`tidegate data held|release|refuse`: batches that the guard did not let pass."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from tidegate.cli.option import REASON, home_option, json_option, key_option, open_local
from tidegate.cli.screen import moment, print_json, print_table, short

if TYPE_CHECKING:
    from tidegate.data.guard import GuardReport


@click.command(epilog="\b\nExamples:\n  tidegate data held\n  tidegate data held payments --all --json")
@click.argument("name", required=False)
@click.option("--all", "with_judged", is_flag=True, help="Also those that were released or refused.")
@home_option
@json_option
def held(name: str | None, *, with_judged: bool, home: Path | None, as_json: bool) -> None:
    """List the batches that wait for a person, of the data set NAME or of all."""
    from tidegate.operation.data import check_data_set
    from tidegate.operation.held import State, list_batches

    local = open_local(home, must_exist=True)
    batches = list_batches(local.unit)
    check_data_set(local.unit, name, others={each.name for each in batches})
    found = [
        each for each in batches if name in (None, each.name) and (with_judged or each.state is State.HELD)
    ]
    if as_json:
        print_json(found)
        return
    if not found:
        click.echo("No batch is held.")
        return
    print_table(
        ("batch", "data set", "#rows", "state", "brought", "by", "why", "judged"),
        (
            (
                short(each.digest),
                each.name,
                f"{each.n_rows:,}",
                each.state.value,
                moment(each.at_us),
                each.principal.name,
                why(each.report),
                "" if each.judged_by is None else f"{each.judged_by.name}: {each.reason}",
            )
            for each in found
        ),
    )


def why(report: GuardReport) -> str:
    """Return in words what a guard found."""
    from tidegate.data.guard import MIN_BATCHES

    if report.departures:
        return "\n".join(each.message for each in report.departures)
    return f"{report.n_batches} earlier batches; {MIN_BATCHES} are needed to judge one"


_reason = click.option("--reason", type=REASON, required=True, help="Why, for the audit log.")


@click.command(
    epilog="\b\nExamples:\n  tidegate data release 4f1c09ab23de --reason 'new branch, checked with Ana'"
)
@click.argument("batch")
@_reason
@key_option
@home_option
def release(batch: str, *, reason: str, key: str | None, home: Path | None) -> None:
    """Take the held BATCH: its rows become the next snapshot of their data set."""
    from tidegate.operation.held import judge_batch
    from tidegate.operation.key import new_key

    local = open_local(home, must_exist=True)
    taken = judge_batch(
        local.unit,
        local.artifacts,
        batch,
        release=True,
        reason=reason,
        principal=local.principal,
        key=key or new_key(),
        clock=local.clock,
    ).result
    assert taken is not None
    click.echo(f"Snapshot {taken.label}: {taken.n_rows:,} rows, {taken.digest}.")


@click.command(epilog="\b\nExamples:\n  tidegate data refuse 4f1c09ab23de --reason 'labels were flipped'")
@click.argument("batch")
@_reason
@key_option
@home_option
def refuse(batch: str, *, reason: str, key: str | None, home: Path | None) -> None:
    """Refuse the held BATCH: its rows never become a snapshot of their data set."""
    from tidegate.operation.held import judge_batch
    from tidegate.operation.key import new_key

    local = open_local(home, must_exist=True)
    judge_batch(
        local.unit,
        local.artifacts,
        batch,
        release=False,
        reason=reason,
        principal=local.principal,
        key=key or new_key(),
        clock=local.clock,
    )
    click.echo("Refused.")
