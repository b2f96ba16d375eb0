"""`tidegate gate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from tidegate.cli.main import SAID_NO
from tidegate.cli.option import REASON, home_option, json_option, key_option, open_local
from tidegate.cli.screen import moment, print_json, print_table

if TYPE_CHECKING:
    from tidegate.operation.gate import Finding, GateState

_COLOURS = {"safe": "green", "regressed": "red", "undecided": "yellow", "invalid": "red"}


@click.command(
    short_help="Put a version through its gates, before it gets traffic.",
    epilog="\b\nExamples:\n  tidegate gate flight-delay\n  tidegate gate flight-delay@2 --json\n"
    "  tidegate gate flight-delay@2 --override latency --reason 'three times the trees, and worth it'\n"
    "  tidegate gate flight-delay@2 --show\n"
    "  tidegate gate fraud@2 --data october.parquet --target is_fraud",
)
@click.argument("version")
@click.option(
    "--override", "overridden", metavar="GATE", help="Let this gate's verdict not count; needs --reason."
)
@click.option("--reason", type=REASON, default="", help="Why, in your words; kept for ever.")
@click.option(
    "--data",
    metavar="FILE|SNAPSHOT",
    help="Rows with what came true, to compare on instead of those that the version's trial held out.",
)
@click.option("--target", metavar="COLUMN", help="With --data: what came true, where nothing declares it.")
@click.option("--show", is_flag=True, help="Show what the gates said last, and run nothing.")
@key_option
@home_option
@json_option
def gate(
    version: str,
    *,
    overridden: str | None,
    reason: str,
    data: str | None,
    target: str | None,
    show: bool,
    key: str | None,
    home: Path | None,
    as_json: bool,
) -> None:
    """Ask every gate about VERSION (service@number, or a service for its latest), beside the champion.

    Quality is compared on rows that neither was fitted on: those that its trainer held out, or those of
    --data, which a version that was only registered needs. Latency and memory are measured by loading
    servers of both in turn. Everything that was seen is kept as one decision. Ends with status 3 unless
    every gate says safe, or a person overrode it by name.
    """
    from tidegate.bootstrap.gate import gate_version
    from tidegate.operation.gate import gate_state, override
    from tidegate.operation.key import new_key
    from tidegate.operation.version import show_version
    from tidegate.registry.version import parse_version_label

    local = open_local(home, must_exist=True)
    service, number = parse_version_label(version) if "@" in version else (version, None)
    found = show_version(local.unit, service, number=number)
    if reason and not overridden:
        raise click.UsageError("--reason goes with --override.")
    state = gate_state(local.unit, service, found.number)
    if not show and (not overridden or state.decision is None):
        state = gate_version(
            local,
            service,
            found.number,
            data=data,
            target=target,
            key=None if overridden else key,
            tell=_quiet if as_json else _tell,
        )
    if overridden:
        state = override(
            local.unit,
            service=service,
            version=found.number,
            gate=overridden,
            reason=reason,
            principal=local.principal,
            key=key or new_key(),
            clock=local.clock,
        )
    if as_json:
        print_json(state)
    else:
        show_state(state)
    if not state.passed:
        click.get_current_context().exit(SAID_NO)


def show_state(state: GateState) -> None:
    """Print what each gate said, and what follows."""
    if state.findings:
        print_table(("gate", "verdict", "why"), [_row(finding) for finding in state.findings])
    if state.note:
        click.echo(f"Rows compared: {state.note}.")
    for each in state.overrides:
        click.echo(
            f"Override of {each.gate} ({each.verdict}) by {each.by} at {moment(each.at_us)}: {each.reason}"
        )
    click.secho(state.words, fg="green" if state.passed else "red", bold=True)
    if state.decision is not None:
        click.echo(f"Kept as decision {state.decision}, with all figures: tidegate decisions --json")


def _row(finding: Finding) -> tuple[str, str, str]:
    from rich.markup import escape

    said = finding.verdict.value if finding.applies else "n/a"
    colour = _COLOURS[finding.verdict.value] if finding.applies else "dim"
    if finding.override is not None:
        said, colour = f"{said}, overridden", "magenta"
    return finding.gate, f"[{colour}]{said}[/{colour}]", escape(finding.reason)


def _tell(line: str) -> None:
    click.echo(line, err=True)


def _quiet(line: str) -> None:
    """Programs read the result only."""
