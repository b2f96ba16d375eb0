"""Everything that was measured of one model on one set of rows: plain data, for gates and model cards."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from html import escape
from typing import Literal

import msgspec

from tidegate.evaluation.calibration import Calibration
from tidegate.evaluation.cost import Value
from tidegate.evaluation.declaration import Task
from tidegate.evaluation.estimate import Estimate
from tidegate.evaluation.fairness import Fairness
from tidegate.evaluation.importance import Importance
from tidegate.evaluation.metric import NotMeasurable
from tidegate.evaluation.recalibration import RecalibrationGain
from tidegate.evaluation.robustness import Perturbed, RuleFinding
from tidegate.evaluation.rolling import Window
from tidegate.evaluation.slice import SliceFinding

_US_PER_DAY = 86_400_000_000
_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:72rem;padding:0 1rem}"
    "pre{overflow-x:auto;background:#f5f5f5;padding:.8rem}"
)


ThresholdBy = Literal["declared", "costs", "default"]
_BY: dict[ThresholdBy, str] = {
    "declared": "as declared",
    "costs": "which brings most on these rows by the declared costs",
    "default": "as nothing else is declared",
}


class Span(msgspec.Struct, frozen=True):
    """When the rows are from, and when they were looked at; microseconds UTC.

    Attributes:
        from_us: Time of the first row.
        until_us: Time of the last row.
        evaluated_at_us: When the report was made.
    """

    from_us: int
    until_us: int
    evaluated_at_us: int

    @property
    def age_days(self) -> float:
        """Days between the last row and the report: how far the figures may be out of date."""
        return (self.evaluated_at_us - self.until_us) / _US_PER_DAY


class Report(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is known of a model.

    Attributes:
        task: What it predicts.
        n_rows: Rows it was measured on.
        figures: Figures over all rows.
        span: When the rows are from; None where they carry no time.
        calibration: Predicted against observed rates; of several classes, of the likeliest one.
        recalibration: What recalibrating would save; None where it was not looked at, or too few rows.
        slices: Where it is worse, confirmed or not.
        fairness: One for each protected attribute.
        value: What it is worth in money.
        robustness: What damaged inputs do.
        rules: Whether declared rules are kept.
        importance: What it rests on, most important first.
        windows: The loss by stretch of time, oldest first: squared error of probabilities, absolute
            error of numbers, share of wrong classes.
        threshold: Probability from which on a decision is positive, of an event: accuracy, precision, recall,
            f1, groups and robustness are of such decisions. None where nothing is decided.
        threshold_by: Who chose it: `declared`, `costs` (it brings most on these rows) or `default`.
        notes: What was not measured, and why, in words.
    """

    task: Task
    n_rows: int
    figures: tuple[Estimate, ...]
    span: Span | None = None
    calibration: Calibration | None = None
    recalibration: RecalibrationGain | None = None
    slices: tuple[SliceFinding, ...] = ()
    fairness: tuple[Fairness, ...] = ()
    value: Value | None = None
    robustness: tuple[Perturbed, ...] = ()
    rules: tuple[RuleFinding, ...] = ()
    importance: tuple[Importance, ...] = ()
    windows: tuple[Window, ...] = ()
    threshold: float | None = None
    threshold_by: ThresholdBy = "default"
    notes: tuple[str, ...] = ()

    @property
    def decided(self) -> str:
        """Where decisions turn, in words; empty where there are none."""
        if self.threshold is None:
            return ""
        return (
            f"Accuracy, precision, recall and f1 are of acting from {self.threshold:.4g} on, "
            f"{_BY[self.threshold_by]}."
        )

    def figure(self, name: str) -> Estimate:
        """Return the figure of that name.

        Raises:
            NotMeasurable: The report has none.
        """
        for each in self.figures:
            if each.name == name:
                return each
        raise NotMeasurable(
            f"The report has no figure {name!r}.", hint=f"It has: {', '.join(e.name for e in self.figures)}."
        )


def render(report: Report) -> str:
    """Return the report as plain text of some twenty to sixty lines, for a terminal."""
    return "\n".join(_lines(report)) + "\n"


def render_html(report: Report, *, title: str) -> str:
    """Return the report as one HTML page, without script or foreign files."""
    parts = [
        "<!doctype html>",
        f'<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>',
        f"<style>{_STYLE}</style></head><body>",
        f"<h1>{escape(title)}</h1>",
    ]
    first, *lines = _lines(report)
    parts.append(f"<p>{escape(first)}</p>")
    held: list[str] = []
    for line in [*lines, ""]:
        if line.startswith("  "):
            held.append(escape(line[2:]))
            continue
        if held:
            parts.append("<pre>" + "\n".join(held) + "</pre>")
            held = []
        if line:
            parts.append(f"<h2>{escape(line)}</h2>")
    return "\n".join([*parts, "</body></html>"]) + "\n"


