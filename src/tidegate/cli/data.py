"""`tidegate data`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from tidegate.cli.option import FILE, home_option, json_option, key_option, open_local
from tidegate.cli.screen import moment, print_json, print_table, short

if TYPE_CHECKING:
    from tidegate.data.difference import Difference
    from tidegate.data.source import Source
    from tidegate.data.summary import ColumnSummary


@click.group(short_help="Take, list, show and compare snapshots of data.")
def data() -> None:
    """Take, list, show and compare snapshots of data.

    A snapshot never changes. Name it by its data set (the latest), as name@number, or by its digest.
    """


@data.command(
    epilog="\b\nExamples:\n  tidegate data snapshot flights flights.parquet\n"
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
@click.option("--parent", "parents", multiple=True, help="Snapshot that the rows were made from. Repeatable.")
@click.option("--note", default="", help="How the rows were made, in words.")
@key_option
@home_option
@json_option
def snapshot(
    name: str,
    file: Path | None,
    *,
    database: str | None,
    query: str | None,
    parents: tuple[str, ...],
    note: str,
    key: str | None,
    home: Path | None,
    as_json: bool,
) -> None:
    """Store the rows of FILE (or of a query) as the next snapshot of the data set NAME.

    Reads CSV, Parquet, JSON lines (.jsonl, .ndjson) and Arrow files piece by piece. Rows that are the latest
    snapshot already get no new number.
    """
    from tidegate.operation.data import find_snapshot, take_snapshot
    from tidegate.operation.mutation import new_key

    source = _source(file, database, query)
    local = open_local(home)
    outcome = take_snapshot(
        local.unit,
        local.artifacts,
        source,
        name=name,
        principal=local.principal,
        key=key or new_key(),
        clock=local.clock,
        parents=tuple(find_snapshot(local.unit, local.artifacts, parent)[0] for parent in parents),
        note=note,
    )
    taken = outcome.result
    if as_json:
        print_json(taken)
    else:
        click.echo(f"Snapshot {taken.label}: {taken.n_rows:,} rows, {taken.digest}.")


def _source(file: Path | None, database: str | None, query: str | None) -> Source:
    from tidegate.bootstrap.query import open_query_reader
    from tidegate.data.source import file_source, query_source

    if file is not None and database is None and query is None:
        return file_source(file)
    if file is None and database is not None and query is not None:
        return query_source(open_query_reader(database), query)
    raise click.UsageError("Name a FILE, or both --database and --query.")


@data.command(name="list", epilog="\b\nExamples:\n  tidegate data list\n  tidegate data list flights --json")
@click.argument("name", required=False)
@home_option
@json_option
def list_(name: str | None, home: Path | None, as_json: bool) -> None:
    """List the snapshots, of the data set NAME or of all."""
    from tidegate.operation.data import list_snapshots

    local = open_local(home, must_exist=True)
    found = list_snapshots(local.unit, name)
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
