"""`tidegate monitor` and `tidegate report`."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tidegate.cli.main import SAID_NO
from tidegate.cli.option import home_option, json_option, open_local
from tidegate.cli.screen import print_json, print_table

if TYPE_CHECKING:
    from tidegate.monitoring.run import Result
    from tidegate.operation.profile import ProfileView


class Span(click.ParamType[tuple[date, date], tuple[date, date]]):
    """Two days with two dots between them; one day stands for itself."""

    name = "days"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[date, date]:
        if isinstance(value, tuple):
            return value
        first, _, last = str(value).partition("..")
        try:
            span = date.fromisoformat(first), date.fromisoformat(last or first)
        except ValueError:
            self.fail(f"{value!r} is no period; write 2026-10-01..2026-12-31.", param, ctx)
        if span[0] > span[1]:
            self.fail(f"{value!r} ends before it begins.", param, ctx)
        return span


_OVER = click.option("--over", type=Span(), help="First and last day, FIRST..LAST; all after the reference.")
_REFERENCE = click.option(
    "--reference",
    type=Span(),
    help="What to compare with, FIRST..LAST; the first days of the history unless given.",
)


@click.group(short_help="Let the monitors look at what a service did.")
def monitor() -> None:
    """Let the monitors look at what a service did: drift, quality with and without labels, signals."""


@monitor.command(
    epilog="\b\nExamples:\n  tidegate monitor run flight-delay\n"
    "  tidegate monitor run flight-delay --over 2026-10-01..2026-12-31 --reference 2026-07-01..2026-09-30\n"
    "  tidegate monitor run flight-delay --json"
)
@click.argument("service")
@_OVER
@_REFERENCE
@click.option("--keep", is_flag=True, help="Store the signals, as the controller does with new days.")
@home_option
@json_option
def run(
    service: str,
    *,
    over: tuple[date, date] | None,
    reference: tuple[date, date] | None,
    keep: bool,
    home: Path | None,
    as_json: bool,
) -> None:
    """Go through a period of SERVICE day by day, as its monitors would have seen it.

    The exit status is 3 if a signal is open at its end.
    """
    from tidegate.monitoring.signal import State

    result = _examined(service, over, reference, home, keep=keep)
    if as_json:
        print_json(result)
    else:
        _print_result(result)
    if any(signal.state is not State.RESOLVED for signal in result.signals):
        raise click.exceptions.Exit(SAID_NO)


@monitor.command(
    epilog="\b\nExamples:\n  tidegate monitor profile flight-delay\n"
    "  tidegate monitor profile flight-delay --over 2026-10-01..2026-10-31 --by day\n"
    "  tidegate monitor profile flight-delay --over 2026-10-01..2026-10-31 --slice carrier\n"
    "  tidegate monitor profile flight-delay --slice carrier=UA --by hour --json"
)
@click.argument("service")
@click.option("--over", type=Span(), help="First and last day, FIRST..LAST; the last one unless given.")
@_REFERENCE
@click.option(
    "--by",
    type=click.Choice(["day", "hour", "minute"]),
    default="hour",
    show_default=True,
    help="Length of a period.",
)
@click.option(
    "--slice", "slice_", help="FIELD: each of its values over all days; FIELD=VALUE: that one's periods."
)
@home_option
@json_option
def profile(
    service: str,
    *,
    over: tuple[date, date] | None,
    reference: tuple[date, date] | None,
    by: str,
    slice_: str | None,
    home: Path | None,
    as_json: bool,
) -> None:
    """Show what SERVICE was asked and answered, hour by hour or slice by slice, beside the reference.

    Hours and minutes stand beside the same hours of the reference's days. This is to be looked at: what
    decides is `tidegate monitor run`, day by day.
    """
    from tidegate.bootstrap.monitor import profiles
    from tidegate.monitoring.period import WHOLE
    from tidegate.monitoring.period import Span as Length

    field, _, value = (slice_ or "").partition("=")
    with profiles(open_local(home, must_exist=True), service, reference=reference) as book:
        days = over or book.last_day
        if field and not value:
            views = book.slices(days, field)
        else:
            views = book.periods(days, Length[by.upper()], (field, value) if field else WHOLE)
    if as_json:
        print_json(views)
        return
    print_table(
        (
            "what",
            "#records",
            "#reference",
            "farthest field",
            "#psi",
            "#beyond chance",
            "bin",
            "#before",
            "#now",
        ),
        [(_what(view), view.n_rows, view.n_reference, *_farthest(view)) for view in views],
        title=f"{service}, {days[0]} to {days[1]}",
    )
    if not views:
        click.echo("No records there.")


def _what(view: ProfileView) -> str:
    if view.minute is None:
        return view.part[1]
    return f"{datetime.fromtimestamp(view.minute * 60, UTC):%Y-%m-%d %H:%M}"


def _farthest(view: ProfileView) -> tuple[str, ...]:
    if not view.moved:
        return ("-",) * 6
    first = view.moved[0]
    name, before, now = first.bin
    field = first.field.split(".", 1)[-1]
    return field, f"{first.psi:.3f}", f"{first.beyond:.3f}", name, f"{before:.1%}", f"{now:.1%}"


@click.command(
    short_help="Write a service's report of a period as one HTML page.",
    epilog="\b\nExamples:\n  tidegate report flight-delay\n"
    "  tidegate report flight-delay --over 2026-10-01..2026-12-31 --to quarter.html",
)
@click.argument("service")
@_OVER
@_REFERENCE
@click.option(
    "--to",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The file; SERVICE-FIRST-LAST.html unless given.",
)
@home_option
def report(
    service: str,
    *,
    over: tuple[date, date] | None,
    reference: tuple[date, date] | None,
    to: Path | None,
    home: Path | None,
) -> None:
    """Write what happened to SERVICE in a period as one page that needs nothing beside itself."""
    from tidegate.monitoring.report import render

    result = _examined(service, over, reference, home)
    target = to or Path(f"{service}-{result.first}-{result.last}.html")
    target.write_text(render(result), encoding="utf-8")
    click.echo(f"{target}: {result.n_rows:,} predictions, {len(result.signals)} signals.")


def _examined(
    service: str,
    over: tuple[date, date] | None,
    reference: tuple[date, date] | None,
    home: Path | None,
    *,
    keep: bool = False,
) -> Result:
    from tidegate.bootstrap.monitor import examined

    local = open_local(home, must_exist=True)
    return examined(local, service, over=over, reference=reference, keep=keep)


def _print_result(result: Result) -> None:
    from tidegate.monitoring.section import FIGURES

    print_table(
        ("month", "#predictions", "#with outcome", "#mean error", "#estimated", "#interval"),
        [
            (
                each.name,
                each.n_rows,
                each.n_labelled,
                _figure(each.realised.get(FIGURES[result.task].loss)),
                *_estimate(each, FIGURES[result.task].loss),
            )
            for each in result.stretches
        ],
        title=f"{result.service}, {result.first} to {result.last}, against {result.reference_first} to "
        f"{result.reference_last}",
    )
    if result.signals:
        print_table(
            ("signal", "since", "until", "severity", "what", "cost"),
            [
                (
                    each.id,
                    each.first_on,
                    each.resolved_on or "open",
                    each.severity.value,
                    each.title,
                    each.cost,
                )
                for each in result.signals
            ],
        )
    spent = sum(each.spent for each in result.spending.values())
    click.echo(
        f"{len(result.signals)} signals. Without any drift at most {spent:.2f} would be expected "
        f"(budget: {result.budget:g} in 30 days)."
    )
    for note in result.notes:
        click.echo(f"Note: {note}")


def _estimate(stretch: Any, loss: str) -> tuple[str, str]:
    for each in stretch.estimated:
        if each.metric == loss:
            return f"{each.value:.4f}", f"{each.low:.4f} to {each.high:.4f}"
    return "-", "-"


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
