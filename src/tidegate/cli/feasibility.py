"""`tidegate feasibility`."""

from __future__ import annotations

from pathlib import Path

import click

from tidegate.cli.option import home_option, json_option, open_local
from tidegate.cli.run import show_comparison
from tidegate.cli.screen import print_json, print_table
from tidegate.cli.train import parse_params


@click.command(
    short_help="Ask whether the data hold a pattern worth a model.",
    epilog="\b\nExamples:\n  tidegate feasibility examples/flights\n"
    "  tidegate feasibility . --data rows.parquet --label-cost 0.4",
)
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--service", help="Which service, where the folder declares several.")
@click.option("--data", metavar="FILE|SNAPSHOT", help="Rows for the trainer; without it it loads its own.")
@click.option(
    "--param",
    "params",
    multiple=True,
    metavar="NAME=VALUE",
    help="A parameter of the trainer; may be repeated.",
)
@click.option(
    "--shuffles",
    type=click.IntRange(19),
    default=39,
    show_default=True,
    help="Fits on shuffled outcomes; the smallest p-value is 1 in one more.",
)
@click.option("--label-cost", type=click.FloatRange(0), help="What the outcome of one row costs to learn.")
@home_option
@json_option
def feasibility(
    folder: Path,
    *,
    service: str | None,
    data: str | None,
    params: tuple[str, ...],
    shuffles: int,
    label_cost: float | None,
    home: Path | None,
    as_json: bool,
) -> None:
    """Train the service in FOLDER on shuffled outcomes and on fewer rows, and say what that shows.

    Is there a pattern at all, is a lookup table enough, and would more rows help? The trainer has to
    return a tg.Trial. Nothing is registered or stored.
    """
    from tidegate.bootstrap.folder import load_service
    from tidegate.operation.feasibility import assess_feasibility
    from tidegate.operation.rows import load_rows

    local = open_local(home, beside=folder)
    found = assess_feasibility(
        load_service(folder, service),
        n_shuffles=shuffles,
        data=None if data is None else load_rows(local.unit, local.artifacts, data).table,
        params=parse_params(params),
    )
    if as_json:
        print_json(found)
        return
    for line in found.findings():
        click.echo(line)
    n_rows = found.curve[-1].n_rows
    if label_cost is not None:
        click.echo(f"Twice as many rows cost {n_rows:,} labels: {n_rows * label_cost:,.2f}.")
    show_comparison(found.comparison)
    print_table(
        ("#rows", f"#{found.comparison.measure}"),
        [(f"{point.n_rows:,}", f"{point.loss:.5f}") for point in found.curve],
        title=f"Learning curve of the {found.learner} model",
    )
