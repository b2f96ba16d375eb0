"""One page a service and period: what happened, what it means, how sure that is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime
from html import escape

from tidegate.monitoring import chart
from tidegate.monitoring.chart import BLUE, GREY, ORANGE, RED, TEAL
from tidegate.monitoring.run import Realised, Result
from tidegate.monitoring.section import FIGURES, details, month_of
from tidegate.monitoring.signal import Severity, Signal, State

_COLOURS = {Severity.CRITICAL: RED, Severity.WARNING: ORANGE, Severity.NOTICE: BLUE}
_WEEK = 7
_WORTH_A_WORD = 0.1  # a month that much worse than the reference is named
_SHOWN_OPEN = 3

_STYLE = """
:root{color-scheme:light dark;--ink:#0f172a;--soft:#475569;--faint:#64748b;--page:#f8fafc;--panel:#fff;
--edge:#e2e8f0;--line:#e9eef5;--teal:#0f766e;--orange:#c2410c;--red:#b91c1c;--blue:#1d4ed8;--grey:#7c8aa0}
@media (prefers-color-scheme:dark){:root{--ink:#e5e9f0;--soft:#b3bdcc;--faint:#94a0b4;--page:#0d1420;--panel:#151e2d;
--edge:#283548;--line:#223044;--teal:#2dd4bf;--orange:#fb923c;--red:#f87171;--blue:#7aa7ff;--grey:#8a97ab}}
*{box-sizing:border-box}
body{font:15px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif;color:var(--ink);background:var(--page);margin:0}
main{max-width:980px;margin:0 auto;padding:28px 20px 60px}
h1{font-size:26px;margin:0 0 2px}h2{font-size:18px;margin:34px 0 6px}h3{font-size:15px;margin:0 0 4px}
.sub{color:var(--soft);margin:0 0 16px}.quiet{color:var(--faint);font-size:13.5px;margin:6px 0}
.verdict{padding:14px 16px;border-left:5px solid var(--teal);background:var(--panel);border-radius:4px}
.verdict p{margin:0 0 6px}.verdict p:first-child{font-size:19px;font-weight:600}
.verdict ul{margin:4px 0 0;padding-left:20px}
.verdict.bad{border-color:var(--red)}.verdict.warn{border-color:var(--orange)}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:10px;margin:16px 0}
.card{background:var(--panel);border:1px solid var(--edge);border-radius:8px;padding:10px 12px}
.card b{display:block;font-size:21px}.card span{color:var(--faint);font-size:13px}
.panel{background:var(--panel);border:1px solid var(--edge);border-radius:8px;padding:12px 14px;overflow-x:auto;
margin:0 0 12px}
.beside{display:flex;flex-wrap:wrap;gap:24px;align-items:center}.beside>svg{flex:0 1 330px}.beside>div{flex:1 1 300px}
svg{width:100%;height:auto;display:block}svg text{font-size:11px;fill:var(--soft)}.grid{stroke:var(--line)}
table{border-collapse:collapse;width:100%;font-size:13.5px}
th{color:var(--soft);font-weight:600;text-align:left}
th,td{padding:5px 8px;border-bottom:1px solid var(--line);vertical-align:top}tr:last-child td{border-bottom:0}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}td.n,td.day{white-space:nowrap}
.tag{border:1px solid;border-radius:4px;padding:0 6px;font-size:12px;font-weight:600}
.legend{display:flex;flex-wrap:wrap;gap:14px;font-size:12.5px;color:var(--soft);padding-top:4px}
.legend i{display:inline-block;width:18px;margin-right:5px;vertical-align:middle}
.legend i.dot{width:9px;height:9px;border-radius:50%}.legend i.diamond{border-radius:0;transform:rotate(45deg)}
.bar{display:inline-block;width:60px;height:9px;background:var(--line);border-radius:3px}
.bar span{display:block;height:9px;border-radius:3px}
code{font-size:12.5px;background:var(--line);padding:1px 4px;border-radius:3px}
@media (max-width:640px){main{padding:16px 10px 40px}.panel{padding:8px}.panel svg{min-width:560px}
.beside>svg{min-width:0!important}}
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
    owner = f"; owner: {escape(result.owner)}" if result.owner else ""
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width,initial-scale=1"><style>{_STYLE}</style></head>'
        f"<body><main><h1>{escape(result.service)}</h1>"
        f'<p class="sub">{_day(result.first)} to {_day(result.last)}, compared with '
        f"{_day(result.reference_first)} to {_day(result.reference_last)} "
        f"({result.reference_rows:,} predictions){owner}</p>{body}"
        f'<p class="quiet">Made {made} by Tidegate.</p></main></body></html>'
    )


def _day(on: date) -> str:
    return f"{on.day} {on:%B %Y}"


