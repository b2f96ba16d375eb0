"""`tidegate predict`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from tidegate.cli.main import FAILED, tell_error
from tidegate.cli.option import home_option, json_option, open_local
from tidegate.cli.screen import print_table


@click.command(
    short_help="Ask a running server for predictions.",
    epilog="\b\nExamples:\n"
    """  tidegate predict flight-delay '{"carrier": "UA", "origin": "EWR", ...}'\n"""
    "  tidegate predict flight-delay --file rows.json\n"
    "  cat rows.jsonl | tidegate predict flight-delay --file - --url http://127.0.0.1:8080",
)
@click.argument("service")
@click.argument("row", required=False)
@click.option(
    "--file",
    "source",
    type=click.Path(path_type=Path, allow_dash=True, exists=True),
    help="JSON object, JSON array or one JSON object a line; '-' is standard input.",
)
@click.option("--url", help="Where the server is; the one that runs on the home unless given.")
@home_option
@json_option
def predict(
    service: str, row: str | None, *, source: Path | None, url: str | None, home: Path | None, as_json: bool
) -> None:
    """Ask SERVICE for the prediction of one ROW (a JSON object), or of the rows of a file."""
    import msgspec

    from tidegate.bootstrap.client import ask

    rows = _rows(row, source)
    base = url or _running(home)
    body = rows[0] if row is not None and len(rows) == 1 else {"rows": rows}
    status, answer = ask(base, f"/services/{quote(service, safe='')}/predict", body)
    try:
        decoded: dict[str, Any] = msgspec.json.decode(answer, type=dict[str, Any])
    except msgspec.MsgspecError:
        raise click.ClickException(
            f"What answers at {base} is no Tidegate server (status {status})."
        ) from None
    if as_json:
        click.echo(msgspec.json.format(answer, indent=2).decode(), err=status != 200)
    elif status != 200:
        _tell_refusal(decoded)
    if status != 200:
        raise click.exceptions.Exit(FAILED)
    if as_json:
        return
    answers = decoded.get("rows", [decoded])
    names = list(answers[0]["output"])
    if decoded.get("answered_by"):
        click.echo(f"Answered by {decoded['answered_by']}, because: {decoded.get('reason')}")
    print_table(
        ("prediction", "#version", *names),
        [
            (each["prediction_id"], decoded["version"], *(each["output"][name] for name in names))
            for each in answers
        ],
    )


def _tell_refusal(answer: dict[str, Any]) -> None:
    """Say why the server refused: its own words, and each row's where several are wrong."""
    error = answer.get("error")
    if not isinstance(error, dict):
        click.echo(f"Error: {error or answer}", err=True)
        return
    tell_error(str(error.get("code", "")), str(error.get("message", "")), str(error.get("hint", "")))
    errors = error.get("context", {}).get("errors", [])
    for each in errors if len(errors) > 1 else []:
        click.echo(f"  {each['message']}", err=True)


def _rows(row: str | None, source: Path | None) -> list[Any]:
    import msgspec

    if (row is None) == (source is None):
        raise click.UsageError("Give one row, or a file of rows with --file.")
    if row is not None:
        text = row.encode()
    else:
        text = sys.stdin.buffer.read() if str(source) == "-" else Path(str(source)).read_bytes()
    try:
        whole = msgspec.json.decode(text)
    except msgspec.DecodeError:
        try:
            return list(msgspec.json.Decoder().decode_lines(text))
        except msgspec.DecodeError as error:
            raise click.UsageError(f"This is not JSON: {error}") from error
    return whole if isinstance(whole, list) else [whole]


def _running(home: Path | None) -> str:
    from tidegate.bootstrap.overview import running_server

    return running_server(open_local(home, must_exist=True)).data
