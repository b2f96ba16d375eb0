"""The sections of a report that say why: months, traffic, tests, fields, parts, and how far to trust it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from html import escape
from typing import NamedTuple

from tidegate.monitoring import chart
from tidegate.monitoring.chart import ORANGE, TEAL
from tidegate.monitoring.run import Result, Stretch

_SHOWN_FIELDS = 20
_LEAST_P = 1e-4


class Figures(NamedTuple):
    """Which figures of a task are shown.

    Attributes:
        loss: The figure that `risk` watches.
        drawn: Those with a chart by month, with their names for people.
        listed: Those in the table.
    """

    loss: str
    drawn: Mapping[str, str]
    listed: Sequence[str]


FIGURES: Mapping[str, Figures] = {
    "binary": Figures(
        "brier",
        {"brier": "Mean error", "auc": "AUC: how well predictions are ordered"},
        ("accuracy", "precision", "recall", "f1"),
    ),
    "regression": Figures("mae", {"mae": "Mean absolute error"}, ("rmse",)),
    "multiclass": Figures(
        "error_rate",
        {"error_rate": "Share of wrong answers", "auc": "AUC, mean of each class against the rest"},
        ("accuracy", "f1", "log_loss"),
    ),
    "none": Figures("", {}, ()),
}


def details(result: Result, marks: Sequence[chart.Mark]) -> Iterator[str]:
    """Yield the sections below the signals.

    Args:
        result: What the monitors made of the period.
        marks: The signals, for charts over time.
    """
    yield _months(result)
    yield _traffic(result, marks)
    yield _tests(result)
    yield _fields(result)
    yield _parts(result)
    yield _budget(result)


def month_of(name: str) -> str:
    """Return `2013-10` as `October 2013`."""
    year, _, month = name.partition("-")
    return f"{date(int(year), int(month), 1):%B %Y}"


def _months(result: Result) -> str:
    if not any(each.estimated or each.realised for each in result.stretches):
        return ""
    parts = ["<h2>Month by month</h2>"]
    first = next((each for each in result.stretches if each.estimated), None)
    shown = [each.metric for each in first.estimated] if first else []
    for metric, words in FIGURES[result.task].drawn.items():
        rows = []
        for stretch in result.stretches:
            found = {each.metric: each for each in stretch.estimated}.get(metric)
            if found is not None:
                realised, constant = stretch.realised.get(metric), stretch.constant.get(metric)
                rows.append((month_of(stretch.name), found.value, found.low, found.high, realised, constant))
        if rows:
            drawn = chart.interval_chart(rows, title=f"{metric} by month")
            parts.append(f'<div class="panel"><h3>{words}</h3>{drawn}</div>')
    if first:
        each = first.estimated[0]
        parts.append(
            f'<p class="quiet">Intervals of {each.level:.0%} hold chance, and how far such estimates missed in the '
            f"reference. {escape(each.blind)}</p>"
        )
    parts.append(_month_table(result, shown))
    return "".join(parts)


def _month_table(result: Result, shown: Sequence[str]) -> str:
    names = [name for name in FIGURES[result.task].listed if name in shown]
    head = "".join(f'<th class="n">{name.replace("_", " ")}</th>' for name in names)
    rows = []
    for stretch in result.stretches:
        found = {each.metric: each for each in stretch.estimated}
        cells = "".join(
            f'<td class="n">{figure(found[name].value if name in found else None, 3)} / '
            f"{figure(stretch.realised.get(name), 3)}</td>"
            for name in names
        )
        worth = "–" if stretch.value is None else f"{stretch.value:,.2f}"
        value = f'<td class="n">{worth}</td>' if result.currency else ""
        value += "".join(f'<td class="n">{_amount(stretch.kpis.get(kpi.name))}</td>' for kpi in result.kpis)
        rows.append(
            f'<tr><td class="day">{month_of(stretch.name)}</td><td class="n">{stretch.n_rows:,}</td>'
            f'<td class="n">{stretch.n_labelled / max(1, stretch.n_rows):.1%}</td>'
            f'<td class="n">{_fused(stretch)}</td>{cells}{value}</tr>'
        )
    money = f'<th class="n">{escape(result.currency)} each</th>' if result.currency else ""
    money += "".join(f'<th class="n">{escape(kpi.name)}</th>' for kpi in result.kpis)
    return (
        '<div class="panel"><table><tr><th>month</th><th class="n">predictions</th><th class="n">with outcome'
        f'</th><th class="n">mean error, fused</th>{head}{money}</tr>{"".join(rows)}</table>'
        f'<p class="quiet">{"Estimated without labels / realised. " if names else ""}Fused: estimates of all '
        "predictions, put right by those with labels; how sure, by its days: of a single one nothing can be said."
        "</p></div>"
    )


def _fused(stretch: Stretch) -> str:
    if stretch.fused is None:
        return ""
    value, low, high = stretch.fused
    return f"{value:.4f} ± {figure(None if low is None or high is None else (high - low) / 2)}"


def _labels(result: Result) -> list[str]:
    return [f"{day.on:%d %b}" for day in result.days]


def _traffic(result: Result, marks: Sequence[chart.Mark]) -> str:
    volume = chart.time_chart(
        _labels(result),
        [chart.Line("predictions a day", [float(day.n_rows) for day in result.days], TEAL)],
        title="Predictions a day",
        marks=marks,
    )
    parts = [f'<h2>Traffic and predictions</h2><div class="panel"><h3>Predictions a day</h3>{volume}</div>']
    if result.task in ("binary", "regression"):
        place_of = {day.on: place for place, day in enumerate(result.days)}
        came: list[float | None] = [None] * len(result.days)
        for day in result.days:
            if day.matured_on in place_of:
                came[place_of[day.matured_on]] = day.base_rate
        drawn = chart.time_chart(
            _labels(result),
            [
                chart.Line("mean prediction", [day.mean_output for day in result.days], TEAL),
                chart.Line("mean outcome", came, ORANGE),
            ],
            title="Mean prediction and outcome",
            unit="%" if result.task == "binary" else "",
            marks=marks,
        )
        parts.append(f'<div class="panel"><h3>Mean prediction and mean outcome</h3>{drawn}</div>')
    return "".join(parts)


def _tests(result: Result) -> str:
    names = sorted({name for day in result.days for name in day.p_values})
    if not names:
        return ""
    rows = []
    for name in names:
        kind, _, length = name.partition(".")
        level = result.spending[kind].level
        days = "day" if length == "1d" else f"{length.removesuffix('d')} days"
        rows.append((f"{kind}, {days}", [day.p_values.get(name) for day in result.days], level))
    return (
        '<h2>Was it chance?</h2><p class="quiet">Each cell is one test against days of the reference: the '
        "darker, the less likely by chance; orange below the level that the alarm budget allows.</p>"
        f'<div class="panel">{chart.strip_chart(_labels(result), rows)}</div>'
    )


def _fields(result: Result) -> str:
    if not result.fields:
        return ""
    greatest = max((abs(each.effect or 0.0) for each in result.fields), default=0.0) or 1.0
    rows = []
    for each in result.fields[:_SHOWN_FIELDS]:
        what, before, now = each.moved
        effect = each.effect or 0.0
        rows.append(
            f"<tr><td>{_field(each.field)}</td>"
            f'<td class="day">{chart.bar(abs(effect) / greatest, ORANGE if effect > 0 else TEAL)} '
            f"{effect * result.scale:+.4f}</td>"
            f'<td class="n">{each.psi:.3f}</td><td class="n">{max(0.0, each.excess):.3f}</td>'
            f'<td class="n">{each.jensen_shannon:.3f}</td><td class="n">{figure(each.ks, 3)}</td>'
            f'<td class="n">{each.missing:.1%}</td><td class="n">{each.strange:.2%}</td>'
            f"<td>{escape(what)}: {before:.1%} to {now:.1%}</td></tr>"
        )
    told = ""
    if result.two_sample is not None:
        fields = ", ".join(name.split(".", 1)[-1] for name in result.two_sample.telling)
        told = (
            f'<p class="quiet">All inputs together: a classifier tells this period from the reference with AUC '
            f"{result.two_sample.auc:.2f} (p = {result.two_sample.p_value:.2g}, days exchanged), most by "
            f"{escape(fields)}.</p>"
        )
    return (
        '<h2>What moved</h2><p class="quiet">Over the whole period, sorted by the estimated effect on the mean '
        "error. PSI, Jensen-Shannon and Kolmogorov-Smirnov distances are those to the reference, beyond usual the part of "
        "PSI by which days of the reference do not differ anyway, strange a value that the reference never had."
        f'</p>{told}<div class="panel"><table><tr><th>field</th><th>effect on error</th><th class="n">PSI'
        '</th><th class="n">beyond usual</th><th class="n">JS</th><th class="n">KS</th><th class="n">missing'
        '</th><th class="n">strange</th><th>share of rows that moved most</th></tr>'
        f"{''.join(rows)}</table></div>"
    )


def _parts(result: Result) -> str:
    parts = []
    if result.calibration:
        points = [(each.predicted, each.observed, each.low, each.high) for each in result.calibration]
        drawn = chart.scatter_chart(points, title="Predicted and observed")
        worst = max(result.calibration, key=lambda each: abs(each.observed - each.predicted))
        rows = "".join(
            f'<tr><td class="n">{each.predicted:.1%}</td><td class="n">{each.observed:.1%}</td>'
            f'<td class="n">{each.low:.1%} to {each.high:.1%}</td></tr>'
            for each in result.calibration
        )
        said = "of being right " if result.task == "multiclass" else ""
        parts.append(
            f'<h2>Does 30% mean 30%?</h2><div class="panel beside">{drawn}<div><p>Farthest off: where the model '
            f"said {worst.predicted:.0%} {said}on average, it was {worst.observed:.0%}.</p>"
            '<table><tr><th class="n">predicted</th><th class="n">observed</th><th class="n">interval</th></tr>'
            f"{rows}</table></div></div>"
        )
    confirmed = [each for each in result.slices if each.confirmed]
    if confirmed:
        rows = "".join(
            f'<tr><td>{escape(str(each))}</td><td class="n">{each.n_rows:,}</td><td class="n">'
            f'{each.loss * result.scale:.4g}</td><td class="n">{each.rest * result.scale:.4g}</td><td class="n">{_chance(each.p_value)}</td></tr>'
            for each in confirmed
        )
        parts.append(
            '<h2>Where it is worse</h2><p class="quiet">Found on one half of the predictions, measured on the '
            'other.</p><div class="panel"><table><tr><th>where</th><th class="n">predictions</th>'
            f'<th class="n">mean error</th><th class="n">elsewhere</th><th class="n">p</th></tr>{rows}</table></div>'
        )
    if result.patterns is not None and result.patterns.strangest:
        rows = "".join(
            f"<tr><td>{escape(', '.join(f'{k} = {v}' for k, v in each.values.items()))}</td>"
            f'<td class="n">{each.n_rows:,}</td><td class="n">{each.n_reference:,}</td>'
            f'<td class="n">{figure(each.mean_loss)}</td></tr>'
            for each in result.patterns.strangest
        )
        parts.append(
            f'<h2>What the model hardly knows</h2><p class="quiet">{result.patterns.never:.2%} of the predictions '
            f"have a pair of values that the reference never had, {result.patterns.rare:.2%} one that it had "
            f'fewer than {result.patterns.few} times.</p><div class="panel"><table><tr><th>pair</th>'
            '<th class="n">now</th><th class="n">reference</th><th class="n">mean error</th></tr>'
            f"{rows}</table></div>"
        )
    return "".join(parts)


def _budget(result: Result) -> str:
    rows = "".join(
        f'<tr><td>{escape(name)}</td><td class="n">{each.allowance:.3f}</td><td class="n">{each.level:.2g}</td>'
        f'<td class="n">{each.n_tests}</td><td class="n">{each.spent:.3f}</td></tr>'
        for name, each in result.spending.items()
    )
    return (
        f'<h2>How far to trust this page</h2><p class="quiet">In 30 days without any drift all monitors together may '
        f"raise {result.budget:g} false alarm{'s' * (result.budget != 1)}, and they share that out. "
        "What no drift looks like is learned by drawing days of the reference again, for rows of a day resemble each other.</p>"
        '<div class="panel"><table><tr><th>monitor</th><th class="n">alarms a month allowed</th>'
        '<th class="n">level of a test</th><th class="n">tests</th><th class="n">spent</th></tr>'
        f"{rows}</table></div>"
    )


def _amount(value: float | None) -> str:
    return "–" if value is None else f"{value:,.4g}"


def figure(value: float | None, digits: int = 4) -> str:
    """Return a figure for people, a dash where there is none."""
    return "–" if value is None else f"{value:.{digits}f}"


def _chance(p_value: float) -> str:
    return f"< {_LEAST_P}" if p_value < _LEAST_P else f"{p_value:.2g}"


def _field(name: str) -> str:
    side, _, rest = name.partition(".")
    note = "" if side == "input" else ' <span class="quiet">(answer)</span>'
    return f"{escape(rest or name)}{note}"
