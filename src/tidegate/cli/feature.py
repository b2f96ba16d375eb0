"""`tidegate features`."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tidegate.cli.main import SAID_NO
from tidegate.cli.option import FILE, F, home_option, json_option, key_option, open_local
from tidegate.cli.screen import print_json, print_table

if TYPE_CHECKING:
    from tidegate.bootstrap.local import Local
    from tidegate.contract.field import Field
    from tidegate.feature.definition import ViewDefinition
    from tidegate.feature.online import OnlineStore
    from tidegate.monitoring.skew import SkewReport

PLACE = click.Path(path_type=Path, exists=True, file_okay=False)


class Moment(click.ParamType[datetime]):
    """A time with its offset from UTC; without one, UTC."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        if isinstance(value, datetime):
            return value
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            self.fail(f"{value!r} is no time; write for example 2013-10-01T06:00:00Z", param, ctx)
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


MOMENT = Moment()


@click.group(short_help="Fill, read and check the online store of features.")
def features() -> None:
    """Fill, read and check the online store of features.

    The store is the embedded one of the home, or the one that the setting online_store names.
    """


def _service_option(command: F) -> F:
    return click.option("--service", help="Which service, where there are several.")(command)


@features.command(
    "list",
    epilog="\b\nExamples:\n  tidegate features list\n  tidegate features list flight-delay --json",
)
@click.argument("service", required=False)
@home_option
@json_option
def list_(service: str | None, *, home: Path | None, as_json: bool) -> None:
    """List the views of the registered services, or of SERVICE."""
    from tidegate.operation.feature import list_views

    local = open_local(home, must_exist=True)
    found = list_views(local.unit, local.artifacts, service=service)
    if as_json:
        print_json(found)
        return
    if not found:
        click.echo("No registered service declares features.")
        return
    print_table(
        ["service", "view", "key", "features", "reaches back", "missing", "stale"],
        [
            (
                f"{each.service}@{each.version}",
                each.view.name,
                ", ".join(field.name for field in each.view.plan.entity),
                ", ".join(field.name for field in each.view.plan.features),
                _span(each.view.plan.ttl_us),
                each.view.plan.missing.value,
                "-" if each.view.plan.aggregates else each.view.plan.stale.value,
            )
            for each in found
        ],
    )


@features.command(
    epilog="\b\nExamples:\n  tidegate features materialise examples/flights\n"
    "  tidegate features materialise examples/flights --view weather --file weather.parquet"
)
@click.argument("folder", type=PLACE)
@click.option("--view", "names", multiple=True, help="Only this view. Repeatable.")
@click.option("--file", type=FILE, help="The view's table: CSV, Parquet, JSON lines or Arrow.")
@_service_option
@key_option
@home_option
@json_option
def materialise(
    folder: Path,
    *,
    names: tuple[str, ...],
    file: Path | None,
    service: str | None,
    key: str | None,
    home: Path | None,
    as_json: bool,
) -> None:
    """Put the tables of the views of the service in FOLDER into the online store.

    Each view's table is what its declaration returns as rows=, or FILE. What the store has already is
    left as it is, so this may be repeated.
    """
    _materialise(folder, names, file, service=service, key=key, home=home, as_json=as_json)


@features.command(
    epilog="\b\nExamples:\n  tidegate features backfill examples/flights --since 2013-09-29 "
    "--until 2013-10-01T04:00Z"
)
@click.argument("folder", type=PLACE)
@click.option("--view", "names", multiple=True, help="Only this view. Repeatable.")
@click.option("--file", type=FILE, help="The view's table: CSV, Parquet, JSON lines or Arrow.")
@click.option("--since", type=MOMENT, help="First event time to put.")
@click.option("--until", type=MOMENT, help="First event time not to put.")
@_service_option
@key_option
@home_option
@json_option
def backfill(
    folder: Path,
    *,
    names: tuple[str, ...],
    file: Path | None,
    since: datetime | None,
    until: datetime | None,
    service: str | None,
    key: str | None,
    home: Path | None,
    as_json: bool,
) -> None:
    """Put the events of a stretch of time into the online store, as `materialise` does."""
    if since is None and until is None:
        raise click.UsageError("Say --since or --until; `tidegate features materialise` puts everything.")
    _materialise(
        folder, names, file, service=service, key=key, home=home, as_json=as_json, since=since, until=until
    )


