"""The model card of a version: what people wrote of it, and what was measured, gathered from the evidence.

Source: the parts are those of Mitchell et al., Model Cards for Model Reporting, FAT* 2019.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import msgspec

from tidegate.contract.schema import Contract
from tidegate.evaluation.calibration import Calibration
from tidegate.evaluation.estimate import Estimate
from tidegate.evaluation.report import Report
from tidegate.registry.card import PARTS, QUESTIONS, REQUIRED, Card
from tidegate.registry.page import Bar, Block, Drawing, Mark, Section, Table, to_html, to_markdown
from tidegate.registry.state import State
from tidegate.registry.version import Lineage, Version
from tidegate.training.baseline import Baseline
from tidegate.training.run import Run

_TITLES = {
    "intended_use": "Intended use",
    "out_of_scope": "Out of scope",
    "limitations": "Limitations",
    "training_data": "Training data",
    "ethics": "Ethics",
    "owner": "Owner",
}
_TONES = {"safe": "good", "regressed": "bad", "invalid": "bad", "undecided": "open"}
_STAGES = {"champion": "good", "gated": "good", "rejected": "bad", "rolled back": "bad"}


class GateLine(msgspec.Struct, frozen=True):
    """What one gate said.

    Attributes:
        gate: Its name.
        verdict: Its verdict, `n/a` where it had nothing to look at.
        reason: In words.
    """

    gate: str
    verdict: str
    reason: str


class OverrideLine(msgspec.Struct, frozen=True):
    """A verdict that a person overrode.

    Attributes:
        gate: Name of the gate.
        verdict: What it had said.
        by: Who.
        at_us: When, microseconds UTC.
        reason: Why, in their words.
    """

    gate: str
    verdict: str
    by: str
    at_us: int
    reason: str


class ModelCard(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a model card says, as data.

    Attributes:
        version: The version.
        state: Where it stands.
        written: What people wrote.
        contract: What goes in and comes out.
        run: The training; None where none was recorded.
        report: What was measured; None where nothing was.
        measured_on: On which rows, in words.
        gates: What the gates said last; empty where it has not met them.
        gates_outcome: In one sentence.
        overrides: Every override of a gate, in force or not.
    """

    version: Version
    state: State
    written: Card
    contract: Contract
    run: Run | None = None
    report: Report | None = None
    measured_on: str = ""
    gates: tuple[GateLine, ...] = ()
    gates_outcome: str = ""
    overrides: tuple[OverrideLine, ...] = ()

    @property
    def title(self) -> str:
        return f"Model card: {self.version.service}, version {self.version.number}"


def render_markdown(card: ModelCard) -> str:
    """Return the card as Markdown."""
    return to_markdown(card.title, list(_sections(card)))


def render_html(card: ModelCard) -> str:
    """Return the card as one HTML page."""
    return to_html(card.title, list(_sections(card)))


def _sections(card: ModelCard) -> Iterator[Section]:
    yield Section("Summary", [_summary(card)])
    for part in ("intended_use", "out_of_scope", "limitations", "ethics", "owner"):
        text = getattr(card.written, part).strip()
        if text or part in REQUIRED:
            yield Section(_TITLES[part], [text] if text else _not_written(part))
    yield Section("Inputs and outputs", [_fields(card.contract)])
    yield _data(card)
    yield from _measured(card)
    yield _gates(card)
    yield Section("Lineage", [_lineage(card.version, card.version.lineage)])


def _summary(card: ModelCard) -> Table:
    version = card.version
    stage = card.state.stage.value
    if card.state.since_us:
        stage += f" since {_day(card.state.since_us)}"
    rows: list[tuple[object, ...]] = [
        ("state", Mark(stage, _STAGES.get(card.state.stage.value, ""))),
        ("registered", f"{_day(version.created_at_us)} by {version.principal.name}"),
        ("what is new", version.changelog or "-"),
    ]
    missing = [name for name in PARTS if name in card.written.missing]
    if missing:
        rows.append(("missing from this card", Mark(", ".join(_TITLES[name] for name in missing), "open")))
    if card.gates_outcome:
        rows.append(("gates", card.gates_outcome))
    return Table(("", ""), rows)


