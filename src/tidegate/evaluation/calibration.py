"""Whether a predicted 30% happens in 30% of the cases, and how to mend it where it does not."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt

from tidegate.core.error import InvalidSetting
from tidegate.evaluation import metric
from tidegate.evaluation.estimate import Estimate, Floats, estimate_of
from tidegate.evaluation.metric import NotMeasurable
from tidegate.statistics.bootstrap import MIN_UNITS, percentile_interval, replicate_sums
from tidegate.statistics.interval import Interval, wilson

Method = Literal["isotonic", "platt"]
_EDGE = 1e-9
_MAX_STEPS = 100


class ReliabilityBin(msgspec.Struct, frozen=True):
    """Rows that were predicted alike.

    Attributes:
        n_rows: How many.
        predicted: Their mean predicted probability.
        observed: The share of them in which the event happened.
        low: Lower end of Wilson's interval of `observed`.
        high: Upper end.
    """

    n_rows: int
    predicted: float
    observed: float
    low: float
    high: float


class Calibration(msgspec.Struct, frozen=True):
    """How far predicted probabilities are from observed rates.

    Attributes:
        bins: The reliability table.
        plain: Expected calibration error as commonly reported: too high, the more so with few rows,
            because each bin's noise counts as error.
        debiased: The same less an estimate of what noise adds, with its interval. Where the truth is 0 it
            is still too high, by about half as much; `p_value` says whether there is an error at all.
        p_value: How often predictions that are perfectly calibrated would show at least this `plain`.
    """

    bins: tuple[ReliabilityBin, ...]
    plain: float
    debiased: Estimate
    p_value: float


def calibration(
    outcomes: npt.ArrayLike,
    predictions: npt.ArrayLike,
    *,
    rng: np.random.Generator,
    n_bins: int = 10,
    level: float = 0.95,
    n_replicates: int = 2000,
) -> Calibration:
    """Compare predicted and observed rates in bins of (nearly) equal count.

    The bootstrap of an error that cannot be negative is biased as the error itself is, so its interval
    is turned around the plain figure (the basic bootstrap) and reaches down to 0 wherever perfect
    calibration cannot be ruled out at `level`.

    Raises:
        NotMeasurable: See `metric.binary_report`.

    Source: debiasing after Kumar, Liang & Ma, NeurIPS 2019, with the mean of a folded normal in place
    of draws; consistency resampling: Broecker & Smith, Weather and Forecasting 22(3), 2007.
    """
    found = metric.calibration(outcomes, predictions, n_bins=n_bins)
    happened = np.asarray(outcomes, dtype=np.float64)
    predicted = np.asarray(predictions, dtype=np.float64)
    order = np.argsort(predicted, kind="stable")
    bounds = np.cumsum([0, *(each.n_rows for each in found)])
    group = np.repeat(np.arange(len(found)), np.diff(bounds))
    n = np.diff(bounds).astype(np.float64)
    gap = np.array([each.predicted - each.observed for each in found])
    plain = float((n * np.abs(gap)).sum() / n.sum())
    noise = np.array([math.sqrt(each.observed * (1 - each.observed) / each.n_rows) for each in found])
    excess = np.array([_folded_mean(abs(g), s) - abs(g) for g, s in zip(gap, noise, strict=True)])
    debiased = max(0.0, plain - float((n * excess).sum() / n.sum()))

    one_hot = np.zeros((len(predicted), len(found)))
    one_hot[np.arange(len(predicted)), group] = (predicted - happened)[order]
    resampled = np.abs(replicate_sums(one_hot, rng=rng, n_replicates=n_replicates)).sum(axis=1) / n.sum()
    null = _under_calibration(predicted[order], bounds, rng=rng, n_replicates=n_replicates)
    p_value = float((1 + (null >= plain).sum()) / (1 + n_replicates))
    spread = percentile_interval(resampled, level=level)
    assert spread is not None
    low = max(0.0, min(debiased, 2 * plain - spread.high)) if p_value <= 1 - level else 0.0
    interval = Interval(low, max(debiased, 2 * plain - spread.low)) if len(predicted) >= MIN_UNITS else None
    return Calibration(
        bins=tuple(_reliability(each, level) for each in found),
        plain=plain,
        debiased=estimate_of(
            "calibration_error",
            debiased,
            interval,
            method="bootstrap",
            n_rows=len(predicted),
            level=level,
            larger_is_better=False,
        ),
        p_value=p_value,
    )


def _reliability(each: metric.CalibrationBin, level: float) -> ReliabilityBin:
    within = wilson(round(each.observed * each.n_rows), each.n_rows, level=level)
    return ReliabilityBin(each.n_rows, each.predicted, each.observed, within.low, within.high)


def _folded_mean(centre: float, deviation: float) -> float:
    """Return E|N(centre, deviation^2)|."""
    if deviation == 0:
        return abs(centre)
    ratio = centre / deviation
    tail = math.exp(-ratio * ratio / 2) * math.sqrt(2 / math.pi)
    return deviation * tail + centre * math.erf(ratio / math.sqrt(2))


def _under_calibration(
    predicted: Floats, bounds: npt.NDArray[np.int64], *, rng: np.random.Generator, n_replicates: int
) -> Floats:
    """Return the plain error of outcomes drawn from the predictions themselves."""
    total = np.zeros(n_replicates)
    for start, end in pairwise(bounds):
        part = predicted[start:end]
        mean, variance = float(part.sum()), float((part * (1 - part)).sum())
        if variance < 25:
            draws = (rng.random((n_replicates, len(part)), dtype=np.float32) < part).sum(axis=1)
        else:  # a sum of so many draws is normal for all that matters here
            draws = rng.normal(mean, math.sqrt(variance), n_replicates)
        total += np.abs(draws - mean)
    return total / len(predicted)


class Recalibration(msgspec.Struct, frozen=True):
    """A rule that maps predicted probabilities to better ones: plain data, applied anywhere.

    Attributes:
        method: `isotonic` (steps, joined by lines) or `platt` (a logistic curve over the logit).
        x: isotonic: predicted probabilities, ascending. platt: (slope, intercept).
        y: isotonic: the probabilities to give for them. platt: empty.
    """

    method: Method
    x: tuple[float, ...]
    y: tuple[float, ...] = ()

    def apply(self, predictions: npt.ArrayLike) -> Floats:
        """Return recalibrated probabilities, the same shape."""
        given = np.asarray(predictions, dtype=np.float64)
        if self.method == "isotonic":
            return np.asarray(np.interp(given, self.x, self.y))
        slope, intercept = self.x
        return _logistic(slope * _logit(given) + intercept)


def fit_recalibration(
    outcomes: npt.ArrayLike, predictions: npt.ArrayLike, *, method: Method
) -> Recalibration:
    """Fit a recalibration to rows that the model was not trained on.

    Isotonic needs some hundred rows and can bend anywhere; Platt's two numbers do with few.

    Raises:
        NotMeasurable: See `metric.binary_report`; or Platt's curve does not settle.
        InvalidSetting: There is no such method.

    Source: pool adjacent violators: Barlow et al., 1972; Zadrozny & Elkan, KDD 2002. Platt, Advances
    in Large Margin Classifiers, 1999, with his smoothed targets.
    """
    metric.binary_report(outcomes, predictions)  # refuses what cannot be measured
    happened = np.asarray(outcomes, dtype=np.float64)
    predicted = np.asarray(predictions, dtype=np.float64)
    if method == "isotonic":
        return _isotonic(happened, predicted)
    if method == "platt":
        return _platt(happened, predicted)
    raise InvalidSetting(f"Recalibration is 'isotonic' or 'platt'. Got {method!r}.")


def choose_recalibration(
    outcomes: npt.ArrayLike, predictions: npt.ArrayLike, *, rng: np.random.Generator, n_folds: int = 5
) -> Recalibration | None:
    """Return the recalibration with the least cross-validated log loss; None where leaving it is best.

    Raises:
        NotMeasurable: See `fit_recalibration`; or there are fewer rows than folds.
    """
    happened = np.asarray(outcomes, dtype=np.float64)
    predicted = np.asarray(predictions, dtype=np.float64)
    best, choice = metric.log_loss(happened, predicted, floor=_EDGE), None
    if len(happened) < n_folds:
        raise NotMeasurable(f"{n_folds} folds need as many rows. Got {len(happened)}.")
    fold = rng.permutation(len(happened)) % n_folds
    methods: tuple[Method, ...] = ("platt", "isotonic")
    for method in methods:
        changed = np.empty(len(happened))
        for each in range(n_folds):
            held = fold == each
            rule = fit_recalibration(happened[~held], predicted[~held], method=method)
            changed[held] = rule.apply(predicted[held])
        # an isotonic 0 or 1 costs what the floor says; a finer floor would forbid it for one row
        loss = metric.log_loss(happened, changed.clip(0, 1), floor=_EDGE)
        if loss < best:
            best, choice = loss, method
    return None if choice is None else fit_recalibration(happened, predicted, method=choice)


def _isotonic(happened: Floats, predicted: Floats) -> Recalibration:
    values, group = np.unique(predicted, return_inverse=True)
    weights = np.bincount(group).astype(np.float64)
    means = np.bincount(group, weights=happened) / weights
    pools: list[tuple[float, float, int]] = []  # mean, weight, how many values
    for mean, weight in zip(means.tolist(), weights.tolist(), strict=True):
        size = 1
        while pools and pools[-1][0] >= mean:
            before, before_weight, before_size = pools.pop()
            mean = (mean * weight + before * before_weight) / (weight + before_weight)  # noqa: PLW2901
            weight += before_weight  # noqa: PLW2901  # the pool grows by what it swallowed
            size += before_size
        pools.append((mean, weight, size))
    x: list[float] = []
    y: list[float] = []
    start = 0
    for mean, _, size in pools:
        ends = (values[start], values[start + size - 1])
        x += [float(value) for value in dict.fromkeys(ends)]
        y += [min(1.0, max(0.0, mean))] * len(set(ends))
        start += size
    return Recalibration("isotonic", tuple(x), tuple(y))


def _platt(happened: Floats, predicted: Floats) -> Recalibration:
    n_events = float(happened.sum())
    n_others = len(happened) - n_events
    target = np.where(happened > 0, (n_events + 1) / (n_events + 2), 1 / (n_others + 2))
    score = np.column_stack([_logit(predicted), np.ones(len(predicted))])
    if np.ptp(score[:, 0]) == 0:  # one prediction: there is no slope, only a level
        rate = float(target.mean())
        return Recalibration("platt", (0.0, math.log(rate / (1 - rate))))
    line = np.array([1.0, 0.0])
    loss = _cross_entropy(score @ line, target)
    for _ in range(_MAX_STEPS):
        given = _logistic(score @ line)
        curvature = (score * (given * (1 - given))[:, None]).T @ score + 1e-10 * np.eye(2)
        step = np.linalg.solve(curvature, score.T @ (given - target))
        size = 1.0
        while (after := _cross_entropy(score @ (line - size * step), target)) > loss and size > 1e-10:
            size /= 2
        line, loss = line - size * step, after
        if float(np.abs(size * step).max()) < 1e-9:
            return Recalibration("platt", (float(line[0]), float(line[1])))
    raise NotMeasurable("Platt's curve does not settle on these rows.", hint="Use isotonic instead.")


def _cross_entropy(scores: Floats, target: Floats) -> float:
    return float((np.logaddexp(0, scores) - target * scores).sum())


def _logit(probabilities: Floats) -> Floats:
    inside = np.clip(probabilities, _EDGE, 1 - _EDGE)
    return np.asarray(np.log(inside / (1 - inside)))


def _logistic(scores: Floats) -> Floats:
    return np.asarray(0.5 * (1 + np.tanh(scores / 2)))