def _materialise(
    folder: Path,
    names: tuple[str, ...],
    file: Path | None,
    *,
    service: str | None,
    key: str | None,
    home: Path | None,
    as_json: bool,
    since: datetime | None = None,
    until: datetime | None = None,
) -> None:
    from tidegate.bootstrap.folder import load_service
    from tidegate.feature.expression import define
    from tidegate.operation.feature import check_meaning, declared_view, materialise_view, table_of
    from tidegate.operation.key import new_key

    declared = load_service(folder, service)
    views = [declared_view(declared, name) for name in names] or list(declared.features)
    if file is not None and len(views) != 1:
        raise click.UsageError("--file is the table of one view: name it with --view.")
    local = open_local(home, beside=folder)
    check_meaning(local.unit, local.artifacts, [define(view) for view in views])
    store, key = _opened(local), key or new_key()
    done = {}
    for view in views:
        outcome = materialise_view(
            local.unit,
            store,
            view,
            table_of(view) if file is None else _table(file),
            principal=local.principal,
            key=f"{key}/{view.name}",
            clock=local.clock,
            since=since,
            until=until,
        )
        done[view.name] = outcome.result
        if not as_json:
            put = outcome.result
            click.echo(f"{view.name}: {put.n_events:,} events, {put.n_new:,} of them new in the store.")
    if as_json:
        print_json(done)


@features.command(
    epilog="\b\nExamples:\n"
    """  tidegate features push weather '{"origin": "JFK", "wind_speed": 9, ...}'\n"""
    "  tidegate features push weather < events.jsonl"
)
@click.argument("view")
@click.argument("event", required=False)
@_service_option
@key_option
@home_option
@json_option
def push(
    view: str,
    event: str | None,
    *,
    service: str | None,
    key: str | None,
    home: Path | None,
    as_json: bool,
) -> None:
    """Put an EVENT of a registered VIEW into the online store.

    It is a JSON object with the columns of the view's table; without one, a line each of standard input.
    Programs send events to a running server: POST /features/VIEW/events on its control port.
    """
    from tidegate.feature.expression import view_of
    from tidegate.operation.feature import push_events
    from tidegate.operation.key import new_key

    local = open_local(home, must_exist=True)
    definition = _definition(local, view, service)
    lines = [event] if event is not None else [line for line in sys.stdin if line.strip()]
    outcome = push_events(
        local.unit,
        _opened(local),
        view_of(definition),
        [_object(line) for line in lines],
        principal=local.principal,
        key=key or new_key(),
        clock=local.clock,
    )
    if as_json:
        print_json(outcome.result)
    else:
        click.echo(f"{view}: {outcome.result.n_events:,} events, {outcome.result.n_new:,} new in the store.")


@features.command(
    epilog="\b\nExamples:\n  tidegate features get weather JFK\n"
    "  tidegate features get departures UA EWR --at 2013-10-05T12:00Z"
)
@click.argument("view")
@click.argument("key", nargs=-1, required=True)
@click.option("--at", type=MOMENT, help="As of when; now by default.")
@_service_option
@home_option
@json_option
def get(
    view: str,
    key: tuple[str, ...],
    *,
    at: datetime | None,
    service: str | None,
    home: Path | None,
    as_json: bool,
) -> None:
    """Show what the online store says of one KEY of a registered VIEW, as serving would read it."""
    from tidegate.operation.feature import get_features

    local = open_local(home, must_exist=True)
    plan = _definition(local, view, service).plan
    values = [_part(field, value) for field, value in zip(plan.entity, key, strict=False)]
    at_us = local.clock.wall_us() if at is None else int(at.timestamp() * 1e6)
    (found,) = get_features(_opened(local), plan, [values + list(key[len(values) :])], at_us=at_us)
    if as_json:
        print_json(found)
        return
    age = "" if found.age_us is None else f", {_span(found.age_us)} old"
    click.echo(f"{found.state}{age}")
    print_table(["feature", "#value"], [(name, value) for name, value in found.values.items()])


@features.command(epilog="\b\nExamples:\n  tidegate features forget weather --before 2013-09-01")
@click.argument("view")
@click.option("--before", type=MOMENT, required=True, help="First event time that stays.")
@_service_option
@key_option
@home_option
@json_option
def forget(
    view: str, *, before: datetime, service: str | None, key: str | None, home: Path | None, as_json: bool
) -> None:
    """Remove old events of a registered VIEW from the online store, except the last of each key."""
    from tidegate.operation.feature import forget_events
    from tidegate.operation.key import new_key

    local = open_local(home, must_exist=True)
    plan = _definition(local, view, service).plan
    outcome = forget_events(
        local.unit,
        _opened(local),
        plan,
        before=before,
        principal=local.principal,
        key=key or new_key(),
        clock=local.clock,
    )
    if as_json:
        print_json(outcome.result)
    else:
        click.echo(f"{view}: {outcome.result.n_events:,} events removed.")


