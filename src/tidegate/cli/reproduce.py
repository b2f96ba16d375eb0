"""`tidegate reproduce`."""

from __future__ import annotations

from pathlib import Path

import click

from tidegate.cli.option import FILE, FOLDER, home_option, json_option, open_local
from tidegate.cli.screen import print_json, print_table


@click.command(
    short_help="Train again from what a run recorded, and compare.",
    epilog="\b\nExamples:\n  tidegate reproduce flight-delay@2\n"
    "  tidegate reproduce 4f1c09ab23de --data rows.parquet",
)
@click.argument("run")
@click.option("--folder", type=FOLDER, help="The service's folder, if it is no longer where it was.")
@click.option("--data", type=FILE, help="The data file, if it is no longer where it was.")
@home_option
@json_option
def reproduce(run: str, folder: Path | None, data: Path | None, home: Path | None, as_json: bool) -> None:
    """Train RUN again, and say whether data, source, environment, metrics and predictions are the same.

    RUN is the first digits of a run's name, or the version that came of it. Predictions are compared
    bit by bit on the rows that the run kept. Nothing is registered; what came of it is noted among
    the decisions. Ends with status 3 if anything differs.
    """
    from tidegate.bootstrap.reproduce import reproduce as train_again
    from tidegate.cli.main import SAID_NO

    found = train_again(open_local(home, must_exist=True), run, folder=folder, data=data)
    if as_json:
        print_json(found)
    else:
        said = {True: "the same", False: "DIFFERENT", None: "not compared"}
        click.echo(f"Run {found.run}, trained again in {found.fit_s:.1f} s:")
        print_table(
            ("what", "is", "how"),
            [(aspect.name, said[aspect.same], "\n".join(aspect.differences)) for aspect in found.aspects],
        )
    if found.differing:
        click.get_current_context().exit(SAID_NO)
