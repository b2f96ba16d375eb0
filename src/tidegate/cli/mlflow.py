"""`tidegate mlflow`."""

from __future__ import annotations

from pathlib import Path

import click

from tidegate.cli.option import FILE, F, home_option, json_option, key_option, open_local
from tidegate.cli.screen import print_json, short


def _tracking(command: F) -> F:
    return click.option(
        "--tracking",
        metavar="URI",
        envvar="MLFLOW_TRACKING_URI",
        required=True,
        help="MLflow's store, such as sqlite:///mlflow.db or http://HOST:PORT. [env: MLFLOW_TRACKING_URI]",
    )(command)


@click.group(short_help="Take models from MLflow, and give runs to it.")
def mlflow() -> None:
    """Take models from MLflow, and give runs to it. Needs the extra `mlflow`."""


@mlflow.command(
    "import",
    epilog="\b\nExamples:\n"
    "  tidegate mlflow import fraud models:/fraud/3 --tracking sqlite:///mlflow.db --sample rows.parquet\n"
    "  tidegate mlflow import fraud models:/fraud@champion --tracking http://mlflow:5000\n"
    "  tidegate mlflow import fraud runs:/5b1f0c/model --tracking http://mlflow:5000",
)
@click.argument("service")
@click.argument("source")
@_tracking
@click.option("--sample", type=FILE, help="Real input rows: parity and check inputs are taken from them.")
@click.option(
    "--contract",
    help="What goes in and comes out: a .py or .json file, a service's folder, or a registered version. "
    "Inferred from model and sample unless given.",
)
@click.option(
    "--trust",
    "trusted",
    multiple=True,
    metavar="TYPE",
    help="Of a skops file: a type beyond the safe ones that it may hold. Repeatable.",
)
@key_option
@home_option
@json_option
def import_(
    service: str,
    source: str,
    *,
    tracking: str,
    sample: Path | None,
    contract: str | None,
    trusted: tuple[str, ...],
    key: str | None,
    home: Path | None,
    as_json: bool,
) -> None:
    """Register the model SOURCE of MLflow's as the next version of SERVICE.

    SOURCE is models:/NAME/VERSION, models:/NAME@ALIAS, runs:/RUN_ID/PATH, or a run's id. ONNX, LightGBM and
    XGBoost models are taken, and scikit-learn models that were logged with skops; a pickle is never opened.
    Parameters and metrics of its run become the version's.
    """
    from tidegate.bootstrap.declared import find_contract
    from tidegate.bootstrap.mlflow import import_model
    from tidegate.data.source import read_table

    local = open_local(home)
    published = import_model(
        local,
        service,
        source,
        tracking=tracking,
        sample=None if sample is None else read_table(sample),
        contract=None if contract is None else find_contract(local, contract),
        trusted=trusted,
        key=key,
    )
    if as_json:
        print_json(published)
        return
    for note in published.notes:
        click.echo(note)
    version = published.version
    click.echo(f"Registered {version.label} in {local.home.root}: manifest {short(version.manifest)}.")


@mlflow.command(
    epilog="\b\nExamples:\n  tidegate mlflow export flight-delay@2 --tracking sqlite:///mlflow.db\n"
    "  tidegate mlflow export 4f1c09ab23de --tracking http://mlflow:5000 --experiment flights"
)
@click.argument("run")
@_tracking
@click.option("--experiment", help="Name of the experiment; the service's name unless given.")
@home_option
@json_option
def export(run: str, *, tracking: str, experiment: str | None, home: Path | None, as_json: bool) -> None:
    """Write RUN (the first digits of its name, or its version) into MLflow's store.

    Parameters, metrics, tags (digests of data, code and packages), the whole record and the model go there.
    A run that is there already is left as it is.
    """
    from tidegate.bootstrap.mlflow import export_run

    local = open_local(home, must_exist=True)
    logged = export_run(local, run, tracking=tracking, experiment=experiment)
    if as_json:
        print_json(logged)
        return
    what = "was there already" if logged.existed else "written"
    click.echo(f"Run {logged.run_id} of the experiment {logged.experiment!r}: {what}.")
