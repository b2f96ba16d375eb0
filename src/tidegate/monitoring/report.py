"""One page a service and period: what happened, what it means, how sure that is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from html import escape

from tidegate.monitoring import chart
from tidegate.monitoring.run import Result, Stretch
from tidegate.monitoring.signal import Severity, Signal, State

_TEAL, _ORANGE, _GREY, _BLUE = "#0f766e", "#c2410c", "#94a3b8", "#1d4ed8"
_COLOURS = {Severity.CRITICAL: "#b91c1c", Severity.WARNING: _ORANGE, Severity.NOTICE: _BLUE}
_SHOWN_FIELDS = 20
_WEEK = 7

_STYLE = """
:root{color-scheme:light}*{box-sizing:border-box}
body{font:15px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif;color:#0f172a;background:#f8fafc;margin:0}
main{max-width:980px;margin:0 auto;padding:28px 20px 60px}
h1{font-size:26px;margin:0 0 2px}h2{font-size:18px;margin:34px 0 6px}
.sub{color:#475569;margin:0 0 16px}.quiet{color:#64748b;font-size:13.5px}
.verdict{font-size:17px;padding:14px 16px;border-left:5px solid #0f766e;background:#fff;border-radius:4px}
.verdict.bad{border-color:#b91c1c}.verdict.warn{border-color:#c2410c}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:10px;margin:16px 0}
.card{background:#fff;border:1px solid #e2e8f0;border-radius:8px;padding:10px 12px}
.card b{display:block;font-size:21px}.card span{color:#64748b;font-size:13px}
.panel{background:#fff;border:1px solid #e2e8f0;border-radius:8px;padding:12px 14px;overflow-x:auto}
svg{width:100%;height:auto;display:block}svg text{font-size:11px;fill:#475569}.grid{stroke:#e2e8f0}
table{border-collapse:collapse;width:100%;font-size:13.5px}th{color:#475569;font-weight:600;text-align:left}
th,td{padding:5px 8px;border-bottom:1px solid #eef2f7;vertical-align:top}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}
.tag{color:#fff;border-radius:4px;padding:1px 7px;font-size:12px}
.legend{display:flex;flex-wrap:wrap;gap:14px;font-size:12.5px;color:#475569;padding-top:4px}
.legend i{display:inline-block;width:18px;margin-right:5px;vertical-align:middle}
.bar{display:inline-block;width:70px;height:9px;background:#eef2f7;border-radius:3px}
.bar span{display:block;height:9px;border-radius:3px}
code{font-size:12.5px;background:#f1f5f9;padding:1px 4px;border-radius:3px}
@media print{body{background:#fff}.panel,.card{break-inside:avoid}}
"""


def render(result: Result, *, made_at: datetime | None = None) -> str:
    """Return the report as one HTML page.

    Args:
        result: What the monitors made of the period.
        made_at: When it was made; now if None.
    """
    made = (made_at or datetime.now(UTC)).strftime("%Y-%m-%d %H:%M UTC")
    body = "".join(_sections(result))
    title = f"{result.service}, {result.first} to {result.last}"
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width,initial-scale=1"><style>{_STYLE}</style></head>'
        f"<body><main><h1>{escape(result.service)}</h1>"
        f'<p class="sub">{result.first:%d %B %Y} to {result.last:%d %B %Y}, compared with '
        f"{result.reference_first:%d %B %Y} to {result.reference_last:%d %B %Y} "
        f"({result.reference_rows:,} predictions)</p>{body}"
        f'<p class="quiet">Made {made} by Tidegate.</p></main></body></html>'
    )


def _sections(result: Result) -> Iterator[str]:
    yield _verdict(result)
    yield _cards(result)
    yield _quality(result)
    yield _signals(result)
    yield _months(result)
    yield _traffic(result)
    yield _tests(result)
    yield _fields(result)
    yield _parts(result)
    yield _budget(result)


def _mean_loss(result: Result) -> float | None:
    days = [day for day in result.days if day.realised_loss is not None]
    n_rows = sum(day.n_labelled for day in days)
    return sum((day.realised_loss or 0.0) * day.n_labelled for day in days) / n_rows if n_rows else None


def _verdict(result: Result) -> str:
    """Say in one or two sentences what a manager should know."""
    risks = [signal for signal in result.signals if signal.kind == "risk"]
    loss, before = _mean_loss(result), result.reference_loss
    still = [signal for signal in result.signals if signal.state is not State.RESOLVED]
    if risks:
        first = min(signal.first_on for signal in risks)
        text, css = f"Quality was lost: the accepted error was exceeded, as detected on {first:%d %B}.", "bad"
    elif loss is None:
        text, css = "Undecided: no outcomes have come that predictions could be held against.", "warn"
    elif before is not None and result.accepted_loss is not None and loss > result.accepted_loss:
        text, css = "The mean error is above what is accepted, by less than can be told from chance.", "warn"
    elif before is not None:
        text, css = f"Quality held: the mean error was {loss / before - 1:+.0%} against the reference.", ""
    else:
        text, css = (
            f"The mean error was {loss:.4f}; the reference has no outcomes to compare it with.",
            "warn",
        )
    worst = _worst(result.stretches)
    if worst is not None and before is not None:
        change = worst.realised["brier" if "brier" in worst.realised else next(iter(worst.realised))] / before
        if result.task == "binary" and abs(change - 1) > 0.1:
            text += f" {worst.name} stood out with {change - 1:+.0%}."
    text += f" {len(result.signals)} signals were raised, {len(still)} are open."
    return f'<p class="verdict {css}">{escape(text)}</p>'


def _worst(stretches: Sequence[Stretch]) -> Stretch | None:
    known = [each for each in stretches if "brier" in each.realised]
    return max(known, key=lambda each: each.realised["brier"]) if known else None


def _cards(result: Result) -> str:
    loss = _mean_loss(result)
    spent = sum(each.spent for each in result.spending.values())
    cards = [(f"{result.n_rows:,}", "predictions")]
    if loss is not None:
        cards.append((f"{loss:.4f}", f"mean error (reference {_figure(result.reference_loss)})"))
    if result.coverage is not None:
        cards.append((f"{result.coverage:.1%}", "of matured predictions have an outcome"))
    failed = sum(day.n_failed for day in result.days)
    cards.append((f"{failed:,}", "answered with an error"))
    values = [(day.value, day.n_labelled) for day in result.days if day.value is not None]
    if values and sum(n for _, n in values):
        mean = sum(value * n for value, n in values) / sum(n for _, n in values)
        cards.append((f"{mean:,.2f} {escape(result.currency)}", "brought by a prediction"))
    open_now = sum(signal.state is not State.RESOLVED for signal in result.signals)
    cards.append((f"{open_now} of {len(result.signals)}", "signals open"))
    cards.append((f"{spent:.2f}", "false alarms to be expected, at most"))
    inner = "".join(f'<div class="card"><b>{value}</b><span>{text}</span></div>' for value, text in cards)
    return f'<div class="cards">{inner}</div>'


def _labels(result: Result) -> list[str]:
    return [f"{day.on:%d %b}" for day in result.days]


def _marks(result: Result) -> list[chart.Mark]:
    places = {day.on: place for place, day in enumerate(result.days)}
    return [
        chart.Mark(places[signal.first_on], f"{signal.first_on}: {signal.title}", _COLOURS[signal.severity])
        for signal in result.signals
        if signal.first_on in places
    ]


def _quality(result: Result) -> str:
    if result.task == "none":
        return ""
    place_of = {day.on: place for place, day in enumerate(result.days)}
    realised: list[float | None] = [None] * len(result.days)
    for day in result.days:
        if day.matured_on in place_of and day.realised_loss is not None:
            realised[place_of[day.matured_on]] = day.realised_loss
    lines = [
        chart.Line("realised, by day of prediction", realised, _GREY, "dots"),
        chart.Line("realised, mean of 7 days", _smooth(realised), _ORANGE),
    ]
    expected = [day.expected_loss for day in result.days]
    if any(value is not None for value in expected):
        lines.append(chart.Line("what the model expects of itself, 7 days", _smooth(expected), _TEAL))
    levels = []
    if result.reference_loss is not None:
        levels.append(("reference", result.reference_loss, _GREY))
    if result.accepted_loss is not None:
        levels.append(("accepted", result.accepted_loss, "#b91c1c"))
    drawn = chart.time_chart(
        _labels(result), lines, title="Mean error by day", marks=_marks(result), levels=levels
    )
    return (
        f'<h2>Quality</h2><p class="quiet">Mean error ({escape(result.loss)}); less is better. Vertical '
        f'lines: signals.</p><div class="panel">{drawn}</div>'
    )


def _smooth(values: Sequence[float | None]) -> list[float | None]:
    found: list[float | None] = []
    for place in range(len(values)):
        near = [v for v in values[max(0, place - _WEEK + 1) : place + 1] if v is not None]
        found.append(sum(near) / len(near) if near else None)
    return found


def _signals(result: Result) -> str:
    if not result.signals:
        return '<h2>Signals</h2><p class="panel">None.</p>'
    rows = "".join(_signal_row(signal) for signal in result.signals)
    return (
        '<h2>Signals</h2><div class="panel"><table><tr><th>since</th><th>what</th><th>cost</th>'
        f"<th>what to do</th><th>state</th></tr>{rows}</table></div>"
    )


def _signal_row(signal: Signal) -> str:
    colour = _COLOURS[signal.severity]
    p_value = signal.evidence.get("p_value")
    sure = f"p = {p_value:.2g} at level {signal.evidence.get('level', 0):.2g}" if p_value is not None else ""
    state = signal.state.value
    if signal.resolved_on is not None:
        state += f" {signal.resolved_on:%d %b}"
    if signal.acknowledged_by:
        state += f" by {signal.acknowledged_by}"
    return (
        f'<tr><td>{signal.first_on:%d %b}</td><td><span class="tag" style="background:{colour}">'
        f"{signal.severity.value}</span> {escape(signal.title)}<br>"
        f'<span class="quiet">{escape(sure)} {signal.n_windows} days; {signal.id}</span></td>'
        f"<td>{escape(signal.cost)}</td><td>{escape(signal.remedy)}</td><td>{escape(state)}</td></tr>"
    )


def _months(result: Result) -> str:
    if not any(each.estimated or each.realised for each in result.stretches):
        return ""
    parts = ["<h2>Month by month</h2>"]
    first = next((each for each in result.stretches if each.estimated), None)
    shown = [each.metric for each in first.estimated] if first else []
    for metric in [name for name in ("brier", "auc", "mae") if name in shown]:
        rows = []
        for stretch in result.stretches:
            found = {each.metric: each for each in stretch.estimated}.get(metric)
            if found is not None:
                realised, constant = stretch.realised.get(metric), stretch.constant.get(metric)
                rows.append((stretch.name, found.value, found.low, found.high, realised, constant))
        words = {"brier": "Mean error", "auc": "AUC (order of the predictions)", "mae": "Absolute error"}
        drawn = chart.interval_chart(rows, title=f"{metric} by month")
        parts.append(f'<div class="panel"><b>{words[metric]}</b>{drawn}</div>')
    if first:
        parts.append(f'<p class="quiet">Without labels: {escape(first.estimated[0].blind)}</p>')
    parts.append(_month_table(result, shown))
    return "".join(parts)


def _month_table(result: Result, shown: Sequence[str]) -> str:
    names = [
        name for name in ("base_rate", "accuracy", "precision", "recall", "f1", "log_loss") if name in shown
    ]
    head = "".join(f'<th class="n">{name.replace("_", " ")}</th>' for name in names)
    rows = []
    for stretch in result.stretches:
        found = {each.metric: each for each in stretch.estimated}
        cells = "".join(
            f'<td class="n">{found[name].value:.3f} / {_figure(stretch.realised.get(name), 3)}</td>'
            for name in names
            if name in found
        )
        value = f'<td class="n">{stretch.value:,.2f}</td>' if stretch.value is not None else ""
        fused = (
            f"{stretch.fused[0]:.4f} ± {(stretch.fused[2] - stretch.fused[1]) / 2:.4f}"
            if stretch.fused
            else ""
        )
        rows.append(
            f'<tr><td>{stretch.name}</td><td class="n">{stretch.n_rows:,}</td>'
            f'<td class="n">{stretch.n_labelled / max(1, stretch.n_rows):.1%}</td>'
            f'<td class="n">{fused}</td>{cells}{value}</tr>'
        )
    money = f'<th class="n">{escape(result.currency)} each</th>' if result.currency else ""
    return (
        '<div class="panel"><table><tr><th>month</th><th class="n">predictions</th><th class="n">with outcome'
        f'</th><th class="n">mean error, fused</th>{head}{money}</tr>{"".join(rows)}</table>'
        '<p class="quiet">Estimated without labels / realised. Fused: estimates of all predictions, put right '
        "by those with labels.</p></div>"
    )


def _traffic(result: Result) -> str:
    volume = chart.time_chart(
        _labels(result),
        [chart.Line("predictions a day", [float(day.n_rows) for day in result.days], _TEAL)],
        title="Predictions a day",
        marks=_marks(result),
    )
    parts = [f'<h2>Traffic and predictions</h2><div class="panel">{volume}</div>']
    if result.task in ("binary", "regression"):
        place_of = {day.on: place for place, day in enumerate(result.days)}
        came: list[float | None] = [None] * len(result.days)
        for day in result.days:
            if day.matured_on in place_of:
                came[place_of[day.matured_on]] = day.base_rate
        drawn = chart.time_chart(
            _labels(result),
            [
                chart.Line("mean prediction", [day.mean_output for day in result.days], _TEAL),
                chart.Line("mean outcome", came, _ORANGE),
            ],
            title="Mean prediction and outcome",
            unit="%" if result.task == "binary" else "",
        )
        parts.append(f'<div class="panel">{drawn}</div>')
    return "".join(parts)


def _tests(result: Result) -> str:
    names = sorted({name for day in result.days for name in day.p_values})
    if not names:
        return ""
    rows = []
    for name in names:
        kind, _, length = name.partition(".")
        level = result.spending[kind].level
        rows.append((f"{kind} {length}", [day.p_values.get(name) for day in result.days], level))
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
            f"<tr><td>{escape(each.field.split('.', 1)[-1])}</td>"
            f"<td>{chart.bar(abs(effect) / greatest, _ORANGE if effect > 0 else _TEAL)} {effect:+.4f}</td>"
            f'<td class="n">{each.psi:.3f}</td><td class="n">{max(0.0, each.excess):.3f}</td>'
            f'<td class="n">{each.jensen_shannon:.3f}</td><td class="n">{_figure(each.ks, 3)}</td>'
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
        f'error.</p>{told}<div class="panel"><table><tr><th>field</th><th>effect on error</th><th class="n">PSI'
        '</th><th class="n">beyond usual</th><th class="n">JS</th><th class="n">KS</th><th class="n">missing'
        '</th><th class="n">strange</th><th>moved most</th></tr>'
        f"{''.join(rows)}</table></div>"
    )


def _parts(result: Result) -> str:
    parts = []
    if result.calibration:
        points = [(each.predicted, each.observed, each.low, each.high) for each in result.calibration]
        drawn = chart.scatter_chart(points, title="Predicted and observed")
        parts.append(
            '<h2>Does 30% mean 30%?</h2><div class="panel">'
            f'{drawn}<p class="quiet">Predicted probability (across) and observed share (up).</p></div>'
        )
    confirmed = [each for each in result.slices if each.confirmed]
    if confirmed:
        rows = "".join(
            f'<tr><td>{escape(str(each))}</td><td class="n">{each.n_rows:,}</td><td class="n">{each.loss:.4f}'
            f'</td><td class="n">{each.rest:.4f}</td><td class="n">{each.p_value:.2g}</td></tr>'
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
            f'<td class="n">{_figure(each.mean_loss)}</td></tr>'
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
    notes = "".join(f"<li>{escape(note)}</li>" for note in result.notes)
    return (
        f'<h2>How far to trust this page</h2><p class="quiet">At most {result.budget:g} false alarms in 30 days '
        "are allowed, all monitors together, and they are shared out. What no drift looks like is learned by "
        "drawing days of the reference again, for rows of a day resemble each other.</p>"
        '<div class="panel"><table><tr><th>monitor</th><th class="n">alarms a month allowed</th>'
        '<th class="n">level of a test</th><th class="n">tests</th><th class="n">spent</th></tr>'
        f"{rows}</table>{f'<ul>{notes}</ul>' if notes else ''}</div>"
    )


def _figure(value: float | None, digits: int = 4) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
