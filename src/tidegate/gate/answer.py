"""A candidate and a champion asked the same, beside what came true: what the gates of quality look at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tidegate.contract.batch import Column

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

MIN_UNITS = 10
"""From fewer rows or groups no interval is drawn: a bootstrap of a handful is too sure of itself."""

_LEAST_PROBABILITY = 1e-15


@dataclass(frozen=True, kw_only=True)
class Answers:
    """Answers to rows that neither model was fitted on.

    Attributes:
        columns: What is known of each row: input fields and protected attributes, shape (n_rows,) each.
        outcomes: What came true, shape (n_rows,).
        candidate: The candidate's answers.
        champion: The champion's; None without one.
        is_binary: Outcomes are 0 or 1 and answers probabilities of a 1.
        cluster: Which rows are no independent evidence, as integers from 0; None: all are.
        unit: What one piece of independent evidence is called: `rows`, `days`.
    """

    columns: Mapping[str, Column]
    outcomes: Floats
    candidate: Floats
    champion: Floats | None
    is_binary: bool
    cluster: Ints | None = None
    unit: str = "rows"

    @property
    def n_rows(self) -> int:
        return len(self.outcomes)

    @property
    def n_units(self) -> int:
        """Pieces of independent evidence."""
        return self.n_rows if self.cluster is None else len(np.unique(self.cluster))

    @property
    def measure(self) -> str:
        """What a loss is: `log loss` or `squared error`."""
        return "log loss" if self.is_binary else "squared error"

    def candidate_loss(self) -> Floats:
        """Return the candidate's loss on each row."""
        return loss(self.outcomes, self.candidate, is_binary=self.is_binary)

    def champion_loss(self) -> Floats:
        """Return the champion's loss on each row; there has to be one."""
        assert self.champion is not None
        return loss(self.outcomes, self.champion, is_binary=self.is_binary)


def loss(outcomes: Floats, answers: Floats, *, is_binary: bool) -> Floats:
    """Return each row's log loss (nats) or squared error (the target's unit, squared).

    An answer that is no number loses infinitely much.
    """
    if not is_binary:
        return np.nan_to_num(np.square(answers - outcomes), nan=np.inf, posinf=np.inf)
    likelihood = np.where(outcomes == 1, answers, 1 - answers)
    return np.asarray(
        np.nan_to_num(-np.log(np.clip(likelihood, _LEAST_PROBABILITY, 1.0)), nan=np.inf, posinf=np.inf)
    )