def _sections(result: Result) -> Iterator[str]:
    yield _verdict(result)
    yield _cards(result)
    yield "".join(f'<p class="quiet">Note: {escape(note)}</p>' for note in result.notes)
    yield _quality(result)
    yield _worth(result)
    yield _kpis(result)
    yield _signals(result)
    yield from details(result, _marks(result))


def _open(result: Result) -> list[Signal]:
    return [signal for signal in result.signals if signal.state is not State.RESOLVED]


def _verdict(result: Result) -> str:
    """Say in a few sentences what a manager should know."""
    css, sentences = _judgement(result)
    still = _open(result)
    n_all = len(result.signals)
    if not n_all:
        sentences.append("No signal was raised.")
    else:
        sentences.append(
            f"{n_all} signal{'s were' if n_all > 1 else ' was'} raised; {len(still) or 'none'} "
            f"{'are' if len(still) > 1 else 'is'} open{':' if still else '.'}"
        )
    shown = sorted(still, key=lambda each: list(Severity).index(each.severity))[:_SHOWN_OPEN]
    todo = "".join(f"<li><b>{escape(each.title)}.</b> {escape(each.remedy)}</li>" for each in shown)
    first, *rest = sentences
    return (
        f'<div class="verdict {css}"><p>{escape(first)}</p><p>{escape(" ".join(rest))}</p>'
        f"{f'<ul>{todo}</ul>' if todo else ''}</div>"
    )


def _judgement(result: Result) -> tuple[str, list[str]]:
    if result.task == "none":
        return "warn", [
            "Quality is not judged: it is not declared which answer is held against which outcome."
        ]
    found, accepted = result.realised, result.accepted_loss
    risks, earlier = _by_cohort(result, "risk")
    lost, past = [], []
    if risks:
        lost.append(f"Quality was lost: detected on {_first_day(risks)}.")
    if earlier:
        past.append(
            f"The loss that was detected on {_first_day(earlier)} is of predictions before this period."
        )
    if found is None:
        none = "Undecided: no outcomes have come that predictions could be held against."
        return ("bad" if lost else "warn"), [*(lost or [none]), *past]
    if found.reference_loss is None or accepted is None:
        words = (
            f"The mean error was {_error(result, found.loss)}; the reference has no outcomes to compare it "
            "with."
        )
        return "warn", ["Undecided whether quality held.", words, *_judged(result, found)]
    words = (
        f"Over the whole period the mean error was {_error(result, found.loss)}{_reach(result, found)}"
        f"{_change(found.loss, found.reference_loss)} the reference "
        f"({_error(result, found.reference_loss)}); up to {_error(result, accepted)} is accepted."
    )
    rest = [words, *_judged(result, found), *past, *_worst(result)]
    if lost:
        return "bad", [*lost, *rest]
    money, _ = _by_cohort(result, "value")
    if money:
        return "bad", [f"Predictions bring less than they did: detected on {_first_day(money)}.", *rest]
    css, headline, doubt = _held(result, found, found.reference_loss, accepted)
    return css, [headline, words, *doubt, *rest[1:]]


def _held(result: Result, found: Realised, before: float, accepted: float) -> tuple[str, str, list[str]]:
    """Say whether quality held where no signal says that it was lost: by the period's own predictions."""
    is_part = found.n_waiting > _WORTH_A_WORD * result.n_rows
    so_far = ", as far as outcomes have come" if is_part else ""
    if found.low is None or found.high is None:
        doubt = ["They are of a single day: nothing says how far another would be from it."]
        if found.loss > accepted:
            return "warn", f"Quality may be lost{so_far}.", doubt
        return "warn", "Undecided whether quality held.", doubt
    if found.low > accepted:
        return "bad", f"Quality is worse than is accepted{so_far}.", []
    if found.loss > accepted:
        return "warn", f"Quality may be lost{so_far}.", ["That much could still be chance."]
    if found.low > (1 + _WORTH_A_WORD) * before:
        return "warn", f"Quality is worse than in the reference, and still accepted{so_far}.", []
    if found.high > accepted:
        return "", f"No loss of quality is seen{so_far}.", ["More than is accepted could still be behind it."]
    return "", f"Quality held{so_far}.", []


def _by_cohort(result: Result, kind: str) -> tuple[list[Signal], list[Signal]]:
    """Return signals about what came true: of predictions of the period, and only of earlier ones.

    The last days before a period have their outcomes in it.
    """
    matured = {day.on: day.matured_on for day in result.days}
    own: list[Signal] = []
    earlier: list[Signal] = []
    for signal in result.signals:
        if signal.kind == kind:
            (own if (matured.get(signal.last_on) or result.first) >= result.first else earlier).append(signal)
    return own, earlier


