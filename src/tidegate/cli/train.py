"""`tidegate train`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from tidegate.cli.option import home_option, json_option, key_option, open_local
from tidegate.cli.screen import print_json, short


@click.command(
    short_help="Train a service's model and register it as a new version.",
    epilog="\b\nExamples:\n  tidegate train examples/flights\n"
    "  tidegate train examples/flights --param max_iter=200 --changelog 'more trees'\n"
    "  tidegate train . --data rows.parquet\n"
    "  tidegate train . --data bookings@3",
)
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--service", help="Which service, where the folder declares several.")
@click.option(
    "--data",
    metavar="FILE|SNAPSHOT",
    help="Rows for the trainer: a Parquet, CSV, JSON or Arrow file, which becomes a snapshot first, or a "
    "snapshot. Without it the trainer gets None and loads its own.",
)
@click.option(
    "--param",
    "params",
    multiple=True,
    metavar="NAME=VALUE",
    help="A parameter of the trainer; may be repeated.",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**32 - 1),
    default=0,
    show_default=True,
    help="Seeds the global generators of Python and numpy while the trainer runs.",
)
@click.option("--changelog", default="", help="One line: what is new. The trainer's own note unless given.")
@key_option
@home_option
@json_option
def train(
    folder: Path,
    *,
    service: str | None,
    data: str | None,
    params: tuple[str, ...],
    seed: int,
    changelog: str,
    key: str | None,
    home: Path | None,
    as_json: bool,
) -> None:
    """Train the model of the service in FOLDER, and register it as the service's next version.

    The version gets no traffic by itself: the first one does when the server starts, later ones by
    `tidegate switch`.
    """
    from tidegate.bootstrap.folder import load_service
    from tidegate.bootstrap.train import publish_service
    from tidegate.cli.run import show_comparison
    from tidegate.operation.run import find_run

    local = open_local(home, beside=folder)
    declared = load_service(folder, service)
    if not as_json:
        click.echo(f"Training {declared.name} ...")
    published = publish_service(
        local,
        declared,
        folder,
        data=data,
        params=parse_params(params),
        changelog=changelog,
        key=key,
        seed=seed,
    )
    if as_json:
        print_json(published)
        return
    for note in published.notes:
        click.echo(note)
    version = published.version
    for name, value in version.lineage.metrics.items():
        click.echo(f"  {name}: {'undefined' if value is None else f'{value:.6g}'}")
    click.echo(
        f"Registered {version.label} in {local.home.root}: manifest {short(version.manifest)}, "
        f"contract {short(version.contract)}, code {short(version.lineage.code_digest or '-')}, "
        f"data {short(version.lineage.data_digest or '-')}."
    )
    if published.run is not None:
        show_comparison(find_run(local.unit, local.artifacts, published.run).run.comparison)
        click.echo(f"Run {short(published.run)}: `tidegate runs show {short(published.run)}`.")


def parse_params(given: tuple[str, ...]) -> dict[str, Any]:
    """Return parameters by name; values are JSON where they can be read as such, else text."""
    import msgspec

    found: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise click.UsageError(f"{text!r} is no parameter; write it as name=value.")
        try:
            found[name] = msgspec.json.decode(value)
        except msgspec.DecodeError:
            found[name] = value
    return found
