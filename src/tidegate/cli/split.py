"""`tidegate data split|leaks|duplicates`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from tidegate.cli.main import SAID_NO
from tidegate.cli.option import F, home_option, json_option, key_option, open_local
from tidegate.cli.screen import print_json, print_table

if TYPE_CHECKING:
    from tidegate.data.split import Split
    from tidegate.operation.rows import Rows


def _splitting(command: F) -> F:
    """Add the options that say how rows are split."""
    for option in (
        click.option("--seed", type=int, default=0, help="Of a stratified split; the salt of one by group."),
        click.option(
            "--gap", default="0s", help="Of a split by time: no training rows so long before the test."
        ),
        click.option(
            "--share",
            type=click.FloatRange(0, 1, min_open=True, max_open=True),
            default=0.2,
            show_default=True,
            help="Share of the rows to test on.",
        ),
        click.option(
            "--stratify", "strata", multiple=True, metavar="COLUMN", help="Split each stratum alike."
        ),
        click.option("--group", "groups", multiple=True, metavar="COLUMN", help="Keep a group on one side."),
        click.option("--time", "time", metavar="COLUMN", help="Test on the newest rows by this time."),
    ):
        command = option(command)
    return command


@click.command(
    epilog="\b\nExamples:\n  tidegate data split bookings --time arrival --gap 30d --to bookings-split\n"
    "  tidegate data split rows.parquet --group customer --share 0.3\n"
    "  tidegate data split bookings@2 --time arrival --folds 4 --test 30d --to folds"
)
@click.argument("target", metavar="FILE|SNAPSHOT")
@_splitting
@click.option(
    "--folds", type=click.IntRange(1), help="Of a split by time: so many tests, one after the other."
)
@click.option("--test", "test", help="With --folds: how long each tests, such as 30d.")
@click.option("--to", "name", help="Store the parts as snapshots of NAME.train and NAME.test.")
@key_option
@home_option
@json_option
def split(
    target: str,
    *,
    time: str | None,
    groups: tuple[str, ...],
    strata: tuple[str, ...],
    share: float,
    gap: str,
    seed: int,
    folds: int | None,
    test: str | None,
    name: str | None,
    key: str | None,
    home: Path | None,
    as_json: bool,
) -> None:
    """Split rows into those to train on and those to test on, and say how many stand where.

    Name one of --time, --group and --stratify. Every row stands in exactly one of train, test and gap.
    With --to the parts become snapshots whose parent is the snapshot they were made from.
    """
    from tidegate.operation.key import new_key
    from tidegate.operation.rows import load_rows, split_parts, store_parts

    local = open_local(home)
    rows = load_rows(local.unit, local.artifacts, target)
    if folds is None:
        found = [find_split(rows, time=time, groups=groups, strata=strata, share=share, gap=gap, seed=seed)]
    else:
        found = _folds(rows, time=time, folds=folds, test=test, gap=gap)
    taken = []
    if name is not None:
        how = f"a split of {rows.name} by {', '.join(filter(None, [time, *groups, *strata]))}"
        for number, each in enumerate(found, 1):
            taken += store_parts(
                local.unit,
                local.artifacts,
                split_parts(rows, each, fold=None if folds is None else number),
                name=name,
                parents=rows.parents,
                note=how,
                principal=local.principal,
                key=f"{key or new_key()}/{number}",
                clock=local.clock,
            )
    counts = [(len(each.train), len(each.test), len(each.gap)) for each in found]
    if as_json:
        sides = [dict(zip(("train", "test", "gap"), each, strict=True)) for each in counts]
        print_json({"n_rows": len(rows.table), "splits": sides, "snapshots": taken})
        return
    print_table(
        ("#fold", "#train", "#test", "#gap", "#share tested"),
        (
            (number, *(f"{count:,}" for count in each), f"{each[1] / len(rows.table):.2%}")
            for number, each in enumerate(counts, 1)
        ),
        title=f"{len(rows.table):,} rows of {rows.name}",
    )
    for one in taken:
        click.echo(f"Snapshot {one.label}: {one.n_rows:,} rows, {one.digest}.")


def find_split(
    rows: Rows,
    *,
    time: str | None,
    groups: tuple[str, ...],
    strata: tuple[str, ...],
    share: float,
    gap: str,
    seed: int,
) -> Split:
    """Return the split that the options ask for."""
    from tidegate.data.split import group_split, stratified_split, temporal_split

    if sum(map(bool, (time, groups, strata))) != 1:
        raise click.UsageError("Name one of --time, --group and --stratify.")
    if _us(gap) and not time:
        raise click.UsageError("A --gap goes with --time: other splits have no before and after.")
    if time:
        _check_time(rows, time, asked=bool(_us(gap)))
        return temporal_split(rows.table, time, test_share=share, gap_us=_us(gap))
    if groups:
        return group_split(rows.table, groups, test_share=share, salt=str(seed) if seed else "")
    return stratified_split(rows.table, strata, test_share=share, seed=seed)


def _folds(rows: Rows, *, time: str | None, folds: int, test: str | None, gap: str) -> list[Split]:
    from tidegate.data.split import rolling_splits

    if time is None or test is None:
        raise click.UsageError("Folds need --time and --test.")
    _check_time(rows, time, asked=True)
    return list(rolling_splits(rows.table, time, n_folds=folds, test_us=_us(test), gap_us=_us(gap)))


def _check_time(rows: Rows, column: str, *, asked: bool) -> None:
    """Refuse to measure a length of time in a column of plain numbers: nothing says what they count."""
    from tidegate.core.error import InvalidSetting

    dtype = rows.table.schema.get(column)
    if asked and dtype is not None and dtype.is_integer():
        raise InvalidSetting(
            f"{column} is {dtype}, not a time: --gap and --test need one.",
            hint="Make it a time first; without them its order is enough.",
            column=column,
        )


def _us(duration: str) -> int:
    from tidegate.service.declare import duration_s

    return round(duration_s(duration) * 1_000_000)


@click.command(
    epilog="\b\nExamples:\n  tidegate data leaks bookings --label is_canceled\n"
    "  tidegate data leaks rows.parquet --label late --asked-at dep_at --time dep_at --key tailnum"
)
@click.argument("target", metavar="FILE|SNAPSHOT")
@click.option("--label", required=True, help="Column that holds the answer.")
@click.option("--feature", "features", multiple=True, help="Look only at this column. Repeatable.")
@click.option("--asked-at", help="Column with the time at which the answer would be asked for.")
@click.option("--key", "keys", multiple=True, help="Column that names whom a row is about. Repeatable.")
@click.option(
    "--limit",
    type=click.FloatRange(0.5, 1),
    default=0.85,
    show_default=True,
    help="AUC above which a column alone knows too much.",
)
@_splitting
@home_option
@json_option
def leaks(
    target: str,
    *,
    label: str,
    features: tuple[str, ...],
    asked_at: str | None,
    keys: tuple[str, ...],
    limit: float,
    time: str | None,
    groups: tuple[str, ...],
    strata: tuple[str, ...],
    share: float,
    gap: str,
    seed: int,
    home: Path | None,
    as_json: bool,
) -> None:
    """Look for columns that know the answer, which at the time of asking nobody did.

    Each column alone is asked to order the answers (AUC), times must not lie after --asked-at, and keys must
    not stand on both sides of the split that --time, --group or --stratify make. Exit status 3 if there is
    a suspicion.
    """
    from tidegate.data.leak import find_leaks, why_untold
    from tidegate.operation.rows import load_rows

    local = open_local(home)
    rows = load_rows(local.unit, local.artifacts, target)
    if keys and not (time or groups or strata):
        raise click.UsageError("Keys are sought on both sides of a split: name one with --time or the like.")
    parted = (
        find_split(rows, time=time, groups=groups, strata=strata, share=share, gap=gap, seed=seed)
        if keys
        else None
    )
    found = find_leaks(
        rows.table,
        label,
        features=features or None,
        asked_at=asked_at,
        split=parted,
        keys=keys,
        auc_limit=limit,
    )
    untold = why_untold(rows.table, label, auc_limit=limit)
    if untold:
        click.echo(untold, err=as_json)
    if as_json:
        print_json(found)
    elif found:
        print_table(
            ("suspicion", "column", "#figure", "what"),
            ((each.kind.value, each.column, f"{each.figure:.4f}", each.message) for each in found),
        )
    elif not untold:
        click.echo(f"No column of {rows.name} alone knows {label!r}.")
    if found:
        raise click.exceptions.Exit(SAID_NO)


@click.command(
    epilog="\b\nExamples:\n  tidegate data duplicates bookings\n"
    "  tidegate data duplicates messages.parquet --text message --at-least 0.9"
)
@click.argument("target", metavar="FILE|SNAPSHOT")
@click.option("--column", "columns", multiple=True, help="Rows are equal if these columns are. Repeatable.")
@click.option("--text", help="Also look for nearly equal texts in this column.")
@click.option(
    "--at-least",
    type=click.FloatRange(0.7, 1),
    default=0.8,
    show_default=True,
    help="Least share of common 4-character pieces.",
)
@home_option
@json_option
def duplicates(
    target: str,
    *,
    columns: tuple[str, ...],
    text: str | None,
    at_least: float,
    home: Path | None,
    as_json: bool,
) -> None:
    """Count rows that repeat an earlier one, and show some; nearly equal texts too."""
    from tidegate.operation.rows import find_duplicates, load_rows

    local = open_local(home)
    rows = load_rows(local.unit, local.artifacts, target)
    found = find_duplicates(rows, columns=columns, text=text, at_least=at_least)
    if as_json:
        print_json(found)
        return
    share = found.n_exact / found.n_rows if found.n_rows else 0.0
    click.echo(f"{found.n_exact:,} of {found.n_rows:,} rows repeat an earlier one ({share:.2%}).")
    if found.exact:
        print_table(("#row", "#repeats row"), found.exact)
    if found.n_near is not None:
        click.echo(f"{found.n_near:,} pairs of texts are nearly equal.")
    if found.near:
        print_table(
            ("#row", "#and row", "#similarity"),
            ((one, other, f"{alike:.3f}") for one, other, alike in found.near),
        )
