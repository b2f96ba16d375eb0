"""Figures of classifiers, binary and with more classes, each with an interval."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tidegate.core.error import InvalidSetting
from tidegate.evaluation import metric
from tidegate.evaluation.estimate import Column, Estimate, Figure, Floats, estimate_of, resampled
from tidegate.evaluation.metric import NotMeasurable
from tidegate.statistics.bootstrap import MIN_UNITS, percentile_interval
from tidegate.statistics.interval import Interval, wilson
from tidegate.statistics.special import normal_quantile

_FLOOR = 1e-15


def binary(
    outcomes: npt.ArrayLike,
    predictions: npt.ArrayLike,
    *,
    rng: np.random.Generator,
    threshold: float = 0.5,
    level: float = 0.95,
    cluster: npt.NDArray[np.int64] | None = None,
) -> tuple[Estimate, ...]:
    """Measure probabilities of an event, and the decisions `prediction >= threshold` made from them.

    AUC with DeLong's interval; shares (accuracy, precision, recall, specificity) with Wilson's; log
    loss, Brier score, F1 and Matthews correlation with a bootstrap. Where rows belong together, all by a
    bootstrap of whole clusters.

    Args:
        outcomes: 0 or 1 (or bool), shape (n_rows,).
        predictions: Probabilities, shape (n_rows,).
        rng: Source of randomness of the bootstrap.
        threshold: Where a decision turns positive, in [0, 1].
        level: Confidence, in (0, 1).
        cluster: Which rows belong together, integers from 0; None: rows are independent.

    Raises:
        NotMeasurable: See `metric.binary_report`.
    """
    report = metric.binary_report(outcomes, predictions)
    happened = np.asarray(outcomes).astype(np.bool_)
    predicted = np.asarray(predictions, dtype=np.float64)
    decided = predicted >= threshold
    cells = np.stack(
        [happened & decided, ~happened & decided, happened & ~decided, ~happened & ~decided], axis=1
    )
    likelihood = np.maximum(np.where(happened, predicted, 1 - predicted), _FLOOR)
    terms = np.column_stack([cells, np.square(predicted - happened), -np.log(likelihood)])
    figures: dict[str, tuple[Figure, bool | None]] = {
        "log_loss": (lambda s: s[:, 5] / s[:, :4].sum(axis=1), False),
        "brier": (lambda s: s[:, 4] / s[:, :4].sum(axis=1), False),
        "f1": (lambda s: 2 * s[:, 0] / (2 * s[:, 0] + s[:, 1] + s[:, 2]), True),
        "matthews": (_matthews, True),
    }
    if cluster is not None:
        figures |= _SHARES
    interval = None
    if not np.isnan(report.auc):
        interval = (
            delong(happened, predicted, level=level)
            if cluster is None
            else _clustered_auc(happened, predicted, cluster, rng=rng, level=level)
        )
    area = estimate_of(
        "auc",
        report.auc,
        interval,
        method="delong" if cluster is None else "bootstrap",
        n_rows=report.n_rows,
        level=level,
        larger_is_better=True,
    )
    found = (area, *resampled(terms, figures, rng=rng, level=level, cluster=cluster))
    if cluster is not None:
        return found
    tp, fp, fn, tn = (int(count) for count in cells.sum(axis=0))
    return (
        *found,
        share("accuracy", tp + tn, tp + fp + fn + tn, level=level),
        share("precision", tp, tp + fp, level=level),
        share("recall", tp, tp + fn, level=level),
        share("specificity", tn, tn + fp, level=level),
    )


_SHARES: dict[str, tuple[Figure, bool | None]] = {
    "accuracy": (lambda s: (s[:, 0] + s[:, 3]) / s[:, :4].sum(axis=1), True),
    "precision": (lambda s: s[:, 0] / (s[:, 0] + s[:, 1]), True),
    "recall": (lambda s: s[:, 0] / (s[:, 0] + s[:, 2]), True),
    "specificity": (lambda s: s[:, 3] / (s[:, 3] + s[:, 1]), True),
}


def _clustered_auc(
    happened: npt.NDArray[np.bool_],
    predicted: Floats,
    cluster: npt.NDArray[np.int64],
    *,
    rng: np.random.Generator,
    level: float,
    n_replicates: int = 500,
) -> Interval | None:
    """Return the interval of the AUC from draws of whole clusters; None where they are too few."""
    present, place = np.unique(cluster, return_inverse=True)
    if len(present) < MIN_UNITS:
        return None
    _, group = np.unique(predicted, return_inverse=True)
    n_groups, n_clusters = int(group.max()) + 1, len(present)
    events, others = np.flatnonzero(happened), np.flatnonzero(~happened)
    areas = np.empty(n_replicates)
    for each in range(n_replicates):
        drawn = np.bincount(rng.integers(0, n_clusters, n_clusters), minlength=n_clusters).astype(np.float64)
        up = np.bincount(group[events], weights=drawn[place[events]], minlength=n_groups)
        down = np.bincount(group[others], weights=drawn[place[others]], minlength=n_groups)
        pairs = up.sum() * down.sum()
        areas[each] = (up * (np.cumsum(down) - down / 2)).sum() / pairs if pairs else np.nan
    return percentile_interval(areas, level=level)


def share(
    name: str, successes: int, n_rows: int, *, level: float = 0.95, larger_is_better: bool | None = True
) -> Estimate:
    """Return a proportion with Wilson's interval; its value is None where `n_rows` is 0."""
    return estimate_of(
        name,
        successes / n_rows if n_rows else float("nan"),
        wilson(successes, n_rows, level=level),
        method="wilson",
        n_rows=n_rows,
        level=level,
        larger_is_better=larger_is_better,
    )


