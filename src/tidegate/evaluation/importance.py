"""Which columns a model's answers rest on, over all rows and for one."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec
import numpy as np
import numpy.typing as npt

from tidegate.core.error import InvalidSetting
from tidegate.evaluation.estimate import Column, Estimate, Floats, numbers, resampled
from tidegate.evaluation.metric import NotMeasurable
from tidegate.evaluation.robustness import Predict

Loss = Callable[[Column, Column], Floats]
"""Maps outcomes and predictions to the loss of each row, shape (n_rows,)."""


class Importance(msgspec.Struct, frozen=True):
    """How much worse answers get without one column.

    Attributes:
        column: Name of the column.
        increase: Mean loss with the column shuffled less mean loss as it is. An interval that holds 0:
            nothing shows that the model uses it.
    """

    column: str
    increase: Estimate


def squared_error(outcomes: Column, predictions: Column) -> Floats:
    """Return (prediction - outcome)^2 of each row; for probabilities the Brier loss."""
    return np.square(predictions.astype(np.float64) - outcomes.astype(np.float64))


def wrong(outcomes: Column, predictions: Column) -> Floats:
    """Return 1 for each row whose predicted label is not the outcome, else 0."""
    return np.asarray(outcomes != predictions).astype(np.float64)


def importance(
    predict: Predict,
    columns: Mapping[str, Column],
    outcomes: npt.ArrayLike,
    *,
    rng: np.random.Generator,
    loss: Loss = squared_error,
    n_repeats: int = 5,
    level: float = 0.95,
) -> tuple[Importance, ...]:
    """Shuffle one column at a time and measure how much the loss rises, most important first.

    Columns that say the same share their importance: shuffling one leaves the other in place.

    Args:
        predict: The model.
        columns: Inputs, shape (n_rows,) each; rows it was not trained on.
        outcomes: What should have been predicted, shape (n_rows,).
        rng: Source of randomness.
        loss: Loss of each row.
        n_repeats: Shuffles of each column.
        level: Confidence, in (0, 1).

    Raises:
        NotMeasurable: There are no rows, or a loss is not finite.
        InvalidSetting: `n_repeats` is below 1.

    Source: Breiman, Machine Learning 45, 2001; Fisher, Rudin & Dominici, JMLR 20(177), 2019.
    """
    if n_repeats < 1:
        raise InvalidSetting(f"A column is shuffled at least once. Got {n_repeats}.")
    truth: Column = np.asarray(outcomes)
    base = numbers(loss(truth, np.asarray(predict(columns))), name="Losses", n_rows=len(truth))
    found = []
    for name, column in columns.items():
        rise = np.zeros(len(base))
        for _ in range(n_repeats):
            shuffled = {**columns, name: column[rng.permutation(len(column))]}
            rise += loss(truth, np.asarray(predict(shuffled))) - base
        terms = np.column_stack([numbers(rise / n_repeats, name="Losses"), np.ones(len(base))])
        (increase,) = resampled(
            terms, {"increase": (lambda s: s[:, 0] / s[:, 1], None)}, rng=rng, level=level
        )
        found.append(Importance(name, increase))
    return tuple(sorted(found, key=lambda each: -(each.increase.value or 0.0)))


def contributions(
    predict: Predict,
    columns: Mapping[str, Column],
    background: Mapping[str, Column],
) -> dict[str, Floats]:
    """Return what each column adds to each row's prediction, against what other rows have there.

    A column's contribution is the prediction less its mean over the background's values of that
    column, all else as it is. For a model that adds up terms it is exact (the term less its mean);
    where columns work together each of them is given the joint effect, so contributions need not add
    up to the prediction.

    Args:
        predict: The model, which predicts numbers.
        columns: Rows to explain, shape (n_rows,) each.
        background: Rows to compare with, shape (n_background,) each; some hundred do. One call of the
            model sees n_rows times n_background rows.

    Returns:
        By column, shape (n_rows,), in the prediction's unit.

    Raises:
        NotMeasurable: There are no rows, or a prediction is not finite.
        InvalidSetting: The background lacks a column.

    Source: individual conditional expectation, centred: Goldstein et al., JCGS 24(1), 2015.
    """
    missing = [name for name in columns if name not in background]
    if missing or not columns:
        raise InvalidSetting(f"The background needs the columns of the rows; it lacks {missing}.")
    usual = numbers(np.asarray(predict(columns)), name="Predictions")
    n_background = len(next(iter(background.values())))
    if not n_background:
        raise NotMeasurable("The background has no rows.")
    repeated = {name: np.repeat(column, n_background) for name, column in columns.items()}
    found = {}
    for name in columns:
        changed = {**repeated, name: np.tile(background[name], len(usual))}
        answers = numbers(np.asarray(predict(changed)), name="Predictions", n_rows=len(usual) * n_background)
        found[name] = usual - answers.reshape(len(usual), n_background).mean(axis=1)
    return found
