"""`tidegate audit`."""

from __future__ import annotations

from pathlib import Path

import click

from tidegate.cli.main import SAID_NO
from tidegate.cli.option import home_option, json_option, open_local
from tidegate.cli.screen import moment, print_json, print_table


@click.group(short_help="Check and read the audit log.")
def audit() -> None:
    """Check and read the audit log: one entry a change, each sealed by the one after it."""


@audit.command(
    epilog="\b\nExamples:\n  tidegate audit verify\n  tidegate audit verify --anchor 42:sha256:..."
)
@click.option(
    "--anchor", multiple=True, help="A head printed earlier by `tidegate audit head` and kept elsewhere."
)
@home_option
@json_option
def verify(anchor: tuple[str, ...], home: Path | None, as_json: bool) -> None:
    """Check every entry, and every version and decision against its entry.

    The exit status is 3 if anything was altered, removed or added behind the log's back.
    """
    from tidegate.governance.audit import Head
    from tidegate.operation.audit import verify_audit

    report = verify_audit(
        open_local(home, must_exist=True).unit, anchors=[Head.parse(text) for text in anchor]
    )
    if as_json:
        print_json(report)
    elif report.holds:
        click.echo(
            f"The audit log holds: {report.chain.n_entries} entries, "
            f"{report.n_records} versions and decisions as they were recorded."
        )
    else:
        if report.chain.fault is not None:
            fault = report.chain.fault
            click.echo(f"The audit log is broken at entry {fault.sequence}: {fault.reason}.", err=True)
        for line in report.discrepancies:
            click.echo(line, err=True)
    if not report.holds:
        raise click.exceptions.Exit(SAID_NO)


@audit.command(epilog="\b\nExample:\n  tidegate audit head >> /somewhere/else/anchors.txt")
@home_option
def head(home: Path | None) -> None:
    """Print the log's head. Kept elsewhere, it shows later that nothing before it was rewritten."""
    from tidegate.operation.audit import audit_head

    click.echo(str(audit_head(open_local(home, must_exist=True).unit)))


@audit.command("list", epilog="\b\nExamples:\n  tidegate audit list --service flight-delay --last 10")
@click.option("--service", help="Only entries that concern this service.")
@click.option("--last", type=click.IntRange(1), default=50, show_default=True, help="How many, at most.")
@home_option
@json_option
def list_(service: str | None, last: int, home: Path | None, as_json: bool) -> None:
    """List the latest entries: who changed what, and when."""
    from tidegate.operation.audit import audit_head, list_entries
    from tidegate.operation.version import check_service

    unit = open_local(home, must_exist=True).unit
    after = 0 if service else max(0, audit_head(unit).sequence - last)
    entries = list_entries(unit, service=service, after=after, limit=10_000)[-last:]
    if not entries:
        check_service(unit, service)
    if as_json:
        print_json(entries)
        return
    print_table(
        ("#entry", "when", "who", "did", "to"),
        [
            (entry.sequence, moment(entry.at_us), entry.principal.name, entry.action, entry.subject)
            for entry in entries
        ],
    )
