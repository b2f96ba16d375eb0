"""The model card of a version: what people wrote of it, and what was measured, gathered from the evidence.

Source: the parts are those of Mitchell et al., Model Cards for Model Reporting, FAT* 2019.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import msgspec

from tidegate.contract.schema import Contract
from tidegate.evaluation.estimate import Estimate
from tidegate.evaluation.report import Report
from tidegate.registry.card import PARTS, REQUIRED, Card
from tidegate.registry.page import Section, Table, to_html, to_markdown
from tidegate.registry.state import State
from tidegate.registry.version import Lineage, Version
from tidegate.training.run import Run

_TITLES = {
    "intended_use": "Intended use",
    "out_of_scope": "Out of scope",
    "limitations": "Limitations",
    "training_data": "Training data",
    "ethics": "Ethics",
    "owner": "Owner",
}
_NOT_WRITTEN = "Nobody has written this part yet."


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
            yield Section(_TITLES[part], [text or _NOT_WRITTEN])
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
    rows = [
        ("state", stage),
        ("registered", f"{_day(version.created_at_us)} by {version.principal.name}"),
        ("what is new", version.changelog or "-"),
    ]
    missing = [name for name in PARTS if name in card.written.missing]
    if missing:
        rows.append(("missing from this card", ", ".join(missing)))
    return Table(("", ""), rows)


def _fields(contract: Contract) -> Table:
    rows = [
        (side, field.name, field.type.value, field.unit or "-", field.doc or "-")
        for side, schema in (("input", contract.input), ("output", contract.output))
        for field in schema.fields
    ]
    return Table(("side", "field", "type", "unit", "meaning"), rows)


def _data(card: ModelCard) -> Section:
    blocks: list[str | Table] = []
    if card.written.training_data.strip():
        blocks.append(card.written.training_data)
    run = card.run
    if run is None:
        return Section("Data", [*blocks, "No training was recorded: nothing is known of the rows."])
    facts = [
        ("rows", "-" if run.data.n_rows is None else f"{run.data.n_rows:,}"),
        ("file", run.data.path or "the trainer loads its own"),
        ("digest of the rows", run.data.trained_on or run.data.digest or "-"),
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
    yield Section("Figures", [on, _estimates(report.figures), *_baselines(card.run)])
    if report.calibration is not None:
        found = report.calibration
        rows = [
            (f"{b.predicted:.3f}", f"{b.observed:.3f}", f"{b.low:.3f} to {b.high:.3f}", f"{b.n_rows:,}")
            for b in found.bins
        ]
        heads = ("predicted", "observed", "interval", "rows")
        yield Section("Calibration", [f"Error {_value(found.debiased)}.", Table(heads, rows)])
    yield _slices(report)
    if report.fairness:
        blocks: list[str | Table] = []
        for each in report.fairness:
            blocks.append(f"By {each.attribute}: largest differences between groups.")
            blocks.append(_estimates(tuple(one.difference for one in each.differences)))
        yield Section("Fairness", blocks)
    else:
        yield Section("Fairness", ["No attribute is declared protected: groups were not compared."])
    if report.importance:
        rows_ = [(each.column, _value(each.increase)) for each in report.importance[:10]]
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


def _baselines(run: Run | None) -> list[str | Table]:
    if run is None or run.comparison is None:
        return []
    found = run.comparison
    rows = [
        (each.name, f"{each.loss:.4f}", _value(each.gain), "yes" if each.beaten else "no")
        for each in found.baselines
    ]
    heads = ("baseline", found.measure.replace("_", " "), "the model is better by", "shown")
    return [f"Beside simple models, {found.measure.replace('_', ' ')} {found.loss:.4f}:", Table(heads, rows)]


def _gates(card: ModelCard) -> Section:
    blocks: list[str | Table] = [card.gates_outcome]
    if card.gates:
        blocks.append(
            Table(("gate", "verdict", "why"), [(one.gate, one.verdict, one.reason) for one in card.gates])
        )
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
    rows = [(each.name.replace("_", " "), _value(each), f"{each.n_rows:,}") for each in figures]
    return Table(("figure", "value", "rows"), rows)


def _value(each: Estimate) -> str:
    if each.value is None:
        return "not defined"
    if each.low is None or each.high is None:
        return f"{each.value:.4g}"
    return f"{each.value:.4g} ({each.level:.0%} interval {each.low:.4g} to {each.high:.4g})"


def _day(at_us: int) -> str:
    return datetime.fromtimestamp(at_us / 1e6, UTC).strftime("%Y-%m-%d")
