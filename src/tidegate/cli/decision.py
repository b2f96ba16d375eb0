"""`tidegate decisions`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from tidegate.cli.main import SAID_NO
from tidegate.cli.option import NUMBER, home_option, json_option, open_local
from tidegate.cli.screen import moment, print_json, print_table

if TYPE_CHECKING:
    from tidegate.core.decision import Evidence


class _Listing(click.Group):
    """A group whose plain form lists: `tidegate decisions flight-delay`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        asks_help = bool({"-h", "--help"} & set(args[:1]))
        if not asks_help and (not args or args[0] not in self.commands):
            args = ["list", *args]
        return super().parse_args(ctx, args)


@click.group(
    cls=_Listing,
    short_help="List what was decided, by whom and on which evidence; replay it.",
    epilog="\b\nExamples:\n  tidegate decisions flight-delay\n  tidegate decisions replay 42",
)
def decisions() -> None:
    """Everything that was decided, with its evidence. Without a word of the below, it lists."""


@decisions.command(
    name="list",
    short_help="List what was decided.",
    epilog="\b\nExamples:\n  tidegate decisions list flight-delay\n"
    "  tidegate decisions --kind rollback --json",
)
@click.argument("service", required=False)
@click.option("--kind", help="Only decisions of this kind: first-deployment, switch, rollback, ...")
@click.option("--version", type=NUMBER, help="Only decisions about this version.")
@home_option
@json_option
def list_all(
    service: str | None, *, kind: str | None, version: int | None, home: Path | None, as_json: bool
) -> None:
    """List what was decided about one SERVICE or all; `--json` gives the whole evidence."""
    from tidegate.operation.version import check_service, list_decisions

    unit = open_local(home, must_exist=True).unit
    found = list_decisions(unit, service, kind=kind, version=version)
    if not found and not list_decisions(unit, service, limit=1):  # a data set is decided about, too
        check_service(unit, service)
    if as_json:
        print_json(found)
        return
    if not found:
        asked = kind is not None or version is not None
        click.echo("No decision matches." if asked else "Nothing was decided yet.")
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


@decisions.command(
    short_help="Show one decision with its evidence.", epilog="\b\nExample:\n  tidegate decisions show 42"
)
@click.argument("number", type=NUMBER)
@home_option
@json_option
def show(number: int, *, home: Path | None, as_json: bool) -> None:
    """Show decision NUMBER: what was decided, by whom, and what each rule saw and said."""
    from tidegate.operation.replay import find_decision

    decision = find_decision(open_local(home, must_exist=True).unit, number)
    if as_json:
        print_json(decision)
        return
    about = decision.service if decision.version is None else f"{decision.service} version {decision.version}"
    click.echo(f"{number}: {decision.kind} of {about}: {decision.outcome}")
    click.echo(f"by {decision.principal.name}, {moment(decision.at_us)}")
    if decision.reason:
        click.echo(decision.reason)
    if decision.evidence:
        print_table(
            ("rule", "verdict", "#statistic", "why"),
            [(each.rule, _verdict(each), _figure(each.statistic), each.reason) for each in decision.evidence],
        )


@decisions.command(
    short_help="Evaluate a decision's evidence again.", epilog="\b\nExample:\n  tidegate decisions replay 42"
)
@click.argument("number", type=NUMBER)
@home_option
@json_option
def replay(number: int, *, home: Path | None, as_json: bool) -> None:
    """Evaluate the rules of decision NUMBER again on the counts that its evidence keeps.

    Works after the records themselves are gone. The exit status is 3 if a verdict differs.
    """
    from tidegate.operation.replay import replay_decision

    found = replay_decision(open_local(home, must_exist=True).unit, number)
    if as_json:
        print_json(found)
    else:
        print_table(
            ("rule", "verdict", "#statistic", "again", "same"),
            [
                (
                    each.evidence.rule,
                    _verdict(each.evidence),
                    _figure(each.evidence.statistic),
                    each.verdict or "-",
                    "yes" if each.is_same else "NO",
                )
                for each in found.evidence
            ],
        )
        click.echo("Every verdict is the same." if found.is_same else "A verdict differs.")
    if not found.is_same:
        raise click.exceptions.Exit(SAID_NO)


def _verdict(evidence: Evidence) -> str:
    from tidegate.gate.verdict import applies

    return evidence.verdict.value if applies(evidence) else "n/a"


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
