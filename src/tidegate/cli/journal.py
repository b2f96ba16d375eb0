"""`tidegate journal`."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tidegate.cli.main import SAID_NO
from tidegate.cli.option import FOLDER, home_option, json_option, open_local
from tidegate.cli.screen import moment, print_json, print_table

if TYPE_CHECKING:
    from tidegate.operation.journal import Record

_FOLLOW_S = 0.2
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


class Moment(click.ParamType[int, int]):
    """A time as microseconds UTC: ISO 8601, or how long ago, such as 15m."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        text = str(value)
        try:
            if text[:-1].isdecimal() and text[-1:] in _UNITS:
                at = datetime.now(UTC) - timedelta(**{_UNITS[text[-1]]: int(text[:-1])})
            else:
                at = datetime.fromisoformat(text)
            at = at if at.tzinfo else at.replace(tzinfo=UTC)
            return int(at.timestamp() * 1e6)
        except (ValueError, OverflowError):  # the second: before the year 1
            self.fail(f"{text!r} is no time; write 2026-11-20T14:00 or 15m.", param, ctx)


class PredictionId(click.ParamType[str, str]):
    """The id of one prediction, as an answer gives it."""

    name = "id"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        from tidegate.core.identifier import format_prediction_id, parse_prediction_id

        try:
            return format_prediction_id(*parse_prediction_id(str(value)))
        except ValueError:
            self.fail(
                f"{value!r} is no prediction's id; an answer gives it as prediction_id or id, such as"
                " 01a1fb68-cfe4-7738-8a8e-6a3f7ba4a1ef, with .2 after it for the request's third row.",
                param,
                ctx,
            )


@click.group(short_help="Look into the journal, and export it.")
def journal() -> None:
    """Look into the journal: every answered prediction, every outcome, counted refusals and events."""


@journal.command(
    epilog="\b\nExamples:\n  tidegate journal show flight-delay --last 5\n"
    "  tidegate journal show --errors --since 15m --json\n"
    "  tidegate journal show --id 01a1fb68-cfe4-7738-8a8e-6a3f7ba4a1ef\n"
    "  tidegate journal show flight-delay --follow"
)
@click.argument("service", required=False)
@click.option("--version", type=int, help="Only records of this version.")
@click.option(
    "--kind",
    type=click.Choice(["prediction", "shadow", "outcome", "refusal", "event"]),
    help="Only records of this kind.",
)
@click.option(
    "--id", "prediction_id", type=PredictionId(), help="Only this prediction, and what was reported of it."
)
@click.option("--since", type=Moment(), help="Only from this time on: 2026-11-20T14:00 (UTC) or 15m.")
@click.option("--until", type=Moment(), help="Only before this time.")
@click.option("--errors", is_flag=True, help="Only what was answered with an error.")
@click.option("--last", type=click.IntRange(1), help="Only the last so many.")
@click.option("--follow", is_flag=True, help="Then show what comes, until Ctrl-C.")
@home_option
@json_option
def show(
    service: str | None,
    *,
    version: int | None,
    kind: str | None,
    prediction_id: str | None,
    since: int | None,
    until: int | None,
    errors: bool,
    last: int | None,
    follow: bool,
    home: Path | None,
    as_json: bool,
) -> None:
    """Show records, oldest first, a line each; `--json` gives one whole record a line."""
    from tidegate.journal.record import RecordKind
    from tidegate.operation.journal import JournalView, Wanted
    from tidegate.operation.version import check_service

    wanted = Wanted(
        service=service,
        version=version,
        kind=None if kind is None else RecordKind(kind),
        since_us=since,
        until_us=until,
        prediction_id=prediction_id,
        errors_only=errors,
    )
    local = open_local(home, must_exist=True)
    view = JournalView(local.home.journal, wanted)
    n_shown = 0
    try:
        for record in _first_look(view.read(), last):
            _print_record(record, as_json)
            n_shown += 1
        if not n_shown:
            check_service(local.unit, service)
        if not n_shown and not follow:
            click.echo("No record of the journal matches.", err=True)
        while follow:
            time.sleep(_FOLLOW_S)
            for record in view.read():
                _print_record(record, as_json)
    except KeyboardInterrupt:
        pass
    finally:
        view.close()
    for damage in view.damages:
        click.echo(f"Segment {damage.segment} is damaged at {damage.offset}: {damage.reason}.", err=True)


