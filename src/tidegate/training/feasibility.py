"""Is there anything to learn, is it worth a model, and would more rows help?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import polars as pl

from tidegate.contract.infer import columns_of
from tidegate.contract.schema import Schema
from tidegate.core.error import InvalidSetting
from tidegate.evaluation.estimate import Estimate
from tidegate.evaluation.measure import Measure
from tidegate.training.baseline import (
    Comparison,
    TrialColumns,
    candidate_answers,
    compare_with_baselines,
    gain_estimates,
    read_trial,
)
from tidegate.training.simple import fit_linear_model
from tidegate.training.trial import Fit, Trial

Floats = npt.NDArray[np.float64]

SHARES = (1 / 8, 1 / 4, 1 / 2)
"""Shares of the training rows at which the learning curve is measured, beside all of them."""

N_SHUFFLES = 39
"""Fits on shuffled outcomes: the smallest p-value is 1 in 40."""

MAX_SHUFFLED_ROWS = 5_000
"""A pattern that this many rows do not show is a weak one, and forty fits stay quick."""


class LearningPoint(msgspec.Struct, frozen=True):
    """What so many training rows lead to.

    Attributes:
        n_rows: Training rows.
        loss: Mean loss on the test rows.
    """

    n_rows: int
    loss: float


class Permutation(msgspec.Struct, frozen=True):
    """Fits on true outcomes against fits on shuffled ones.

    Attributes:
        n_rows: Training rows of each fit.
        loss: Mean loss on the test rows after fitting on the true outcomes.
        shuffled: The same after each shuffle.
    """

    n_rows: int
    loss: float
    shuffled: tuple[float, ...]

    @property
    def p_value(self) -> float:
        """Chance of so small a loss if inputs and outcomes had nothing to do with each other."""
        return (1 + sum(loss <= self.loss for loss in self.shuffled)) / (1 + len(self.shuffled))


class Feasibility(msgspec.Struct, frozen=True):
    """What is known before a model is worth building.

    Attributes:
        learner: `candidate`, or `linear` where the trial says no way to fit the candidate again.
        permutation: Whether there is a pattern at all.
        curve: Loss by training rows, fewest first.
        last_doubling: Loss at half the rows less loss at all, with a paired bootstrap interval.
        comparison: The candidate beside its baselines: whether a lookup is enough.
    """

    learner: str
    permutation: Permutation
    curve: tuple[LearningPoint, ...]
    last_doubling: Estimate
    comparison: Comparison

    @property
    def next_doubling(self) -> float | None:
        """Loss that twice the rows would likely save: gains go on shrinking as they last did.

        None where the curve is too ragged to be continued.
        """
        losses = [point.loss for point in self.curve]
        before, last = losses[-3] - losses[-2], losses[-2] - losses[-1]
        if last <= 0:
            return 0.0
        return last * last / before if before > last else None

    def findings(self, *, level: float = 0.05) -> list[str]:
        """Return the answers in words; what is not known is said to be not known."""
        p, more, measure = self.permutation.p_value, self.last_doubling, self.comparison.measure
        pattern = "There is a pattern" if p <= level else "No pattern was shown"
        found = [f"{pattern}: p = {p:.3g} by {len(self.permutation.shuffled)} shuffles."]
        lookup = next((each for each in self.comparison.baselines if each.name == "lookup"), None)
        if lookup is not None:
            keys = ", ".join(lookup.by)
            gain = f"the model's {measure.replace('_', ' ')} is smaller by {_interval(lookup.gain)}"
            found.append(
                f"A lookup by {keys} is not enough: {gain}."
                if lookup.beaten
                else f"A lookup by {keys} may be enough: {gain}."
            )
        if more.low is not None and more.low > 0:
            likely = self.next_doubling
            guess = "" if likely is None else f"; twice as many would likely save {likely:.4g} more"
            found.append(f"More rows helped: the last doubling saved {_interval(more)}{guess}.")
        else:
            found.append(f"More rows are not shown to help: the last doubling saved {_interval(more)}.")
        return found


def assess(
    trial: Trial,
    schema: Schema,
    *,
    measure: Measure | None = None,
    by: Sequence[str] | None = None,
    n_shuffles: int = N_SHUFFLES,
    seed: int = 0,
) -> Feasibility:
    """Say what a trial's data can carry.

    Args:
        trial: The trial; its `fit` is called `n_shuffles` + 4 times.
        schema: Input side of the contract.
        measure: What is predicted; None: an event where the target is 0 or 1, else a number.
        by: Keys of the lookup; None: there is none.
        n_shuffles: Fits on shuffled outcomes, at least 19.
        seed: For shuffles, subsets and the bootstrap.

    Raises:
        InvalidSetting: The trial does not hold together, or has fewer than 16 training rows.

    Source: for the permutation test Ojala & Garriga, J. Machine Learning Research 11, 2010 (test 1, with
    the test rows left as they are).
    """
    if n_shuffles < 19:
        raise InvalidSetting(f"{n_shuffles} shuffles cannot show anything at 5%; at least 19 can.")
    columns = read_trial(trial, measure)
    n_train = len(columns.train_target)
    if n_train < 16:
        raise InvalidSetting(f"A learning curve needs at least 16 training rows. Got {n_train}.")
    rng = np.random.default_rng(seed)
    fit = trial.fit or _linear_fit(trial, schema, columns.measure)
    order = rng.permutation(n_train)  # smaller sets are parts of larger ones
    losses = {
        n_rows: _loss_after(fit, _take(trial.train, order[:n_rows]), trial, columns)
        for n_rows in (round(share * n_train) for share in SHARES)
    }
    losses[n_train] = (
        columns.loss(candidate_answers(columns, trial.predicted))
        if trial.fit is not None
        else _loss_after(fit, trial.train, trial, columns)
    )
    half, whole = (losses[n_rows] for n_rows in sorted(losses)[-2:])
    return Feasibility(
        learner="linear" if trial.fit is None else "candidate",
        permutation=_permute(fit, trial, columns, n_shuffles=n_shuffles, rng=rng),
        curve=tuple(LearningPoint(n_rows, float(losses[n_rows].mean())) for n_rows in sorted(losses)),
        last_doubling=gain_estimates(whole, [half], cluster=columns.cluster, seed=seed)[0],
        comparison=compare_with_baselines(trial, schema, measure=measure, by=by, seed=seed),
    )


def _permute(
    fit: Fit, trial: Trial, columns: TrialColumns, *, n_shuffles: int, rng: np.random.Generator
) -> Permutation:
    n_rows = min(len(columns.train_target), MAX_SHUFFLED_ROWS)
    rows = _take(trial.train, np.sort(rng.permutation(len(columns.train_target))[:n_rows]))
    true = float(_loss_after(fit, rows, trial, columns).mean())
    shuffled = tuple(
        float(_loss_after(fit, _shuffle(rows, trial.target, rng.permutation(n_rows)), trial, columns).mean())
        for _ in range(n_shuffles)
    )
    return Permutation(n_rows, true, shuffled)


def _loss_after(fit: Fit, rows: Any, trial: Trial, columns: TrialColumns) -> Floats:
    return columns.loss(candidate_answers(columns, fit(rows)(trial.test)))


def _linear_fit(trial: Trial, schema: Schema, measure: Measure) -> Fit:
    def fit(rows: Any) -> Any:
        columns = columns_of(rows)
        target = measure.outcomes(columns[trial.target], name=trial.target)
        answer = fit_linear_model(schema, columns, target, measure=measure)
        if measure.has_scores:
            return lambda asked: answer(columns_of(asked))
        names = np.array(measure.classes, dtype=object)
        return lambda asked: names[answer(columns_of(asked)).astype(np.int64)]

    return fit


def _take(table: Any, places: npt.NDArray[np.int64]) -> Any:
    """Return some rows of a table of any usual form, as a table of that form."""
    if isinstance(table, pl.DataFrame):
        return table[places]
    if isinstance(table, Mapping):
        return {name: np.asarray(column)[places] for name, column in table.items()}
    return table.iloc[places]


def _shuffle(table: Any, target: str, order: npt.NDArray[np.int64]) -> Any:
    """Return a table with its target in another order."""
    if isinstance(table, pl.DataFrame):
        return table.with_columns(table[target].gather(order))
    values = np.asarray(table[target])[order]
    return {**table, target: values} if isinstance(table, Mapping) else table.assign(**{target: values})


def _interval(gain: Estimate) -> str:
    if gain.value is None or gain.low is None or gain.high is None:
        return "an amount that is not known (too few rows or groups)"
    return f"{gain.value:.4g} ({gain.low:.4g} to {gain.high:.4g})"
