"""What predictions are worth in money, and from which probability on it pays to act."""

from __future__ import annotations

import msgspec
import numpy as np
import numpy.typing as npt

from tidegate.evaluation import metric
from tidegate.evaluation.declaration import CostMatrix
from tidegate.evaluation.estimate import Estimate, Figure, Floats, resampled


class Value(msgspec.Struct, frozen=True):
    """What acting on predictions is worth.

    Attributes:
        currency: Unit of all values.
        threshold: Act where the prediction is at least this; above 1: never.
        theory: The threshold that is best if predictions are calibrated.
        per_prediction: Money per prediction with thresholds chosen on other rows than they are
            valued on.
        over_trivial: The same less the better of acting always and never: what the model adds.
        never: Money per prediction without acting.
        always: Money per prediction with acting on every row.
    """

    currency: str
    threshold: float
    theory: float
    per_prediction: Estimate
    over_trivial: Estimate
    never: Estimate
    always: Estimate


def value(
    outcomes: npt.ArrayLike,
    predictions: npt.ArrayLike,
    matrix: CostMatrix,
    *,
    rng: np.random.Generator,
    level: float = 0.95,
) -> Value:
    """Choose the threshold that brings most, and say what that brings on rows that did not choose it.

    A threshold that is valued on the rows that chose it looks better than it is: each half of
    the rows is valued with the other half's best threshold. `threshold` is the best on all rows.

    Args:
        outcomes: 0 or 1, shape (n_rows,).
        predictions: Probabilities, shape (n_rows,).
        matrix: What decisions bring.
        rng: Source of randomness of the halves and the bootstrap.
        level: Confidence, in (0, 1).

    Raises:
        NotMeasurable: See `metric.binary_report`; or there are fewer than two rows.
        InvalidSetting: See `CostMatrix.threshold`.
    """
    theory = matrix.threshold()
    metric.binary_report(outcomes, predictions)  # refuses what cannot be measured
    happened = np.asarray(outcomes).astype(np.bool_)
    predicted = np.asarray(predictions, dtype=np.float64)
    if len(happened) < 2:
        raise metric.NotMeasurable("A threshold is chosen and valued on different rows: two are needed.")
    acting = np.where(happened, matrix.true_positive, matrix.false_positive)
    waiting = np.where(happened, matrix.false_negative, matrix.true_negative)
    first = np.zeros(len(happened), dtype=np.bool_)
    first[rng.permutation(len(happened))[: len(happened) // 2]] = True
    brought = np.empty(len(happened))
    for half in (first, ~first):
        chosen = best_threshold(predicted[~half], acting[~half] - waiting[~half])
        brought[half] = np.where(predicted[half] >= chosen, acting[half], waiting[half])
    figures: dict[str, tuple[Figure, bool | None]] = {
        "value_per_prediction": (lambda s: s[:, 0] / s[:, 3], True),
        "value_never": (lambda s: s[:, 1] / s[:, 3], True),
        "value_always": (lambda s: s[:, 2] / s[:, 3], True),
        "value_over_trivial": (lambda s: (s[:, 0] - np.maximum(s[:, 1], s[:, 2])) / s[:, 3], True),
    }
    terms = np.column_stack([brought, waiting, acting, np.ones(len(brought))])
    per_prediction, never, always, over = resampled(terms, figures, rng=rng, level=level)
    threshold = best_threshold(predicted, acting - waiting)
    return Value(matrix.currency, threshold, theory, per_prediction, over, never, always)


def best_threshold(predictions: Floats, gains: Floats) -> float:
    """Return the threshold on which acting (prediction >= threshold) gains most in sum.

    It lies half-way between two neighbouring predictions. Of equal ones the highest counts: do not
    act where nothing is gained. Above all predictions: never act.

    Args:
        predictions: Shape (n_rows,).
        gains: What acting on the row brings more than not acting, shape (n_rows,).
    """
    values, group = np.unique(predictions, return_inverse=True)
    above = np.cumsum(np.bincount(group, weights=gains)[::-1])[::-1]  # acting from value i on
    sums = np.r_[above, 0.0]
    best = len(sums) - 1 - int(np.argmax(sums[::-1]))
    if best == len(values):
        return float(np.nextafter(values[-1], np.inf))
    if best == 0:
        return float(values[0])
    return float((values[best - 1] + values[best]) / 2)
