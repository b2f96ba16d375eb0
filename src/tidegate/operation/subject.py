"""A version as the gates see it, and rows that neither of two versions was fitted on."""

from __future__ import annotations

from contextlib import suppress
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from tidegate.contract.batch import Column
from tidegate.core.digest import Digest
from tidegate.core.error import InvalidSetting, NotFound
from tidegate.data.admission import Admission
from tidegate.evaluation.declaration import Evaluation
from tidegate.evaluation.measure import Measure, measure_of, numbered
from tidegate.gate.answer import Floats, Ints
from tidegate.gate.declaration import Gates
from tidegate.operation.mutation import UnitOfWork
from tidegate.operation.run import find_run
from tidegate.registry.artifact import ArtifactStore
from tidegate.registry.card import Card
from tidegate.registry.version import Version
from tidegate.service.manifest import Manifest
from tidegate.statistics.bootstrap import MIN_UNITS, count_units
from tidegate.training.held_out import HeldOut, read_held_out, read_rows, seen_before
from tidegate.training.run import Run
from tidegate.training.simple import steps

Flags = npt.NDArray[np.bool_]

_MIN_ROWS = 200
"""Fewer rows that the other version has not seen are no test set."""


class Subject(NamedTuple):
    """A version and what is known of it.

    Attributes:
        version: As it was registered.
        manifest: Compiled.
        run: The training it came of; None where it was registered without one.
        held_out: The trial that was kept; None without one.
        card: The written parts of its model card, those added later among them.
    """

    version: Version
    manifest: Manifest
    run: Run | None
    held_out: HeldOut | None
    card: Card

    @property
    def evaluation(self) -> Evaluation:
        return self.manifest.evaluation or Evaluation()

    @property
    def gates(self) -> Gates:
        return self.manifest.gates or Gates()


def read_subject(unit: UnitOfWork, artifacts: ArtifactStore, version: Version, card: Card) -> Subject:
    """Return a version with its manifest, run and trial.

    Raises:
        NotFound: Its manifest is gone.
        Corrupt: Something stored is damaged.
    """
    manifest = Manifest.from_json(artifacts.read_bytes(version.manifest))
    try:
        run = find_run(unit, artifacts, version.label).run
    except NotFound:
        run = None
    kept = None if run is None else run.artifacts.get("held_out")
    return Subject(version, manifest, run, None if kept is None else read_held_out(artifacts, kept), card)


class GivenRows(NamedTuple):
    """Rows that a person names to judge a version by, instead of those of its trial.

    Attributes:
        admitted: The rows, without those that the contract forbids.
        columns: Their columns.
        target: Column of what came true.
        source: Where they came from, in words.
        snapshot: Where they are kept; None where they hold sensitive fields and are not.
    """

    admitted: Admission
    columns: dict[str, Column]
    target: str
    source: str
    snapshot: Digest | None


class Rows(NamedTuple):
    """Rows that neither version was fitted on.

    Attributes:
        whose: Version whose trial held them out; None where they were given.
        snapshot: Where they are kept; None where they are not.
        columns: All their columns.
        kept: Which rows of that snapshot these are.
        measure: What is predicted, and what an answer loses.
        outcomes: What came true, as the measure writes it.
        cluster: Which belong together.
        unit: What one piece of independent evidence is called.
        note: What was left out, or is not known, in words.
    """

    whose: Subject | None
    snapshot: Digest | None
    columns: dict[str, Column]
    kept: Flags
    measure: Measure
    outcomes: Floats
    cluster: Ints | None
    unit: str
    note: str


def unseen_rows(
    artifacts: ArtifactStore, candidate: Subject, champion: Subject | None, given: GivenRows | None = None
) -> tuple[Rows | None, str]:
    """Return rows that neither was fitted on, as far as that is recorded, or why there are none."""
    if candidate.held_out is None and given is None:
        return None, no_trial(candidate)
    try:
        measure = measure_of(candidate.manifest.contract, candidate.evaluation)
        if given is not None:
            return _given(artifacts, given, measure, candidate, champion)
        own = _unseen(artifacts, measure, candidate, champion)
        if own is not None:
            return own, ""
        assert champion is not None
        other = None if champion.held_out is None else _unseen(artifacts, measure, champion, candidate)
    except InvalidSetting as error:
        return None, f"{error.message} {error.hint}".rstrip()
    if other is not None:
        note = f"on the rows that version {champion.version.number} holds out; {other.note}".rstrip("; ")
        return other._replace(note=note), ""
    return None, (
        f"version {champion.version.number}, the champion, was fitted on the rows that this version holds "
        "out, and the other way round: hold out rows that are newer than both, or name some: "
        f"tidegate gate {candidate.version.label} --data FILE"
    )