def _not_written(part: str) -> list[Block]:
    """Ask for a part, where its reader would look for it."""
    return [Mark("not written yet", "open"), QUESTIONS[part]]


def _fields(contract: Contract) -> Table:
    rows = [
        (side, field.name, field.type.value, field.unit or "-", field.doc or "-")
        for side, schema in (("input", contract.input), ("output", contract.output))
        for field in schema.fields
    ]
    return Table(("side", "field", "type", "unit", "meaning"), rows)


def _data(card: ModelCard) -> Section:
    blocks: list[Block] = []
    if card.written.training_data.strip():
        blocks.append(card.written.training_data)
    run = card.run
    if run is None:
        return Section("Data", [*blocks, "No training was recorded: nothing is known of the rows."])
    facts = [
        ("rows", "-" if run.data.n_rows is None else f"{run.data.n_rows:,}"),
        ("file", run.data.path or "the trainer loads its own"),
        ("digest of the file", run.data.digest or "-"),
        ("digest of the rows, as the trainer says", run.data.trained_on or "-"),
        ("snapshot", run.data.label or run.data.snapshot or "-"),
        ("held out", run.artifacts.get("held_out", "none")),
    ]
    if card.report is not None and card.report.span is not None:
        span = card.report.span
        age = f"{span.age_days:,.0f} days old when measured"
        facts.append(("rows measured on", f"{_day(span.from_us)} to {_day(span.until_us)}, {age}"))
    return Section("Data", [*blocks, Table(("what", "is"), facts)])


def _measured(card: ModelCard) -> Iterator[Section]:
    report = card.report
    if report is None:
        yield Section("Figures", ["Nothing was measured yet: tidegate evaluate."])
        return
    on = f"{report.task}, {report.n_rows:,} rows: {card.measured_on}."
    yield Section(
        "Figures", [on, _estimates(report.figures), *filter(None, [report.decided]), *_baselines(card.run)]
    )
    if report.calibration is not None:
        found = report.calibration
        rows = [
            (f"{b.predicted:.3f}", f"{b.observed:.3f}", f"{b.low:.3f} to {b.high:.3f}", f"{b.n_rows:,}")
            for b in found.bins
        ]
        heads = ("predicted", "observed", "interval", "rows")
        words = f"Predicted and observed rates are {_value(found.debiased)} apart."
        yield Section("Calibration", [words, _reliability(found), Table(heads, rows)])
    yield _slices(report)
    if report.fairness:
        blocks: list[Block] = []
        for each in report.fairness:
            blocks.append(f"By {each.attribute}: largest differences between groups.")
            blocks.append(_estimates(tuple(one.difference for one in each.differences)))
        yield Section("Fairness", blocks)
    else:
        yield Section("Fairness", ["No attribute is declared protected: groups were not compared."])
    if report.importance:
        most = max(each.increase.value or 0.0 for each in report.importance) or 1.0
        rows_ = [
            (each.column, Bar(_value(each.increase), (each.increase.value or 0.0) / most))
            for each in report.importance[:10]
        ]
        yield Section("What it rests on", [Table(("input", "rise of the loss without it"), rows_)])
    if report.notes:
        yield Section("Not measured", list(report.notes))


def _slices(report: Report) -> Section:
    confirmed = [each for each in report.slices if each.confirmed]
    if not confirmed:
        return Section("Slices", ["No part of the rows is confirmed to be worse than the rest."])
    rows = [
        (str(each), f"{each.loss:.4g}", f"{each.rest:.4g}", _value(each.difference), f"{each.n_rows:,}")
        for each in confirmed
    ]
    return Section("Slices", [Table(("where", "loss", "elsewhere", "difference", "rows"), rows)])


def _baselines(run: Run | None) -> list[Block]:
    if run is None or run.comparison is None:
        return []
    found = run.comparison
    rows = [(each.name, f"{each.loss:.4g}", _value(each.gain), _shown(each)) for each in found.baselines]
    heads = ("baseline", found.measure.replace("_", " "), "the model is better by", "shown")
    return [f"Beside simple models, {found.measure.replace('_', ' ')} {found.loss:.4g}:", Table(heads, rows)]


def _shown(baseline: Baseline) -> Mark:
    if baseline.beaten:
        return Mark("yes", "good")
    return Mark("it is one itself") if baseline.same else Mark("no", "open")


