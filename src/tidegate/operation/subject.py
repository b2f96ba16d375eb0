"""A version as the gates see it, and rows that neither of two versions was fitted on."""

from __future__ import annotations

from contextlib import suppress
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tidegate.contract.batch import Column
from tidegate.core.error import InvalidSetting, NotFound
from tidegate.evaluation.declaration import Evaluation
from tidegate.gate.answer import MIN_UNITS, Floats, Ints
from tidegate.gate.declaration import Gates
from tidegate.operation.mutation import UnitOfWork
from tidegate.operation.run import find_run
from tidegate.registry.artifact import ArtifactStore
from tidegate.registry.card import Card
from tidegate.registry.version import Version
from tidegate.service.manifest import Manifest
from tidegate.training.held_out import HeldOut, read_held_out, read_rows, seen_before
from tidegate.training.run import Run

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


class Rows(NamedTuple):
    """Rows that neither version was fitted on.

    Attributes:
        whose: Version whose trial held them out.
        columns: All their columns.
        kept: Which rows of that trial these are.
        outcomes: What came true.
        cluster: Which belong together.
        unit: What one piece of independent evidence is called.
        note: What was left out, in words.
    """

    whose: Subject
    columns: dict[str, Column]
    kept: npt.NDArray[np.bool_]
    outcomes: Floats
    cluster: Ints | None
    unit: str
    note: str


def unseen_rows(
    artifacts: ArtifactStore, candidate: Subject, champion: Subject | None
) -> tuple[Rows | None, str]:
    """Return rows that neither was fitted on, or why there are none."""
    if candidate.held_out is None:
        return None, no_trial(candidate)
    try:
        task = candidate.evaluation.kind(candidate.manifest.contract)
    except InvalidSetting as error:
        return None, f"{error.message} {error.hint}"
    if task not in ("binary", "regression"):
        return None, f"answers of the kind {task!r} cannot be compared yet: events and numbers can"
    own = _unseen(artifacts, candidate, champion)
    if own is not None:
        return own, ""
    assert champion is not None
    other = None if champion.held_out is None else _unseen(artifacts, champion, candidate)
    if other is not None:
        note = f"on the rows that version {champion.version.number} holds out; {other.note}".rstrip("; ")
        return other._replace(note=note), ""
    return None, (
        f"version {champion.version.number}, the champion, was fitted on the rows that this version holds "
        "out, and the other way round: hold out rows that are newer than both"
    )


def _unseen(artifacts: ArtifactStore, whose: Subject, other: Subject | None) -> Rows | None:
    """Return the held-out rows of one version that the other was not fitted on; None where too few."""
    held_out = whose.held_out
    assert held_out is not None
    columns = read_rows(artifacts, held_out.test)
    kept = np.ones(held_out.n_test, dtype=np.bool_)
    if other is not None and other.held_out is not None:
        fitted_on = [other.held_out.train, *([other.held_out.test] if other.held_out.refitted else [])]
        ignoring = {name for name in (held_out.group, other.held_out.group) if name}
        kept = ~seen_before(artifacts, held_out.test, fitted_on, ignoring=ignoring)
    cluster, unit = None, "rows"
    if held_out.group is not None:
        _, index = np.unique(columns[held_out.group][kept].astype(str), return_inverse=True)
        cluster, unit = index.astype(np.int64), f"{held_out.group}s"
    n_units = int(kept.sum()) if cluster is None or not len(cluster) else int(cluster.max()) + 1
    if other is not None and not kept.all() and (kept.sum() < _MIN_ROWS or n_units < MIN_UNITS):
        return None
    left_out = int((~kept).sum())
    note = (
        f"{left_out:,} rows left out that version {other.version.number} was fitted on"
        if other and left_out
        else ""
    )
    chosen = {name: column[kept] for name, column in columns.items()}
    return Rows(whose, chosen, kept, as_floats(chosen[held_out.target]), cluster, unit, note)


def is_binary(subject: Subject) -> bool:
    """Whether a version's answers are probabilities of an event."""
    with suppress(InvalidSetting):  # several outputs, and none is said to be the one
        return subject.evaluation.kind(subject.manifest.contract) == "binary"
    return False


def no_trial(subject: Subject) -> str:
    """Say why a version has no held-out rows, and how the next one gets them."""
    if subject.run is None:
        return "no training was recorded: train it with `tidegate train`, whose trainer returns a tg.Trial"
    if (
        any(field.sensitive for field in subject.manifest.contract.input.fields)
        and not subject.gates.keep_sensitive
    ):
        return (
            "held-out rows hold sensitive fields and were not kept: allow it with "
            "tg.Gates(keep_sensitive=True)"
        )
    return "no rows were held out: return tg.Trained(trial=tg.Trial(...)) from the trainer"


def as_floats(column: Column) -> Floats:
    """Return outcomes as numbers."""
    return np.asarray(column, dtype=np.float64)