@journal.command(epilog="\b\nExamples:\n  tidegate journal check\n  tidegate journal check --json")
@home_option
@json_option
def check(home: Path | None, as_json: bool) -> None:
    """Read every segment to its end, and say how it ends. The exit status is 3 if one is damaged."""
    from tidegate.operation.journal import check_segments

    place = open_local(home, must_exist=True).home
    found = check_segments(place.journal, place.ledger)
    if as_json:
        print_json(found)
    else:
        print_table(
            ("segment", "#bytes", "#counted", "#frames", "end", "damage"),
            [
                (
                    each.name,
                    each.size_bytes,
                    "-" if each.counted_bytes is None else each.counted_bytes,
                    each.n_frames,
                    each.end.value,
                    each.damage,
                )
                for each in found
            ],
        )
    if any(each.damage for each in found):
        raise click.exceptions.Exit(SAID_NO)


@journal.command(epilog="\b\nExamples:\n  tidegate journal segments\n  tidegate journal segments --json")
@home_option
@json_option
def segments(home: Path | None, as_json: bool) -> None:
    """Show the segments that are kept, why each must stay, and how many went.

    The settings `journal_keep_days` and `journal_max_mb` say when the controller deletes one. It never does
    before its records are counted and in Parquet files and their outcomes have had their time.
    """
    from tidegate.bootstrap.retention import kept

    found = kept(open_local(home, must_exist=True))
    if as_json:
        print_json(found)
        return
    print_table(
        ("segment", "#bytes", "last record", "services", "stays because"),
        [
            (each.name, each.size_bytes, moment(each.last_us), ", ".join(each.services), each.reason or "-")
            for each in found.segments
        ],
    )
    free = [each.size_bytes for each in found.segments if not each.reason]
    click.echo(
        f"{len(found.segments)} segments, {found.size_bytes / 1e6:,.1f} MB; {len(free)} of them, "
        f"{sum(free) / 1e6:,.1f} MB, may go once the policy asks for it."
    )
    gone = found.cleared
    if gone.count:
        click.echo(
            f"{gone.count} segments, {gone.size_bytes / 1e6:,.1f} MB, are deleted; the newest of their "
            f"records is of {moment(gone.last_us)}. What was counted of them is only in the ledger now."
        )


@journal.command(
    epilog="\b\nExamples:\n  tidegate journal count flight-delay\n  tidegate journal count --since 1h --json"
)
@click.argument("service", required=False)
@click.option("--since", type=Moment(), help="Only from this time on: 2026-11-20T14:00 (UTC) or 15m.")
@home_option
@json_option
def count(service: str | None, since: int | None, home: Path | None, as_json: bool) -> None:
    """Show the counts that the controller keeps: requests, errors, service times, joined outcomes.

    With --since, requests count by when they arrived, and outcomes by when they were received.
    """
    from tidegate.journal.tally import Tally
    from tidegate.operation.journal import count as count_records
    from tidegate.operation.version import check_service

    local = open_local(home, must_exist=True)
    counted = count_records(
        local.home.ledger, service, since_minute=None if since is None else since // 60_000_000
    )
    if not counted.tallies:
        check_service(local.unit, service)
    if as_json:
        print_json(counted)
        return
    totals: dict[tuple[str, int, str, str], Tally] = {}
    for key, tally in counted.tallies:
        totals.setdefault((key.service, key.version, key.arm, key.kind.value), Tally()).add(tally)
    print_table(
        ("service", "#version", "arm", "kind", "#requests", "#rows", "#failed", "#fallback", "#p50 us",
         "#p99 us", "#outcomes"),
        [
            (*key, tally.requests, tally.rows, tally.failed, tally.fallback,
             f"{tally.quantile_us(0.5):.0f}", f"{tally.quantile_us(0.99):.0f}", tally.joined)
            for key, tally in sorted(totals.items())
        ],
    )  # fmt: skip
    outcomes = counted.outcomes
    click.echo(
        f"Outcomes: {outcomes.delivered} delivered, {outcomes.joined} joined, "
        f"{outcomes.corrected} corrected, {outcomes.repeated} repeated, {outcomes.conflicting} conflicting, "
        f"{outcomes.unknown} unknown, {outcomes.pending} pending."
    )