def _reliability(found: Calibration) -> Drawing:
    """Draw observed against predicted rates, with intervals."""
    size, left = 260, 34

    def x(rate: float) -> float:
        return left + size * rate

    def y(rate: float) -> float:
        return 10 + size * (1 - rate)

    marks = []
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        marks += [
            f'<line class="axis" x1="{x(0):.1f}" x2="{x(1):.1f}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>',
            f'<text x="{left - 6}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:g}</text>',
            f'<text x="{x(tick):.1f}" y="{size + 27}" text-anchor="middle">{tick:g}</text>',
        ]
    marks.append(f'<line class="ideal" x1="{x(0):.1f}" y1="{y(0):.1f}" x2="{x(1):.1f}" y2="{y(1):.1f}"/>')
    for each in found.bins:
        at, low, high = x(each.predicted), y(each.low), y(each.high)
        marks += [
            f'<line class="range" x1="{at:.1f}" x2="{at:.1f}" y1="{low:.1f}" y2="{high:.1f}"/>',
            f'<circle class="dot" r="3.5" cx="{at:.1f}" cy="{y(each.observed):.1f}"/>',
        ]
    marks.append(f'<text x="{x(0.5):.1f}" y="{size + 45}" text-anchor="middle">predicted rate</text>')
    marks.append(
        f'<text transform="rotate(-90)" x="{-y(0.5):.1f}" y="-2" text-anchor="middle">observed rate</text>'
    )
    view = f"-16 0 {left + size + 36} {size + 54}"
    svg = f'<svg viewBox="{view}" width="{left + size + 36}" height="{size + 54}">{"".join(marks)}</svg>'
    return Drawing(svg, "Observed against predicted rates, with intervals; the table has the figures.")


def _gates(card: ModelCard) -> Section:
    blocks: list[Block] = [card.gates_outcome]
    if card.gates:
        rows_ = [
            (one.gate, Mark(one.verdict, _TONES.get(one.verdict.partition(",")[0], "")), one.reason)
            for one in card.gates
        ]
        blocks.append(Table(("gate", "verdict", "why"), rows_))
    if card.overrides:
        blocks.append("Overridden by a person:")
        rows = [(one.gate, one.verdict, one.by, _day(one.at_us), one.reason) for one in card.overrides]
        blocks.append(Table(("gate", "had said", "by", "on", "reason"), rows))
    return Section("Gates", blocks)


def _lineage(version: Version, lineage: Lineage) -> Table:
    commit = "no repository"
    if lineage.code_revision is not None:
        commit = lineage.code_revision + (" and changes beyond it" if lineage.code_changed else "")
    rows = [
        ("manifest", version.manifest),
        ("contract", version.contract),
        ("commit", commit),
        ("code", lineage.code_digest or "-"),
        ("data", lineage.data_digest or "-"),
        ("parameters", ", ".join(f"{name}={value}" for name, value in lineage.parameters.items()) or "-"),
        ("trained by", f"{lineage.who} on {lineage.machine}"),
        ("environment", f"Python {lineage.environment.python}, {lineage.environment.platform}"),
        (
            "packages",
            ", ".join(f"{name} {held}" for name, held in lineage.environment.packages.items()) or "-",
        ),
    ]
    return Table(("what", "is"), rows)


def _estimates(figures: tuple[Estimate, ...]) -> Table:
    rows = [(each.name.replace("_", " "), *_parts(each), f"{each.n_rows:,}") for each in figures]
    return Table(("figure", "value", "interval", "rows"), rows)


def _parts(each: Estimate) -> tuple[str, str]:
    if each.value is None:
        return "not defined", "-"
    if each.low is None or each.high is None:
        return f"{each.value:.4g}", "-"
    return f"{each.value:.4g}", f"{each.low:.4g} to {each.high:.4g} ({each.level:.0%})"


def _value(each: Estimate) -> str:
    if each.value is None:
        return "not defined"
    if each.low is None or each.high is None:
        return f"{each.value:.4g}"
    return f"{each.value:.4g} ({each.level:.0%} interval {each.low:.4g} to {each.high:.4g})"


def _day(at_us: int) -> str:
    return datetime.fromtimestamp(at_us / 1e6, UTC).strftime("%Y-%m-%d")