def delong(happened: npt.NDArray[np.bool_], predicted: Floats, *, level: float = 0.95) -> Interval | None:
    """Return the interval of the AUC, from its exact variance components, on the logit scale.

    Returns None where the scale has no interval: an AUC of 0 or 1, or fewer than two of a kind.

    Args:
        happened: Outcomes, shape (n_rows,).
        predicted: Scores, shape (n_rows,).
        level: Confidence, in (0, 1).

    Source: DeLong, DeLong & Clarke-Pearson, Biometrics 44(3), 1988; by mid-ranks as in Sun & Xu,
    IEEE Signal Processing Letters 21(11), 2014; logit scale: Pepe, 2003, section 5.2.
    """
    events, others = predicted[happened], predicted[~happened]
    m, n = len(events), len(others)
    if m < 2 or n < 2:
        return None
    # share of the other kind that each row beats, ties half
    beats = (_mid_ranks(predicted)[happened] - _mid_ranks(events)) / n
    beaten = 1 - (_mid_ranks(predicted)[~happened] - _mid_ranks(others)) / m
    area = float(beats.mean())
    if area in (0.0, 1.0):
        return None
    deviation = np.sqrt(beats.var(ddof=1) / m + beaten.var(ddof=1) / n)
    half = normal_quantile(0.5 + level / 2) * deviation / (area * (1 - area))
    centre = np.log(area / (1 - area))
    low, high = 1 / (1 + np.exp(-(centre - half))), 1 / (1 + np.exp(-(centre + half)))
    return Interval(float(low), float(high))


