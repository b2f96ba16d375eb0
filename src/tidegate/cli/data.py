"""`tidegate data`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from tidegate.cli.held import held, refuse, release, why
from tidegate.cli.label import label, labels
from tidegate.cli.main import SAID_NO
from tidegate.cli.option import FILE, F, home_option, json_option, key_option, open_local
from tidegate.cli.screen import moment, print_json, print_table, short
from tidegate.cli.split import duplicates, leaks, split

if TYPE_CHECKING:
    from tidegate.bootstrap.local import Local
    from tidegate.contract.schema import Schema
    from tidegate.data.difference import Difference
    from tidegate.data.report import Finding, Report
    from tidegate.data.source import Source
    from tidegate.data.summary import ColumnSummary
    from tidegate.data.validation import Validated


@click.group(short_help="Check, label and split data; take, list, show and compare snapshots.")
def data() -> None:
    """Check, label and split data; take, list, show and compare snapshots.

    A snapshot never changes. Name it by its data set (the latest), as name@number, or by its digest.
    """


def _checking(command: F) -> F:
    """Add the options that say what rows must fulfil."""
    for option in (
        click.option(
            "--on-breach",
            type=click.Choice(["reject", "quarantine", "warn"]),
            default="reject",
            help="What follows from a row that breaks the contract; rules say so themselves.",
        ),
        click.option("--rules", "rule_file", type=FILE, help="JSON list of rules that the rows must keep."),
        click.option("--contract", help="Check the inputs of this contract: a file, a folder, a version."),
    ):
        command = option(command)
    return command


@data.command(
    epilog="\b\nExamples:\n  tidegate data snapshot flights flights.parquet\n"
    "  tidegate data snapshot flights flights.csv --contract flight-delay --rules rules.json\n"
    "  tidegate data snapshot orders --database sqlite:///shop.db --query 'SELECT * FROM orders'"
)
@click.argument("name")
@click.argument("file", type=FILE, required=False)
@click.option(
    "--database",
    metavar="URL",
    help="Read from this database: sqlite:///PATH or postgresql://USER@HOST/DATABASE. Keep a password in "
    "PGPASSWORD or the password file.",
)
@click.option("--query", metavar="SQL", help="What to select from it; runs in a read-only transaction.")
@_checking
@click.option("--parent", "parents", multiple=True, help="Snapshot that the rows were made from. Repeatable.")
@click.option("--note", default="", help="How the rows were made, in words.")
@click.option(
    "--guard",
    is_flag=True,
    help="Hold the rows for a person if they are unlike the data set's earlier snapshots, or if there are "
    "too few of them to tell.",
)
@click.option("--label", help="With --guard: column of classes whose shares are watched too.")
@key_option
@home_option
@json_option
def snapshot(
    name: str,
    file: Path | None,
    *,
    database: str | None,
    query: str | None,
    contract: str | None,
    rule_file: Path | None,
    on_breach: str,
    parents: tuple[str, ...],
    note: str,
    guard: bool,
    label: str | None,
    key: str | None,
    home: Path | None,
    as_json: bool,
) -> None:
    """Store the rows of FILE (or of a query) as the next snapshot of the data set NAME.

    Reads CSV, Parquet, JSON lines (.jsonl, .ndjson) and Arrow files piece by piece. Rows that are the latest
    snapshot already get no new number. They are checked first, as by `tidegate data check`: of rejected data
    nothing is stored (exit status 3), quarantined rows become the data set NAME.quarantine. A held batch
    (exit status 3 too) waits for `tidegate data release` or `tidegate data refuse`.
    """
    from tidegate.operation.data import find_snapshot
    from tidegate.operation.held import take_guarded
    from tidegate.operation.key import new_key

    local = open_local(home)
    schema = _schema(local, contract)
    source = _source(file, database, query, schema)
    if label is not None and not guard:
        raise click.UsageError("--label says what --guard watches.")
    taken = take_guarded(
        local.unit,
        local.artifacts,
        _validated(local, source, schema, rule_file=rule_file, on_breach=on_breach),
        name=name,
        principal=local.principal,
        key=key or new_key(),
        clock=local.clock,
        parents=tuple(find_snapshot(local.unit, local.artifacts, parent)[0] for parent in parents),
        note=note,
        hidden=_sensitive(schema),
        guard=guard,
        label=label,
    )
    if as_json:
        print_json(taken)
    else:
        _print_findings(taken.report)
        if taken.held is not None:
            click.echo(f"Held as {short(taken.held.digest)}: {why(taken.held.report)}")
        for one in (taken.snapshot, taken.quarantine):
            if one is not None:
                click.echo(f"Snapshot {one.label}: {one.n_rows:,} rows, {one.digest}.")
    if taken.snapshot is None:
        raise click.exceptions.Exit(SAID_NO)


@data.command(
    epilog="\b\nExamples:\n  tidegate data check flights.csv --contract examples/flights\n"
    "  tidegate data check orders.parquet --rules rules.json --json"
)
@click.argument("file", type=FILE)
@_checking
@home_option
@json_option
def check(
    file: Path,
    *,
    contract: str | None,
    rule_file: Path | None,
    on_breach: str,
    home: Path | None,
    as_json: bool,
) -> None:
    """Check the rows of FILE and say which rules they break; store nothing.

    RULES is a JSON list such as [{"rule": "unique", "columns": ["id"], "policy": "quarantine"}]. The rules
    are unique, monotone, fresh, nulls, range, typical, referential and stable. The exit status is 3 if the
    data would be rejected.
    """
    local = open_local(home)
    schema = _schema(local, contract)
    source = _source(file, None, None, schema)
    report = _validated(local, source, schema, rule_file=rule_file, on_breach=on_breach).report
    if as_json:
        print_json(report)
    else:
        _print_findings(report)
        click.echo(
            f"{report.n_rows:,} rows, {report.n_checks} checks, {len(report.findings)} findings: "
            f"{'accepted' if report.accepted else 'rejected'}, {report.n_quarantined:,} rows to quarantine."
        )
    if not report.accepted:
        raise click.exceptions.Exit(SAID_NO)


def _schema(local: Local, contract: str | None) -> Schema | None:
    from tidegate.bootstrap.declared import find_contract

    return None if contract is None else find_contract(local, contract).input


def _sensitive(schema: Schema | None) -> tuple[str, ...]:
    return () if schema is None else tuple(field.name for field in schema.fields if field.sensitive)


def _source(file: Path | None, database: str | None, query: str | None, schema: Schema | None) -> Source:
    from tidegate.bootstrap.query import open_query_reader
    from tidegate.data.source import file_source, query_source

    if file is not None and database is None and query is None:
        fields = () if schema is None else schema.fields
        return file_source(file, text=[field.name for field in fields if field.type.is_text])
    if file is None and database is not None and query is not None:
        return query_source(open_query_reader(database), query)
    raise click.UsageError("Name a FILE, or both --database and --query.")


def _validated(
    local: Local, source: Source, schema: Schema | None, *, rule_file: Path | None, on_breach: str
) -> Validated:
    from tidegate.data.report import Policy
    from tidegate.data.rule import read_rules
    from tidegate.operation.data import check_data

    return check_data(
        local.unit,
        local.artifacts,
        source,
        clock=local.clock,
        rules=() if rule_file is None else read_rules(rule_file.read_bytes()),
        schema=schema,
        policy=Policy(on_breach),
    )


def _print_findings(report: Report) -> None:
    if not report.findings:
        return
    print_table(
        ("rule", "column", "#rows", "policy", "what is wrong", "for example"),
        (
            (
                finding.rule,
                finding.column,
                f"{finding.count:,}",
                finding.policy.value,
                finding.message,
                "; ".join(_example(finding, place) for place in range(min(3, len(finding.row_numbers)))),
            )
            for finding in report.findings
        ),
    )


def _example(finding: Finding, place: int) -> str:
    row = finding.rows[place]
    shown = {name: row[name] for name in finding.column.split(", ") if name in row} or row
    values = ", ".join(f"{name}={value!r}" for name, value in shown.items())
    return f"row {finding.row_numbers[place]}: {values[:60]}"


@data.command(name="list", epilog="\b\nExamples:\n  tidegate data list\n  tidegate data list flights --json")
@click.argument("name", required=False)
@home_option
@json_option
def list_(name: str | None, home: Path | None, as_json: bool) -> None:
    """List the snapshots, of the data set NAME or of all."""
    from tidegate.operation.data import check_data_set, list_snapshots

    local = open_local(home, must_exist=True)
    found = list_snapshots(local.unit, name)
    if not found:
        check_data_set(local.unit, name)
    if as_json:
        print_json(found)
        return
    if not found:
        click.echo(f"No snapshot was taken in {local.home.root}.")
        return
    print_table(
        ("snapshot", "#rows", "digest", "content", "taken", "by", "note"),
        (
            (
                one.label,
                f"{one.n_rows:,}",
                short(one.digest),
                short(one.content),
                moment(one.at_us),
                one.principal.name,
                one.note,
            )
            for one in found
        ),
    )


@data.command(epilog="\b\nExamples:\n  tidegate data show flights\n  tidegate data show flights@2 --json")
@click.argument("target")
@home_option
@json_option
def show(target: str, home: Path | None, as_json: bool) -> None:
    """Show what the snapshot TARGET holds, column by column, and where it came from."""
    from tidegate.operation.data import find_snapshot

    local = open_local(home, must_exist=True)
    digest, found = find_snapshot(local.unit, local.artifacts, target)
    if as_json:
        print_json({"digest": digest, "content": found.content, "snapshot": found})
        return
    origin = found.origin
    click.echo(f"Snapshot {digest}\n{found.n_rows:,} rows in {len(found.parts)} part files")
    click.echo(f"From {origin.kind} {origin.location} {origin.query or origin.digest or ''}".rstrip())
    for parent in found.parents:
        click.echo(f"Made from {parent}")
    if found.note:
        click.echo(found.note)
    print_table(
        ("column", "type", "#missing", "#distinct", "#least", "#mean", "#greatest", "most frequent"),
        (_row(column) for column in found.columns),
    )
    for column in found.columns:
        if column.n_infinite:
            click.echo(f"{column.name}: {column.n_infinite:,} infinite values, not in the figures above.")


def _row(column: ColumnSummary) -> tuple[object, ...]:
    top = ", ".join(f"{value} ({count:,})" for value, count in list(column.values.items())[:3])
    figures = (column.low, column.mean, column.high)
    texts = (
        "" if figure is None else f"{figure:.6g}" if isinstance(figure, float) else figure
        for figure in figures
    )
    distinct = "" if column.n_distinct is None else f"{column.n_distinct:,}"
    return (column.name, column.type, f"{column.n_null:,}", distinct, *texts, top)


@data.command(
    epilog="\b\nExamples:\n  tidegate data diff flights@1 flights@2\n  tidegate data diff a b --json"
)
@click.argument("old")
@click.argument("new")
@home_option
@json_option
def diff(old: str, new: str, home: Path | None, as_json: bool) -> None:
    """Say what changed from the snapshot OLD to the snapshot NEW."""
    from tidegate.data.difference import compare_snapshots
    from tidegate.operation.data import find_snapshot

    local = open_local(home, must_exist=True)
    before = find_snapshot(local.unit, local.artifacts, old)[1]
    after = find_snapshot(local.unit, local.artifacts, new)[1]
    found = compare_snapshots(local.artifacts, before, after)
    if as_json:
        print_json(found)
    else:
        _print_difference(found)


def _print_difference(found: Difference) -> None:
    before, after = found.n_rows
    if found.same_content:
        click.echo(f"The same {after:,} rows.")
        return
    click.echo(f"{before:,} -> {after:,} rows; {found.n_shared_parts} part files shared")
    for name in found.added:
        click.echo(f"Column added: {name}")
    for name in found.removed:
        click.echo(f"Column removed: {name}")
    if found.changed:
        print_table(
            ("column", "type", "#missing", "#mean", "#PSI", "#by chance", "moved"),
            (
                (
                    change.name,
                    _pair(change.old.type, change.new.type),
                    _pair(f"{change.old.n_null:,}", f"{change.new.n_null:,}"),
                    _pair(_figure(change.old.mean), _figure(change.new.mean)),
                    _figure(change.psi),
                    _figure(change.by_chance),
                    "yes" if change.moved else "",
                )
                for change in found.changed
            ),
        )


def _pair(old: str, new: str) -> str:
    return old if old == new else f"{old} -> {new}"


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


for _command in (split, leaks, duplicates, labels, label, held, release, refuse):
    data.add_command(_command)
