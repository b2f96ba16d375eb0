"""`tidegate diagnose`."""

from __future__ import annotations

from pathlib import Path

import click

from tidegate.cli.option import home_option, json_option, open_local
from tidegate.cli.screen import print_json, print_table
from tidegate.cli.train import parse_params


@click.command(
    short_help="Ask why a model errs, and what would help.",
    epilog="\b\nExamples:\n  tidegate diagnose examples/flights\n"
    "  tidegate diagnose . --data rows.parquet --json",
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
@home_option
@json_option
def diagnose(
    folder: Path,
    *,
    service: str | None,
    data: str | None,
    params: tuple[str, ...],
    home: Path | None,
    as_json: bool,
) -> None:
    """Train the service in FOLDER and say why its model errs: the likely causes, their numbers and remedies.

    Looked into are label noise, imbalance, a missing feature (among the other columns of the trial), a recent
    shift, and too little or too much capacity. The trainer has to return a tg.Trial, for shift and capacity
    with a `fit`. Nothing is registered or stored.
    """
    from tidegate.bootstrap.folder import load_service
    from tidegate.bootstrap.learner import find_learner
    from tidegate.operation.diagnose import diagnose_service
    from tidegate.operation.rows import load_rows

    local = open_local(home, beside=folder)
    found = diagnose_service(
        load_service(folder, service),
        reference=find_learner()[1],
        data=None if data is None else load_rows(local.unit, local.artifacts, data).table,
        params=parse_params(params),
    )
    if as_json:
        print_json(found)
        return
    likely = ", ".join(each.cause.value for each in found.likely)
    click.echo(
        f"{found.measure} {found.loss:.4g} on {found.n_test:,} rows. "
        f"Likely: {likely or 'none of the causes that were looked into'}."
    )
    said = {True: "likely", False: "no", None: "not known"}
    print_table(
        ("cause", "is it", "#share", "numbers", "what helps"),
        (
            (
                each.cause.value,
                said[each.likely],
                f"{each.effect:.0%}" if each.likely else "",
                each.message,
                each.remedy,
            )
            for each in found.findings
        ),
    )