@features.command(
    epilog="\b\nExamples:\n  tidegate features check examples/flights\n"
    "  tidegate features check examples/flights --since 2026-11-20 --file weather=weather.parquet"
)
@click.argument("folder", type=PLACE)
@click.option("--version", type=int, help="Only predictions of this version.")
@click.option("--since", type=MOMENT, help="Only predictions that arrived then or later.")
@click.option("--until", type=MOMENT, help="Only predictions that arrived before.")
@click.option("--file", "files", multiple=True, metavar="VIEW=FILE", help="A view's table. Repeatable.")
@click.option(
    "--tolerate",
    type=click.FloatRange(0, 1),
    default=0.01,
    show_default=True,
    help="Share of mismatches that is no defect: an event may reach the store after it was asked for.",
)
@_service_option
@home_option
@json_option
def check(
    folder: Path,
    *,
    version: int | None,
    since: datetime | None,
    until: datetime | None,
    files: tuple[str, ...],
    tolerate: float,
    service: str | None,
    home: Path | None,
    as_json: bool,
) -> None:
    """Compare the features that were served with what training would have computed, to the bit.

    Recorded predictions of the service in FOLDER are joined again with the views' tables, each as of its
    own time. Exit status 3: a feature differs more often than is tolerated.
    """
    from tidegate.bootstrap.folder import load_service
    from tidegate.operation.feature import check_served

    declared = load_service(folder, service)
    local = open_local(home, must_exist=True, beside=folder)
    report = check_served(
        local.home.journal,
        declared,
        tables={name: _table(Path(path)) for name, path in map(_named, files)},
        tolerated=tolerate,
        version=version,
        since_us=None if since is None else int(since.timestamp() * 1e6),
        until_us=None if until is None else int(until.timestamp() * 1e6),
    )
    if as_json:
        print_json(report)
    else:
        _show(report)
    if report.skewed:
        raise click.exceptions.Exit(SAID_NO)


def _show(report: SkewReport) -> None:
    print_table(
        [
            "feature",
            "view",
            "#records",
            "#differ",
            "#rate",
            "#95% interval",
            "verdict",
            "served",
            "recomputed",
        ],
        [
            (
                each.skew.feature,
                each.skew.view,
                f"{each.skew.n_rows:,}",
                f"{each.skew.n_mismatches:,}",
                f"{each.skew.rate:.2%}",
                f"{each.skew.interval.low:.2%} to {each.skew.interval.high:.2%}",
                each.verdict.value,
                each.example.get("served", ""),
                each.example.get("recomputed", ""),
            )
            for each in report.features
        ],
    )
    for view, count in report.unread.items():
        click.echo(f"{count:,} records could not read view {view}: they are not compared.")
    if report.skewed:
        click.echo(f"Served otherwise than trained: {', '.join(report.skewed)}.")
    elif any(each.verdict.value == "undecided" for each in report.features):
        click.echo(
            "No feature is known to differ; of the undecided ones there are too few records to say more."
        )
    else:
        click.echo("Served as trained.")


def _opened(local: Local) -> OnlineStore:
    from tidegate.bootstrap.feature import open_store

    store = open_store(local.home, local.settings.online_store)
    click.get_current_context().call_on_close(store.close)
    return store


def _definition(local: Local, view: str, service: str | None) -> ViewDefinition:
    from tidegate.operation.feature import find_view

    return find_view(local.unit, local.artifacts, view, service=service)


def _table(path: Path) -> Any:
    from tidegate.data.source import read_table

    return read_table(path)


def _named(option: str) -> tuple[str, str]:
    name, equals, path = option.partition("=")
    if not equals or not Path(path).is_file():
        raise click.BadParameter(f"{option!r} is no VIEW=FILE with a file that exists.", param_hint="--file")
    return name, path


def _object(line: str) -> dict[str, Any]:
    import msgspec

    try:
        return msgspec.json.decode(line, type=dict[str, Any])
    except (msgspec.MsgspecError, RecursionError) as error:
        raise click.BadParameter(f"{line[:60]!r} is no JSON object: {error}", param_hint="EVENT") from error


def _part(field: Field, value: str) -> str | int | bool:
    """Return a part of a key as the view's type has it."""
    if field.type.is_text:
        return value
    if value in ("true", "false") and field.type.value == "bool":
        return value == "true"
    try:
        return int(value)
    except ValueError:
        what = "true or false" if field.type.value == "bool" else "a whole number"
        raise click.BadParameter(f"{field.name} is {what}, got {value!r}.", param_hint="KEY") from None


def _span(length_us: int) -> str:
    seconds = length_us / 1e6
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"
