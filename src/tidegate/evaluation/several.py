"""Assessments beyond yes-or-no and numbers: several classes, ranked results, forecasts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from tidegate.evaluation.assessment import Subject, common_report
from tidegate.evaluation.calibration import calibration
from tidegate.evaluation.classification import multiclass
from tidegate.evaluation.estimate import Column, Floats, few_units, numbers
from tidegate.evaluation.fairness import fairness
from tidegate.evaluation.importance import wrong
from tidegate.evaluation.metric import NotMeasurable
from tidegate.evaluation.ranking import ranking
from tidegate.evaluation.regression import forecast
from tidegate.evaluation.report import Report

_MAX_CLASSES_BY_GROUP = 5
"""Classes whose decisions are compared between groups, the most frequent first."""


def assess_multiclass(
    subject: Subject, classes: Sequence[object], *, rng: np.random.Generator, level: float = 0.95
) -> Report:
    """Measure a classifier of several classes. Slices and importance are by wrong decisions.

    Calibration is that of the decision: how often the likeliest class is right, against its probability
    (top-label calibration). Groups are compared class by class, one against the rest.

    Args:
        subject: The model and the rows; predictions are probabilities of shape (n_rows, n_classes), or the
            decided classes, shape (n_rows,), and `predict` gives decided classes.
        classes: All classes, in the order of the probabilities.
        rng: Source of randomness of halves, shuffles and bootstraps.
        level: Confidence of intervals, in (0, 1).

    Raises:
        NotMeasurable: See the functions of this package.
        InvalidSetting: See the functions of this package.

    Source: top-label calibration: Guo et al., ICML 2017; Gupta & Ramdas, ICLR 2022.
    """
    truth: Column = np.asarray(subject.outcomes)
    given = np.asarray(subject.predictions)
    has_scores = given.ndim == 2
    probabilities = given.astype(np.float64) if has_scores else _certain(given, classes)
    figures = multiclass(truth, probabilities, classes, rng=rng, level=level)
    if not has_scores:
        figures = tuple(each for each in figures if each.name != "log_loss")
    names: Column = np.empty(len(classes), dtype=object)
    names[:] = list(classes)
    decided = names[probabilities.argmax(axis=1)]
    report = common_report(
        subject,
        ("multiclass", figures),
        losses=wrong(truth.astype(object), decided),
        loss=_wrong,
        threshold=None,
        rng=rng,
        level=level,
    )
    notes = [*report.notes, "Value in money: only measured of decisions between two."]
    if not has_scores:
        notes.append("Log loss, calibration: the model gives classes without probabilities.")
    if not subject.protected:
        notes.append("Groups: no protected attribute was declared.")
    right = (truth.astype(object) == decided).astype(np.int64)
    common = [value for value, _ in Counter(truth.tolist()).most_common(_MAX_CLASSES_BY_GROUP)]
    return msgspec.structs.replace(
        report,
        calibration=calibration(right, probabilities.max(axis=1), rng=rng, level=level)
        if has_scores
        else None,
        fairness=tuple(
            fairness(
                (truth == value).astype(np.int64),
                (decided == value).astype(np.int64),
                column,
                attribute=f"{name}, {value}",
                level=level,
            )
            for name, column in subject.protected.items()
            for value in common
        ),
        notes=tuple(notes),
    )


def assess_ranking(
    subject: Subject,
    queries: npt.ArrayLike,
    *,
    rng: np.random.Generator,
    cut: int = 10,
    level: float = 0.95,
) -> Report:
    """Measure ranked results. Intervals are over queries: the results of one say the same.

    Args:
        subject: Outcomes are grades (>= 0; above 0 is relevant), predictions scores.
        queries: Which list each result stands in, shape (n_results,).
        rng: Source of randomness of the bootstrap.
        cut: Results that count, from the top.
        level: Confidence of intervals, in (0, 1).

    Raises:
        NotMeasurable: See `ranking`.
        InvalidSetting: See `ranking`.
    """
    figures = ranking(queries, subject.outcomes, subject.predictions, rng=rng, cut=cut, level=level)
    notes = ["Slices, robustness, importance, groups, value: not measured of rankings."]
    notes += few_units(len(np.unique(np.asarray(queries))), "lists")
    if subject.span is None:
        notes.append("Age of the rows: they carry no time.")
    return Report(
        task="ranking",
        n_rows=len(np.asarray(subject.outcomes)),
        figures=figures,
        span=subject.span,
        notes=tuple(notes),
    )


def assess_forecast(
    subject: Subject,
    history: npt.ArrayLike,
    *,
    rng: np.random.Generator,
    season: int = 1,
    block: int | None = None,
    quantiles: Mapping[float, npt.ArrayLike] | None = None,
    level: float = 0.95,
) -> Report:
    """Measure a forecast of one series. Slices and importance are by absolute error.

    Args:
        subject: Outcomes and predictions in order of time.
        history: The series before, in order of time, more than `season` steps.
        rng: Source of randomness of halves, shuffles and bootstraps.
        season: Steps of a season.
        block: Steps that are resampled together; a season, and at least 1, if None.
        quantiles: Forecast quantiles by their probability.
        level: Confidence of intervals, in (0, 1).

    Raises:
        NotMeasurable: See `forecast`.
        InvalidSetting: See `forecast`.
    """
    observed = numbers(subject.outcomes, name="Outcomes")
    predicted = numbers(subject.predictions, name="Predictions", n_rows=len(observed))
    # the figures are drawn by blocks, so that is what has to be enough for an interval
    block = season if block is None else block
    subject = msgspec.structs.replace(subject, cluster=np.arange(len(observed)) // max(1, block))
    figures = forecast(
        observed,
        predicted,
        history=history,
        rng=rng,
        season=season,
        block=block,
        quantiles=quantiles,
        level=level,
    )
    return common_report(
        subject,
        ("forecast", figures),
        losses=np.abs(predicted - observed),
        loss=_absolute,
        threshold=None,
        rng=rng,
        level=level,
    )


def _certain(decided: Column, classes: Sequence[object]) -> Floats:
    place = {value: at for at, value in enumerate(classes)}
    found = np.zeros((len(decided), len(classes)))
    for row, value in enumerate(decided.tolist()):
        if value not in place:
            raise NotMeasurable(f"The decision {value!r} is none of the declared classes.")
        found[row, place[value]] = 1.0
    return found


def _wrong(outcomes: Column, predictions: Column) -> Floats:
    return wrong(outcomes.astype(object), predictions.astype(object))


def _absolute(outcomes: Column, predictions: Column) -> Floats:
    return np.abs(predictions.astype(np.float64) - outcomes.astype(np.float64))
