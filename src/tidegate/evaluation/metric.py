"""Figures for probabilities of a yes-or-no event.

All take the outcomes first and the predicted probabilities second, both of shape (n_rows,).
"""

from __future__ import annotations

from itertools import pairwise

import msgspec
import numpy as np
import numpy.typing as npt

from tidegate.core.error import TidegateError

Floats = npt.NDArray[np.float64]


class NotMeasurable(TidegateError):
    """A figure is not defined for these outcomes and predictions."""

    code = "not_measurable"


class BinaryReport(msgspec.Struct, frozen=True):
    """How well probabilities told events from non-events.

    Attributes:
        n_rows: Rows that were compared.
        base_rate: Share of events, in [0, 1].
        mean_prediction: Mean predicted probability; equal to `base_rate` where it is calibrated at large.
        auc: Probability that an event was given more than a non-event; NaN where there is only one kind.
        log_loss: Mean negative log likelihood, nats.
        brier: Mean squared error, in [0, 1].
        calibration_error: Expected calibration error over ten bins of equal count, in [0, 1].
    """

    n_rows: int
    base_rate: float
    mean_prediction: float
    auc: float
    log_loss: float
    brier: float
    calibration_error: float


class CalibrationBin(msgspec.Struct, frozen=True):
    """Rows that were predicted alike.

    Attributes:
        n_rows: How many.
        predicted: Their mean predicted probability.
        observed: The share of them in which the event happened.
    """

    n_rows: int
    predicted: float
    observed: float


def binary_report(outcomes: npt.ArrayLike, predictions: npt.ArrayLike) -> BinaryReport:
    """Return all figures of this module at once.

    Raises:
        NotMeasurable: There are no rows, the shapes differ, an outcome is not 0 or 1, or a
            prediction lies outside [0, 1].
    """
    happened, predicted = _checked(outcomes, predictions)
    single = bool(happened.all() or not happened.any())
    return BinaryReport(
        n_rows=len(happened),
        base_rate=float(happened.mean()),
        mean_prediction=float(predicted.mean()),
        auc=float("nan") if single else auc(outcomes, predictions),
        log_loss=log_loss(outcomes, predictions),
        brier=brier(outcomes, predictions),
        calibration_error=calibration_error(outcomes, predictions),
    )


def auc(outcomes: npt.ArrayLike, predictions: npt.ArrayLike) -> float:
    """Return the probability that a random event was given more than a random non-event, ties half.

    Raises:
        NotMeasurable: There are only events or only non-events, or see `binary_report`.

    Source: the Mann-Whitney form; Hanley & McNeil, Radiology 143(1), 1982.
    """
    happened, predicted = _checked(outcomes, predictions)
    n_events = int(happened.sum())
    n_others = len(happened) - n_events
    if n_events == 0 or n_others == 0:
        raise NotMeasurable("The AUC needs events and non-events; there is only one kind.", n_events=n_events)
    _, group, counts = np.unique(predicted, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    mean_rank = last - (counts - 1) / 2  # ranks from 1, ties share their mean
    rank_sum = float(mean_rank[group][happened].sum())
    return (rank_sum - n_events * (n_events + 1) / 2) / (n_events * n_others)


def log_loss(outcomes: npt.ArrayLike, predictions: npt.ArrayLike, *, floor: float = 1e-15) -> float:
    """Return the mean negative log likelihood of the outcomes, nats, >= 0.

    Args:
        outcomes: 0 or 1 (or bool), shape (n_rows,).
        predictions: Probabilities, shape (n_rows,).
        floor: Probabilities count as at least this far from 0 and 1, so that one certain error does
            not make the figure infinite.

    Raises:
        NotMeasurable: See `binary_report`.
    """
    happened, predicted = _checked(outcomes, predictions)
    likelihood = np.where(happened, predicted, 1 - predicted)
    return float(-np.log(np.maximum(likelihood, floor)).mean())


def brier(outcomes: npt.ArrayLike, predictions: npt.ArrayLike) -> float:
    """Return the mean squared difference of probability and outcome, in [0, 1].

    Raises:
        NotMeasurable: See `binary_report`.

    Source: Brier, Monthly Weather Review 78(1), 1950 (its form for two classes, halved).
    """
    happened, predicted = _checked(outcomes, predictions)
    return float(np.square(predicted - happened).mean())


def calibration(
    outcomes: npt.ArrayLike, predictions: npt.ArrayLike, *, n_bins: int = 10
) -> list[CalibrationBin]:
    """Return predicted against observed rates, rows in bins of (nearly) equal count by prediction.

    Rows with one prediction fall into one bin, so that the order of rows changes nothing; there may
    therefore be fewer bins than `n_bins`.

    Raises:
        NotMeasurable: See `binary_report`.
    """
    happened, predicted = _checked(outcomes, predictions)
    order = np.argsort(predicted, kind="stable")
    happened, predicted = happened[order], predicted[order]
    cuts = np.arange(1, n_bins) * len(predicted) // n_bins
    edges = np.unique(np.searchsorted(predicted, predicted[cuts], side="left"))
    bounds = [0, *(int(edge) for edge in edges if edge > 0), len(predicted)]
    return [
        CalibrationBin(high - low, float(predicted[low:high].mean()), float(happened[low:high].mean()))
        for low, high in pairwise(bounds)
    ]


def calibration_error(outcomes: npt.ArrayLike, predictions: npt.ArrayLike, *, n_bins: int = 10) -> float:
    """Return the mean distance of predicted and observed rates over `calibration`'s bins, in [0, 1].

    Raises:
        NotMeasurable: See `binary_report`.

    Source: Naeini, Cooper & Hauskrecht, AAAI 2015; bins of equal count as in Nixon et al., CVPR
    Workshops 2019.
    """
    bins = calibration(outcomes, predictions, n_bins=n_bins)
    n_rows = sum(each.n_rows for each in bins)
    return sum(each.n_rows * abs(each.predicted - each.observed) for each in bins) / n_rows


def _checked(outcomes: npt.ArrayLike, predictions: npt.ArrayLike) -> tuple[npt.NDArray[np.bool_], Floats]:
    given = np.asarray(outcomes)
    predicted = np.asarray(predictions, dtype=np.float64)
    if given.ndim != 1 or given.shape != predicted.shape or not given.size:
        raise NotMeasurable(
            f"Outcomes and predictions must be two columns of one length above 0. "
            f"Got shapes {given.shape} and {predicted.shape}.",
        )
    happened = given.astype(np.bool_)
    if not np.array_equal(happened, given):
        raise NotMeasurable(
            "Outcomes must be 0 or 1.",
            hint="Leave out rows whose outcome is not known. Of other classes, name no and yes: "
            "tg.Evaluation(classes=('1', '2')).",
        )
    if not bool(((predicted >= 0) & (predicted <= 1)).all()):
        raise NotMeasurable("Predictions must be probabilities in [0, 1]; at least one is outside or NaN.")
    return happened, predicted
