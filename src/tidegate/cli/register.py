"""`tidegate register`."""

from __future__ import annotations

from pathlib import Path

import click

from tidegate.cli.option import home_option, json_option, key_option, open_local
from tidegate.cli.screen import print_json, short


@click.command(
    short_help="Register a model file as a new version.",
    epilog="\b\nExamples:\n  tidegate register fraud model.onnx --sample rows.parquet\n"
    "  tidegate register fraud model.txt --sample rows.csv --contract fraud.contract.py",
)
@click.argument("service")
@click.argument("model", type=click.Path(path_type=Path, exists=True))
@click.option(
    "--sample",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Real input rows (Parquet, CSV, JSON): parity and check inputs are taken from them.",
)
@click.option(
    "--contract",
    "contract",
    help="What goes in and comes out: a .py or .json file, a service's folder, or a registered version. "
    "Inferred from model and sample unless given.",
)
@click.option(
    "--trust",
    "trusted",
    multiple=True,
    metavar="TYPE",
    help="Of a .skops file: a type beyond the safe ones that it may hold. Repeatable.",
)
@click.option("--changelog", default="", help="One line: what is new.")
@key_option
@home_option
@json_option
def register(
    service: str,
    model: Path,
    *,
    sample: Path | None,
    contract: str | None,
    trusted: tuple[str, ...],
    changelog: str,
    key: str | None,
    home: Path | None,
    as_json: bool,
) -> None:
    """Register the file MODEL as the next version of SERVICE.

    Takes ONNX (.onnx), skops (.skops), LightGBM (.txt) and XGBoost (.json, .ubj) models. The version
    gets no traffic by itself.
    """
    from tidegate.bootstrap.declared import find_contract
    from tidegate.bootstrap.publish import Origin, publish
    from tidegate.data.source import read_table

    local = open_local(home)
    published = publish(
        local,
        service,
        model,
        sample=None if sample is None else read_table(sample),
        contract=None if contract is None else find_contract(local, contract),
        trusted=trusted,
        origin=Origin(changelog=changelog or f"model file {model.name}"),
        key=key,
    )
    if as_json:
        print_json(published)
        return
    for note in published.notes:
        click.echo(note)
    version = published.version
    click.echo(f"Registered {version.label} in {local.home.root}: manifest {short(version.manifest)}.")