def _lines(report: Report) -> Iterator[str]:
    yield f"{report.task}, {report.n_rows:,} rows" + _when(report.span)
    decided = [report.decided] if report.decided else []
    yield from _section("Figures", [*(_figure(each) for each in report.figures), *decided])
    if report.calibration is not None:
        table = report.calibration
        yield from _section(
            "Calibration",
            [
                _figure(table.debiased) + f"  plain {table.plain:.4f}, p = {table.p_value:.3g}",
                *(
                    f"predicted {b.predicted:.3f}  observed {b.observed:.3f} "
                    f"[{b.low:.3f}, {b.high:.3f}]  {b.n_rows:,} rows"
                    for b in table.bins
                ),
            ],
        )
    if report.recalibration is not None:
        saved = report.recalibration
        yield from _section("Recalibration", [f"{_figure(saved.gain)}  by {saved.method}, cross-fitted"])
    yield from _section("Slices", (_slice(each) for each in report.slices))
    for audit in report.fairness:
        yield from _section(
            f"Groups by {audit.attribute}",
            (
                f"{_figure(each.difference)}  highest {each.largest}, lowest {each.smallest}"
                for each in audit.differences
            ),
        )
    if report.value is not None:
        worth = report.value
        figures = (worth.per_prediction, worth.over_trivial, worth.never, worth.always)
        yield from _section(
            f"Value in {worth.currency} per prediction",
            [
                *(_figure(each) for each in figures),
                f"act from {worth.threshold:.4g} on ({worth.theory:.4g} were predictions calibrated)",
            ],
        )
    yield from _section("Robustness", (_perturbed(each) for each in report.robustness))
    yield from _section("Rules", (_rule(each) for each in report.rules))
    yield from _section(
        "Importance (rise of the loss)",
        (_figure(msgspec.structs.replace(each.increase, name=each.column)) for each in report.importance),
    )
    yield from _section("By time, oldest first", (_window(each) for each in report.windows))
    yield from _section("Not measured", report.notes)


def _section(title: str, lines: Iterable[str]) -> Iterator[str]:
    found = list(lines)
    if found:
        yield ""
        yield title
        yield from (f"  {line}" for line in found)


def _window(each: Window) -> str:
    first, last = (
        datetime.fromtimestamp(at // 1_000_000, UTC).date() for at in (each.from_us, each.until_us)
    )
    bias = "" if each.bias is None else f"   {_figure(each.bias)}"
    return f"{first} to {last}  {each.n_rows:>9,} rows   {_figure(each.loss)}{bias}"


def _when(span: Span | None) -> str:
    if span is None:
        return ""
    first, last = (
        datetime.fromtimestamp(at // 1_000_000, UTC).date() for at in (span.from_us, span.until_us)
    )
    return f" of {first} to {last}, {span.age_days:.0f} days old when measured"


def _figure(each: Estimate) -> str:
    if each.value is None:
        return f"{each.name:<24} not defined on these rows"
    within = "" if each.low is None or each.high is None else f" [{each.low:.4g}, {each.high:.4g}]"
    return f"{each.name:<24} {each.value:.4g}{within}"


def _slice(each: SliceFinding) -> str:
    verdict = "confirmed" if each.confirmed else "not confirmed"
    low, high = each.difference.low, each.difference.high
    within = "" if low is None or high is None else f" by [{low:.4g}, {high:.4g}]"
    return (
        f"{each}: loss {each.loss:.4g} against {each.rest:.4g}{within}, {each.n_rows:,} rows, "
        f"{verdict} (p = {each.p_value:.2g})"
    )


def _perturbed(each: Perturbed) -> str:
    name = f"{each.column} {each.damage}"
    if each.refused:
        return f"{name}: refused with {each.refused}"
    parts = [] if each.change is None else [f"answers change by {each.change.value:.4g}"]
    if each.flipped is not None and each.flipped.value is not None:
        parts.append(f"{each.flipped.value:.2%} of decisions change")
    if each.n_unusable:
        parts.append(f"{each.n_unusable:,} of {each.n_rows:,} answers unusable")
    return f"{name}: {', '.join(parts)}"


def _rule(each: RuleFinding) -> str:
    rule = each.rule
    what = f"{each.rule.__class__.__name__.lower()} in {rule.column}"
    if each.held:
        return f"{what}: held on {each.violations.n_rows:,} rows"
    return (
        f"{what}: broken on {each.violations.value:.2%} of {each.violations.n_rows:,} rows, at most by "
        f"{each.largest:.4g} (row {each.worst_row})"
    )