def multiclass(
    outcomes: npt.ArrayLike,
    probabilities: npt.ArrayLike,
    classes: Sequence[object],
    *,
    rng: np.random.Generator,
    level: float = 0.95,
    n_replicates: int = 2000,
) -> tuple[Estimate, ...]:
    """Measure probabilities over several classes, and the decision for the likeliest.

    Accuracy, and recall and precision per class (`recall[name]`), with Wilson's interval; log loss,
    macro F1, balanced accuracy and Cohen's kappa with a bootstrap. A class that is in neither
    outcomes nor decisions counts 0 in macro F1; one that is not in the outcomes does not enter
    balanced accuracy (both as scikit-learn has it).

    Args:
        outcomes: The true class of each row, values of `classes`, shape (n_rows,).
        probabilities: Shape (n_rows, n_classes), rows sum to 1, columns in the order of `classes`.
        classes: All classes, at least two, without repeats.
        rng: Source of randomness of the bootstrap.
        level: Confidence, in (0, 1).
        n_replicates: Replicates of the bootstrap.

    Raises:
        NotMeasurable: Shapes do not fit, an outcome is not among the classes, or a row of
            probabilities does not sum to 1 within 1e-3.
        InvalidSetting: There are fewer than two classes, or one twice.
    """
    truth, given = _checked_classes(outcomes, probabilities, classes)
    n_rows, n = given.shape
    decided = given.argmax(axis=1)
    table = np.bincount(truth * n + decided, minlength=n * n)
    # the confusion table is all these figures need, and its resamples are multinomial, exactly
    drawn = rng.multinomial(n_rows, table / n_rows, size=n_replicates)
    tables = np.concatenate([table[None], drawn]).reshape(-1, n, n).astype(np.float64)
    found = [share("accuracy", int(np.trace(table.reshape(n, n))), n_rows, level=level)]
    with np.errstate(divide="ignore", invalid="ignore"):
        for name, figure in (("balanced_accuracy", _balanced), ("macro_f1", _macro_f1), ("kappa", _kappa)):
            values = figure(tables)
            found.append(
                estimate_of(
                    name,
                    float(values[0]),
                    percentile_interval(values[1:], level=level) if n_rows >= MIN_UNITS else None,
                    method="bootstrap",
                    n_rows=n_rows,
                    level=level,
                    larger_is_better=True,
                )
            )
    likelihood = np.maximum(given[np.arange(n_rows), truth], _FLOOR)
    terms = np.column_stack([-np.log(likelihood), np.ones(n_rows)])
    found.extend(resampled(terms, {"log_loss": (lambda s: s[:, 0] / s[:, 1], False)}, rng=rng, level=level))
    square = table.reshape(n, n)
    for i, each in enumerate(classes):
        found.append(share(f"recall[{each}]", int(square[i, i]), int(square[i].sum()), level=level))
        found.append(share(f"precision[{each}]", int(square[i, i]), int(square[:, i].sum()), level=level))
    return tuple(found)


def _checked_classes(
    outcomes: npt.ArrayLike, probabilities: npt.ArrayLike, classes: Sequence[object]
) -> tuple[npt.NDArray[np.int64], Floats]:
    place = {name: i for i, name in enumerate(classes)}
    if len(classes) < 2 or len(place) < len(classes):
        raise InvalidSetting(f"There must be at least two different classes. Got {list(classes)!r}.")
    given = np.asarray(probabilities, dtype=np.float64)
    truth: Column = np.asarray(outcomes)
    if truth.ndim != 1 or not truth.size or given.shape != (len(truth), len(classes)):
        raise NotMeasurable(
            f"Probabilities must have a row per outcome and a column per class. Got {given.shape} for "
            f"outcomes of shape {truth.shape} and {len(classes)} classes.",
        )
    if not bool((np.abs(given.sum(axis=1) - 1) <= 1e-3).all()) or not bool((given >= 0).all()):
        raise NotMeasurable("Each row of probabilities must be >= 0 and sum to 1.")
    index = np.fromiter((place.get(value, -1) for value in truth.tolist()), np.int64, len(truth))
    if (index < 0).any():
        raise NotMeasurable(f"{int((index < 0).sum())} outcomes are not among the declared classes.")
    return index, given


def _mid_ranks(values: Floats) -> Floats:
    _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: Floats = (np.cumsum(counts) - (counts - 1) / 2)[group]
    return ranks


def _matthews(s: Floats) -> Floats:
    tp, fp, fn, tn = s[:, 0], s[:, 1], s[:, 2], s[:, 3]
    product: Floats = (tp * tn - fp * fn) / np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    return product


def _balanced(tables: Floats) -> Floats:
    recalls = np.diagonal(tables, axis1=1, axis2=2) / tables.sum(axis=2)
    return np.asarray(np.nansum(recalls, axis=1) / np.isfinite(recalls).sum(axis=1))


def _macro_f1(tables: Floats) -> Floats:
    hits = np.diagonal(tables, axis1=1, axis2=2)
    total = tables.sum(axis=1) + tables.sum(axis=2)
    return np.asarray(np.where(total > 0, 2 * hits / np.maximum(total, 1), 0.0).mean(axis=1))


def _kappa(tables: Floats) -> Floats:
    n = tables.sum(axis=(1, 2))
    chance = (tables.sum(axis=1) * tables.sum(axis=2)).sum(axis=1) / (n * n)
    agreed = np.trace(tables, axis1=1, axis2=2) / n
    return np.asarray((agreed - chance) / (1 - chance))
