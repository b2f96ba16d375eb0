"""A candidate and a champion asked the same, beside what came true: what the gates of quality look at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tidegate.contract.batch import Column
from tidegate.core.error import InvalidSetting
from tidegate.evaluation.measure import Measure
from tidegate.statistics.bootstrap import count_units

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Answers:
    """Answers to rows that neither model was fitted on.

    Attributes:
        columns: What is known of each row: input fields and protected attributes, shape (n_rows,) each.
        outcomes: What came true as the measure writes it, shape (n_rows,).
        candidate: The candidate's answers, likewise. Of rankings, where a row is a list: what each lost.
        champion: The champion's; None without one.
        measure: What is predicted, and what an answer loses.
        cluster: Which rows are no independent evidence, as integers from 0; None: all are.
        unit: What one piece of independent evidence is called: `rows`, `days`.
    """

    columns: Mapping[str, Column]
    outcomes: Floats
    candidate: Floats
    champion: Floats | None
    measure: Measure
    cluster: Ints | None = None
    unit: str = "rows"

    @property
    def n_rows(self) -> int:
        return len(self.outcomes)

    @property
    def n_units(self) -> int:
        """Pieces of independent evidence."""
        return count_units(self.n_rows, self.cluster)

    @property
    def rows(self) -> str:
        """What a row is."""
        return "lists" if self.measure.task == "ranking" else "rows"

    @property
    def measured_in(self) -> str:
        """What a loss is, in words."""
        return self.measure.name.replace("_", " ")

    def candidate_loss(self) -> Floats:
        """Return the candidate's loss on each row."""
        return self._loss(self.candidate)

    def champion_loss(self) -> Floats:
        """Return the champion's loss on each row; there has to be one."""
        assert self.champion is not None
        return self._loss(self.champion)

    def _loss(self, answered: Floats) -> Floats:
        if self.measure.task == "ranking":
            return answered
        return self.measure.loss(self.outcomes, answered)


def alike(own: Floats, measure: Measure, theirs: Floats, other: Measure) -> tuple[Floats, Floats, Measure]:
    """Return two models' answers on one scale: classes in one order, probabilities only where both have them.

    Raises:
        InvalidSetting: They predict different things, or other classes.
    """
    if (measure.task, measure.query) != (other.task, other.query):
        raise InvalidSetting(f"it predicts {other.task}, the candidate {measure.task}")
    if measure.task != "multiclass":
        return own, theirs, measure
    if set(measure.classes) != set(other.classes):
        odd = sorted(set(measure.classes) ^ set(other.classes))
        raise InvalidSetting(f"only one of them knows the classes {', '.join(odd[:5])}")
    place = [other.classes.index(name) for name in measure.classes]
    if theirs.ndim == 2:
        theirs = theirs[:, place]
    else:  # a decided class that does not exist stays at -1
        back = np.array([*np.argsort(place), -1], dtype=np.float64)
        theirs = back[theirs.astype(np.int64)]
    if own.ndim == theirs.ndim:
        return own, theirs, measure
    decided = Measure(task="multiclass", classes=measure.classes, has_scores=False)
    return measure.decided(own), measure.decided(theirs), decided


def by_list(
    answers: Answers, lists: Ints, *, candidate: Floats, champion: Floats | None, grades: Floats
) -> Answers:
    """Return rankings as they are judged: a list is one row, and an answer what the list lost.

    Args:
        answers: Columns and clusters of the results.
        lists: The list of each result, integers from 0.
        candidate: The candidate's score of each result.
        champion: The champion's; None without one.
        grades: What came true.
    """
    _, first = np.unique(lists, return_index=True)
    has_any = np.bincount(lists, weights=grades > 0) > 0
    rows = first[has_any]

    def lost(scores: Floats) -> Floats:
        return answers.measure.loss(grades, scores, lists)

    return Answers(
        columns={
            name: column[rows]
            for name, column in answers.columns.items()
            if column.ndim == 1 and _is_of_lists(column, first, lists)
        },
        outcomes=np.zeros(len(rows)),
        candidate=lost(candidate),
        champion=None if champion is None else lost(champion),
        measure=answers.measure,
        cluster=None if answers.cluster is None else np.unique(answers.cluster[rows], return_inverse=True)[1],
        unit="lists" if answers.cluster is None else answers.unit,
    )


def _is_of_lists(column: Column, first: npt.NDArray[np.intp], lists: Ints) -> bool:
    """Whether all results of each list have one value."""
    of_list = column[first][lists]
    same = column == of_list
    if column.dtype.kind == "f":
        same |= np.isnan(column) & np.isnan(of_list)
    return bool(np.all(same))
