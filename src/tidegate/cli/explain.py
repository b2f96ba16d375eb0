"""`tidegate explain`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from tidegate.cli.option import home_option, json_option, open_local
from tidegate.cli.screen import print_json, print_table

if TYPE_CHECKING:
    from tidegate.evaluation.explanation import Explanation


@click.command(
    short_help="Say what each column added to a prediction.",
    epilog="\b\nExamples:\n  tidegate explain flight-delay@2 --row 0\n"
    "  tidegate explain flight-delay --data october.parquet --row 17 --row 18\n"
    "  tidegate explain flight-delay@2 --id 01920a7c-6a2e-7d3b-8d9f-3f1f0a6c2b11",
)
@click.argument("version")
@click.option("--data", metavar="FILE|SNAPSHOT", help="Where the rows are; else the version's check inputs.")
@click.option("--row", "rows", type=int, multiple=True, help="Number of a row, from 0. Repeatable.")
@click.option("--id", "prediction_id", help="Instead: a prediction in the journal.")
@click.option("--top", type=click.IntRange(1), default=10, show_default=True, help="Columns shown of each.")
@home_option
@json_option
def explain(
    version: str,
    *,
    data: str | None,
    rows: tuple[int, ...],
    prediction_id: str | None,
    top: int,
    home: Path | None,
    as_json: bool,
) -> None:
    """Say what each column added to predictions of VERSION (service@number, or a service for its latest).

    A LightGBM or XGBoost model says so itself (TreeSHAP). Any other model is asked what it says with the
    values of other rows, one column at a time: for logistic and linear models these are their terms, less
    the mean; what columns do only together is the remainder. Probabilities are taken apart as log odds.
    """
    from tidegate.bootstrap.explain import explain_version

    if prediction_id is not None and (data is not None or rows):
        raise click.UsageError("Name --id, or rows with --data and --row.")
    local = open_local(home, must_exist=True)
    found = explain_version(local, version, data=data, rows=rows, prediction_id=prediction_id)
    if as_json:
        print_json(found)
        return
    numbers = rows or range(len(found))
    for number, each in zip(numbers, found, strict=True):
        _print(prediction_id or f"Row {number}", each, top)


def _print(name: str, found: Explanation, top: int) -> None:
    of_class = f" of {found.label}" if found.label else ""
    click.echo(f"{name}: predicted {found.prediction:.6g}{of_class}, {found.scale} {found.score:.4f}")
    shown = [(each.column, each.value, f"{each.amount:+.4f}") for each in found.contributions[:top]]
    rest = found.contributions[top:]
    if rest:
        shown.append((f"{len(rest)} others", "", f"{sum(each.amount for each in rest):+.4f}"))
    if abs(found.remainder) > 1e-6:
        shown.append(("several together", "", f"{found.remainder:+.4f}"))
    print_table(("column", "value", f"#adds to {found.base:.4f}"), shown)