def _first_day(signals: Sequence[Signal]) -> str:
    return _day(min(signal.first_on for signal in signals))


def _reach(result: Result, found: Realised) -> str:
    if found.low is None or found.high is None:
        return ", "
    return f" ({_error(result, max(0.0, found.low))} to {_error(result, found.high)} with 95% confidence), "


def _judged(result: Result, found: Realised) -> list[str]:
    """Say how many of the predictions are judged, and which of them the risk monitor has not looked at."""
    words = [f"{found.n_labelled:,} of {result.n_rows:,} predictions have an outcome and are judged."]
    if found.n_early:
        words.append(
            f"The risk monitor has not looked at {found.n_early:,} of them: their outcomes are not due "
            f"yet{f', and {found.n_waiting:,} have none' if found.n_waiting else ''}."
        )
    if found.n_waiting > _WORTH_A_WORD * result.n_rows:
        words.append("Outcomes that come early need not be like the rest.")
    return words


def _worst(result: Result) -> list[str]:
    """Name the worst month, and how much of it the inputs explain."""
    metric = FIGURES[result.task].loss
    known = [each for each in result.stretches if metric in each.realised]
    if len(known) < 2 or not result.reference_loss:
        return []
    worst = max(known, key=lambda each: each.realised[metric])
    before = worst.constant.get(metric) or result.reference_loss * result.scale
    change = worst.realised[metric] / before - 1
    if change < _WORTH_A_WORD:
        return []
    found = {each.metric: each for each in worst.estimated}.get(metric)
    words = f"{month_of(worst.name)} was the worst month: {change:.0%} above the reference."
    if found is None:
        return [words]
    expected = found.value / before - 1
    if expected > change / 2:
        words += f" Its cases were harder: {expected:.0%} was to be expected of the same model."
    elif not found.low <= worst.realised[metric] <= found.high:
        words += " Harder cases do not explain it: what leads to which outcome has changed."
    return [words]


def _change(now: float, before: float) -> str:
    if not before:
        return "as in" if not now else "above"
    change = now / before - 1
    if abs(change) < 0.005:
        return "as in"
    return f"{abs(change):.0%} {'above' if change > 0 else 'below'}"


def _error(result: Result, loss: float | None) -> str:
    return "–" if loss is None else f"{loss * result.scale:.4g}"


def _cards(result: Result) -> str:
    cards = [(f"{result.n_rows:,}", "predictions")]
    found = result.realised
    if found is not None:
        cards.append(
            (
                _error(result, found.loss),
                f"mean error of {found.n_labelled:,} (reference {_error(result, found.reference_loss)})",
            )
        )
    if result.coverage is not None:
        cards.append((f"{result.coverage:.1%}", "of predictions whose outcome is due have one"))
    cards.append((f"{sum(day.n_failed for day in result.days):,}", "answered with an error"))
    values = [(day.value, day.n_labelled) for day in result.days if day.value is not None]
    if values and sum(n for _, n in values):
        total = sum(value * n for value, n in values)
        mean = total / sum(n for _, n in values)
        cards.append(
            (f"{mean:,.2f} {escape(result.currency)}", f"brought by a prediction; {total:,.0f} in all")
        )
    cards.append((f"{len(_open(result))} of {len(result.signals)}", "signals open"))
    inner = "".join(f'<div class="card"><b>{value}</b><span>{text}</span></div>' for value, text in cards)
    return f'<div class="cards">{inner}</div>'


def _labels(result: Result) -> list[str]:
    return [f"{day.on:%d %b}" for day in result.days]


def _numbers(result: Result) -> dict[str, int]:
    """Return the number of each signal: in the order in which they began."""
    ordered = sorted(result.signals, key=lambda each: (each.first_on, each.id))
    return {signal.id: number for number, signal in enumerate(ordered, 1)}


def _marks(result: Result) -> list[chart.Mark]:
    places = {day.on: place for place, day in enumerate(result.days)}
    numbers = _numbers(result)
    return [
        chart.Mark(
            places[signal.first_on],
            f"{signal.first_on}: {signal.title}",
            _COLOURS[signal.severity],
            str(numbers[signal.id]),
        )
        for signal in result.signals
        if signal.first_on in places
    ]


def _by_matured(result: Result, name: str, *, kpi: bool = False) -> list[float | None]:
    """Return a figure that is known of a day later, at the day of the predictions."""
    place_of = {day.on: place for place, day in enumerate(result.days)}
    found: list[float | None] = [None] * len(result.days)
    for day in result.days:
        if day.matured_on in place_of:
            found[place_of[day.matured_on]] = day.kpis.get(name) if kpi else getattr(day, name)
    return found