@journal.command(
    epilog="\b\nExamples:\n  tidegate journal slices flight-delay --since 24h\n"
    "  tidegate journal slices flight-delay --version 3 --json"
)
@click.argument("service")
@click.option("--version", type=int, help="Only records of this version.")
@click.option("--since", type=Moment(), help="Only from this time on: 2026-11-20T14:00 (UTC) or 15m.")
@home_option
@json_option
def slices(service: str, *, version: int | None, since: int | None, home: Path | None, as_json: bool) -> None:
    """Show SERVICE's traffic and quality by slice, as counted so far: of each field the worst first.

    Slices are the fields that `tg.Monitoring(slices=...)` declares, and the protected ones.
    """
    from tidegate.operation.journal import slices as read_views
    from tidegate.operation.version import check_service

    local = open_local(home, must_exist=True)
    found = read_views(
        local.home.ledger, service, version=version, since_minute=0 if since is None else since // 60_000_000
    )
    if not found:
        check_service(local.unit, service)
    if as_json:
        print_json(found)
        return
    print_table(
        ("field", "value", "#rows", "#share", "#failed", "#us", "#output", "#outcomes", "#mean", "#loss",
         "#rest"),
        [
            (each.field, each.value, each.rows, f"{each.share:.1%}", each.failed, f"{each.mean_us:.0f}",
             _figure(each.mean_score), each.joined, _figure(each.mean_outcome), _figure(each.mean_loss),
             _figure(each.rest_loss))
            for each in found
        ],
    )  # fmt: skip
    if not found:
        click.echo(
            f"Nothing of {service!r} is counted by slice. Declare some with "
            'tg.Monitoring(slices=("FIELD",)): what is answered from then on is.'
        )


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


@journal.command(
    epilog="\b\nExamples:\n  tidegate journal export parquet/\n"
    "  tidegate journal export parquet/ flight-delay --since 24h"
)
@click.argument("target", type=FOLDER)
@click.argument("service", required=False)
@click.option("--since", type=Moment(), help="Only from this time on: 2026-11-20T14:00 (UTC) or 15m.")
@click.option("--until", type=Moment(), help="Only before this time.")
@click.option(
    "--shadows", is_flag=True, help="Also what versions answered in the shadow: the column kind says which."
)
@home_option
@json_option
def export(
    target: Path,
    service: str | None,
    *,
    since: int | None,
    until: int | None,
    shadows: bool,
    home: Path | None,
    as_json: bool,
) -> None:
    """Write predictions as Parquet into the folder TARGET: a file for each service, day and contract.

    What a version answered in the shadow is left out, or with --shadows has no inputs: they stand with the
    prediction of the same prediction_id. Files that are there are replaced.

    The exit status is 3 if some of the journal could not be read.
    """
    from tidegate.bootstrap.export import export as export_home
    from tidegate.operation.version import check_service

    local = open_local(home, must_exist=True)
    report = export_home(local.home, target, service=service, since_us=since, until_us=until, shadows=shadows)
    if not report.files:
        check_service(local.unit, service)
    if as_json:
        files = [
            {"path": str(file.path), "service": file.service, "day": file.day, "rows": file.rows}
            for file in report.files
        ]
        print_json({"files": files, "damages": report.damages})
    else:
        print_table(
            ("file", "service", "day", "#rows"),
            [(file.path, file.service, file.day, file.rows) for file in report.files],
        )
    for damage in report.damages:
        click.echo(f"Segment {damage.segment} is damaged at {damage.offset}: {damage.reason}.", err=True)
    if report.damages:
        raise click.exceptions.Exit(SAID_NO)


def _first_look(records: Any, last: int | None) -> Any:
    from collections import deque

    return records if last is None else deque(records, maxlen=last)


def _print_record(record: Record, as_json: bool) -> None:
    import msgspec

    if as_json:
        click.echo(msgspec.json.encode(record).decode())
        return
    parts = [moment(record.at_us), record.kind.value, record.service or "-"]
    if record.version is not None:
        parts.append(f"version {record.version} ({record.arm})")
    if record.prediction_id:
        parts.append(record.prediction_id)
    if record.outputs:
        parts.append(" ".join(f"{name}={value}" for name, value in record.outputs.items()))
    if record.error:
        parts.append(f"error {record.error}")
    if record.answered_by:
        parts.append(f"answered by {record.answered_by}")
    if record.flags:
        parts.append(",".join(record.flags))
    if record.service_us:
        parts.append(f"{record.service_us:.0f} us")
    if record.detail:
        parts.append(" ".join(f"{name}={value}" for name, value in record.detail.items()))
    click.echo("  ".join(parts))
