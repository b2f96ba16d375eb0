"""`tidegate contract`."""

from __future__ import annotations

from pathlib import Path

import click

from tidegate.cli.main import SAID_NO
from tidegate.cli.option import home_option, json_option, open_local
from tidegate.cli.screen import print_json, print_table


@click.group(short_help="Show, compare and write contracts.")
def contract() -> None:
    """Show, compare and write contracts.

    Wherever a contract is asked for, name a service's folder, a .py or .json file that holds one, a
    model file, or a registered version (flight-delay@2, or flight-delay for the latest).
    """


@contract.command(
    epilog="\b\nExamples:\n  tidegate contract show examples/flights\n"
    "  tidegate contract show model.onnx --json"
)
@click.argument("target")
@click.option("--service", help="Which service, where a folder declares several.")
@home_option
@json_option
def show(target: str, service: str | None, home: Path | None, as_json: bool) -> None:
    """Show the fields of TARGET's contract, and its fingerprint."""
    from tidegate.bootstrap.declared import describe, find_contract

    found = find_contract(open_local(home), target, service=service, as_sent=True)
    if as_json:
        print_json(found)
        return
    print_table(("side", "field", "type", "constraints", "meaning"), describe(found))
    click.echo(f"Fingerprint {found.fingerprint}")


@contract.command(
    epilog="\b\nExamples:\n  tidegate contract compare flight-delay@1 examples/flights\n"
    "  tidegate contract compare old.json new.json --json"
)
@click.argument("old")
@click.argument("new")
@home_option
@json_option
def compare(old: str, new: str, home: Path | None, as_json: bool) -> None:
    """Say whether those who were built for the contract OLD can go on under NEW.

    The exit status is 3 if a change breaks them.
    """
    from tidegate.bootstrap.declared import find_contract
    from tidegate.contract.compare import Compatibility
    from tidegate.contract.compare import compare as compare_contracts

    local = open_local(home)
    before, after = (find_contract(local, each, as_sent=True) for each in (old, new))
    comparison = compare_contracts(before, after)
    if as_json:
        print_json({"verdict": comparison.verdict, "changes": comparison.changes})
    else:
        for change in comparison.changes:
            click.echo(str(change))
        click.echo(f"Verdict: {comparison.verdict.value}")
    if comparison.verdict is Compatibility.BREAKING:
        raise click.exceptions.Exit(SAID_NO)


@contract.command(
    epilog="\b\nExamples:\n  tidegate contract write model.onnx model.contract.py\n"
    "  tidegate contract write flight-delay@1 contract.json"
)
@click.argument("target")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--service", help="Which service, where a folder declares several.")
@home_option
def write(target: str, file: Path, service: str | None, home: Path | None) -> None:
    """Write TARGET's contract to FILE: as Python to edit (.py), or as canonical JSON (.json)."""
    from tidegate.bootstrap.declared import find_contract, write_source

    if file.suffix not in (".py", ".json"):
        raise click.UsageError("The file's name must end in .py or .json.")
    found = find_contract(open_local(home), target, service=service, as_sent=True)
    if file.suffix == ".py":
        write_source(found, file)
    else:
        file.write_bytes(found.to_json() + b"\n")
    click.echo(f"Wrote {file}.")