def _quality(result: Result) -> str:
    if result.task == "none":
        return ""
    realised = _scaled(_by_matured(result, "realised_loss"), result.scale)
    expected = _scaled([day.expected_loss for day in result.days], result.scale)
    lines = [
        chart.Line("realised, by day of prediction", realised, GREY, "dots"),
        chart.Line("realised, mean of 7 days", _smooth(realised), ORANGE),
    ]
    if any(value is not None for value in expected):
        lines.append(chart.Line("what the model expects of itself, 7 days", _smooth(expected), TEAL))
    levels = []
    if result.reference_loss is not None:
        levels.append(("reference", result.reference_loss * result.scale, GREY))
    if result.accepted_loss is not None:
        levels.append(("accepted", result.accepted_loss * result.scale, RED))
    drawn = chart.time_chart(
        _labels(result), lines, title="Mean error by day", marks=_marks(result), levels=levels
    )
    return (
        f'<h2>Quality</h2><p class="quiet">Mean error ({escape(result.loss)}); less is better. '
        f'Numbered lines are the signals below.</p><div class="panel">{drawn}</div>'
    )


def _worth(result: Result) -> str:
    values = _by_matured(result, "value")
    if all(value is None for value in values):
        return ""
    return (
        f'<h2>What a prediction brings</h2><p class="quiet">{escape(result.currency)} each, by the declared costs '
        f"and gains; more is better.</p>{_daily(result, values, title='Value of a prediction')}"
    )


def _kpis(result: Result) -> str:
    parts = []
    for kpi in result.kpis:
        values = _by_matured(result, kpi.name, kpi=True)
        if any(value is not None for value in values):
            unit = f", {escape(kpi.unit)} a prediction" if kpi.unit else ""
            parts.append(
                f'<h2>{escape(kpi.name)}</h2><p class="quiet">Mean over the predictions of which it is known{unit}; '
                f"{'more' if kpi.better == 'higher' else 'less'} is better.</p>"
                f"{_daily(result, values, title=f'{kpi.name} by day')}"
            )
    return "".join(parts)


def _daily(result: Result, values: list[float | None], *, title: str) -> str:
    lines = [
        chart.Line("by day of prediction", values, GREY, "dots"),
        chart.Line("mean of 7 days", _smooth(values), TEAL),
    ]
    drawn = chart.time_chart(_labels(result), lines, title=title, marks=_marks(result))
    return f'<div class="panel">{drawn}</div>'


def _scaled(values: Sequence[float | None], scale: float) -> list[float | None]:
    return [None if value is None else value * scale for value in values]


def _smooth(values: Sequence[float | None]) -> list[float | None]:
    found: list[float | None] = []
    for place in range(len(values)):
        near = [v for v in values[max(0, place - _WEEK + 1) : place + 1] if v is not None]
        found.append(sum(near) / len(near) if near else None)
    return found


def _signals(result: Result) -> str:
    if not result.signals:
        return '<h2>Signals</h2><p class="panel">None.</p>'
    numbers = _numbers(result)
    ordered = sorted(result.signals, key=lambda each: (each.state is State.RESOLVED, -numbers[each.id]))
    rows = "".join(_signal_row(signal, numbers[signal.id]) for signal in ordered)
    spent = sum(each.spent for each in result.spending.values())
    n_all = len(result.signals)
    return (
        f'<h2>Signals</h2><p class="quiet">Had nothing changed at all, at most {spent:.1f} would be expected in '
        f"this period by chance; there {'are' if n_all > 1 else 'is'} {n_all}. Open ones come first.</p>"
        '<div class="panel"><table><tr><th></th><th>what</th><th>cost</th>'
        f"<th>what to do</th><th>when</th></tr>{rows}</table></div>"
    )


def _signal_row(signal: Signal, number: int) -> str:
    colour = _COLOURS[signal.severity]
    p_value = signal.evidence.get("p_value")
    sure = [] if p_value is None else [f"p = {p_value:.2g} at level {signal.evidence.get('level', 0):.2g}"]
    sure.append(f"found on {signal.n_windows} day{'s' * (signal.n_windows != 1)}")
    since = f"{signal.first_on.day} {signal.first_on:%b}"
    when = f"since {since}"
    if signal.resolved_on is not None:
        when = f"{since} to {signal.resolved_on.day} {signal.resolved_on:%b}"
    if signal.acknowledged_by:
        when += f"; seen by {signal.acknowledged_by}"
    return (
        f'<tr><td class="n">{number}</td><td><span class="tag" style="color:{colour}">{signal.severity.value}'
        f'</span> {escape(signal.title)}<br><span class="quiet">{escape(", ".join(sure))}; '
        f"<code>tidegate signals show {signal.id}</code></span></td>"
        f"<td>{escape(signal.cost)}</td><td>{escape(signal.remedy)}</td><td>{escape(when)}</td></tr>"
    )