def _unseen(artifacts: ArtifactStore, measure: Measure, whose: Subject, other: Subject | None) -> Rows | None:
    """Return the held-out rows of one version that the other was not fitted on; None where too few."""
    held_out = whose.held_out
    assert held_out is not None
    columns = read_rows(artifacts, held_out.test)
    kept = np.ones(held_out.n_test, dtype=np.bool_)
    note = ""
    if other is not None:
        kept, note = _not_learnt(artifacts, held_out.test, other, held_out.group)
    cut = _cut(columns, kept, measure, held_out.target, held_out.group)
    if other is not None and not kept.all() and _too_few(cut):
        return None
    return cut._replace(whose=whose, snapshot=held_out.test, note=note)


def _given(
    artifacts: ArtifactStore, given: GivenRows, measure: Measure, candidate: Subject, champion: Subject | None
) -> tuple[Rows | None, str]:
    """Return given rows without those that a version was fitted on and those whose outcome is missing."""
    outcome = given.columns.get(given.target)
    if outcome is None:
        raise InvalidSetting(
            f"The rows {given.source} have no column {given.target!r} of what came true.",
            hint=f"They have: {', '.join(given.columns)}. Name it with --target.",
            column=given.target,
        )
    kept = np.array([value is not None and value == value for value in outcome.tolist()])  # noqa: PLR0124 - NaN
    subjects = [candidate, *([] if champion is None else [champion])]
    groups = [each.held_out.group for each in subjects if each.held_out is not None]
    group = candidate.evaluation.group or next((name for name in groups if name), None)
    notes = [f"on {given.source}", *(note.rstrip(".") for note in given.admitted.notes)]
    for subject in subjects:
        if given.snapshot is None:
            continue
        unlearnt, note = _not_learnt(artifacts, given.snapshot, subject, group)
        kept &= unlearnt[given.admitted.kept]
        notes.append(note)
    if given.snapshot is None:
        notes.append("they hold sensitive fields: whether a version learnt from them was not looked at")
    told = "; ".join(filter(None, notes))
    cut = _cut(given.columns, kept, measure, given.target, group if group in given.columns else None)
    if not (kept.all() and given.admitted.kept.all()) and _too_few(cut):
        return None, f"too few rows are left, {int(kept.sum()):,}: {told}"
    return cut._replace(snapshot=given.snapshot, note=told), ""


def _not_learnt(
    artifacts: ArtifactStore, rows: Digest, subject: Subject, group: str | None
) -> tuple[Flags, str]:
    """Return which rows a version was not fitted on, and what to say of it."""
    held_out, number = subject.held_out, subject.version.number
    if held_out is None:
        n_rows = len(next(iter(read_rows(artifacts, rows).values())))
        return np.ones(n_rows, dtype=np.bool_), f"what version {number} was fitted on is not recorded"
    fitted_on = [held_out.train, *([held_out.test] if held_out.refitted else [])]
    ignoring = {name for name in (held_out.group, group) if name}
    kept = ~seen_before(artifacts, rows, fitted_on, ignoring=ignoring)
    n_out = int((~kept).sum())
    return kept, f"{n_out:,} rows left out that version {number} was fitted on" if n_out else ""


def _cut(columns: dict[str, Column], kept: Flags, measure: Measure, target: str, group: str | None) -> Rows:
    chosen = {name: column[kept] for name, column in columns.items()}
    outcomes = measure.outcomes(chosen[target], name=target)
    measure = measure.fitting(outcomes)
    cluster, unit = None, "rows"
    if group is not None:
        cluster, unit = numbered(chosen[group]), f"{group}s"
    elif measure.task == "forecast" and measure.season > 1 and len(outcomes):
        cluster, unit = steps(chosen, measure) // measure.season, "seasons"
    return Rows(None, None, chosen, kept, measure, outcomes, cluster, unit, "")


def _too_few(rows: Rows) -> bool:
    n_rows = len(rows.outcomes)
    return n_rows < _MIN_ROWS or count_units(n_rows, rows.cluster) < MIN_UNITS


def as_champion(candidate: Subject, champion: Subject | None) -> Subject:
    """Return a version that was only registered, judged as the champion where it declares nothing itself."""
    if champion is None or candidate.run is not None:
        return candidate
    manifest = candidate.manifest
    evaluation = manifest.evaluation
    if evaluation is None and champion.manifest.evaluation is not None:
        with suppress(InvalidSetting):  # it names fields that this version does not have
            evaluation = champion.manifest.evaluation.checked(manifest.contract)
    gates = manifest.gates or champion.manifest.gates
    return candidate._replace(manifest=msgspec.structs.replace(manifest, evaluation=evaluation, gates=gates))


def no_trial(subject: Subject) -> str:
    """Say why a version has no held-out rows, and how the next one gets them."""
    if subject.run is None:
        return (
            "no training was recorded. Name rows with what came true: tidegate gate "
            f"{subject.version.label} --data FILE; or train it with `tidegate train`"
        )
    if (
        any(field.sensitive for field in subject.manifest.contract.input.fields)
        and not subject.gates.keep_sensitive
    ):
        return (
            "held-out rows hold sensitive fields and were not kept: allow it with "
            "tg.Gates(keep_sensitive=True)"
        )
    return "no rows were held out: return tg.Trained(trial=tg.Trial(...)) from the trainer"
