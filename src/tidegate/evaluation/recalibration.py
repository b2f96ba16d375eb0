"""What recalibrating a model's probabilities would save, on rows that had no part in fitting it."""

from __future__ import annotations

from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt

from tidegate.evaluation.calibration import fit_recalibration
from tidegate.evaluation.estimate import Estimate, Floats, resampled

MIN_ROWS = 200
"""With fewer rows a fold's curve is fitted to a handful of events, and the gain is noise."""

_N_FOLDS = 5
_FLOOR = 1e-6

Method = Literal["platt", "isotonic"]


class RecalibrationGain(msgspec.Struct, frozen=True):
    """What a recalibration would save.

    Attributes:
        method: `platt` or `isotonic`: the better of the two.
        gain: Mean log loss as it is less after recalibration, nats a row; an interval above 0 means
            that it pays.
    """

    method: Method
    gain: Estimate


def recalibration_gain(
    outcomes: npt.ArrayLike, predictions: npt.ArrayLike, *, rng: np.random.Generator, level: float = 0.95
) -> RecalibrationGain | None:
    """Fit each method on four fifths of the rows, apply it to the rest, in turn, and compare log losses.

    Args:
        outcomes: 0 or 1, shape (n_rows,).
        predictions: Probabilities, shape (n_rows,).
        rng: Source of randomness of folds and bootstrap.
        level: Confidence, in (0, 1).

    Returns:
        The better method; None with fewer than `MIN_ROWS` rows, or fewer than 10 of one kind.

    Raises:
        NotMeasurable: See `fit_recalibration`.
    """
    happened = np.asarray(outcomes, dtype=np.float64)
    predicted = np.asarray(predictions, dtype=np.float64)
    n_events = int(happened.sum())
    if len(happened) < MIN_ROWS or min(n_events, len(happened) - n_events) < 10:
        return None
    fold = rng.permutation(len(happened)) % _N_FOLDS
    before = _losses(happened, predicted)
    found: list[RecalibrationGain] = []
    methods: tuple[Method, ...] = ("platt", "isotonic")
    for method in methods:
        changed = np.empty(len(happened))
        for each in range(_N_FOLDS):
            held = fold == each
            curve = fit_recalibration(happened[~held], predicted[~held], method=method)
            changed[held] = curve.apply(predicted[held])
        saved = before - _losses(happened, changed)
        (gain,) = resampled(
            np.column_stack([saved, np.ones(len(saved))]),
            {"saved log loss": (lambda s: s[:, 0] / s[:, 1], True)},
            rng=rng,
            level=level,
        )
        found.append(RecalibrationGain(method, gain))
    return max(found, key=lambda each: each.gain.value or 0.0)


def _losses(happened: Floats, predicted: Floats) -> Floats:
    likelihood = np.where(happened > 0, predicted, 1 - predicted)
    return np.asarray(-np.log(np.maximum(likelihood, _FLOOR)))
