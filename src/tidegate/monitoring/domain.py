"""What tells a window from the reference, all fields together: a classifier, its AUC, its density ratio."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt
import polars as pl

from tidegate.core.error import InvalidSetting
from tidegate.evaluation.metric import auc
from tidegate.monitoring.estimate import BLIND_DLE, Estimated
from tidegate.monitoring.profile import codes_of, grids_of
from tidegate.statistics.special import student_quantile
from tidegate.training.linear import fit_linear, fit_logistic, probability

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

_N_BINS = 8
_MAX_CATEGORIES = 20
_SAMPLE = 15_000
"""Rows of each side that a classifier of some 150 terms learns from: more would tell it no more."""
_GREATEST_RATIO = 50.0
_N_PERMUTATIONS = 500


class TwoSample(msgspec.Struct, frozen=True):
    """Whether a window can be told from the reference at all.

    Attributes:
        auc: Of a classifier on days that it had not seen; 0.5: not at all.
        p_value: Share of the ways to exchange the days in which it is as high.
        telling: Fields that tell most, the most telling first.
    """

    auc: float
    p_value: float
    telling: tuple[str, ...]


class Design:
    """Bins of the reference as a matrix of zeros and ones."""

    def __init__(self, table: pl.DataFrame, fields: Sequence[str]) -> None:
        """Choose bins: an eighth of the reference's values each, the 20 most frequent categories."""
        self.grids = grids_of(table, fields, n_bins=_N_BINS, max_categories=_MAX_CATEGORIES)
        self.n_terms = 1 + sum(grid.n_bins for grid in self.grids.values())

    def matrix(self, table: pl.DataFrame) -> Floats:
        """Return the design matrix, shape (n_rows, n_terms); the first column is all ones."""
        found = np.zeros((table.height, self.n_terms))
        found[:, 0] = 1
        rows, place = np.arange(table.height), 1
        for name, grid in self.grids.items():
            found[rows, place + codes_of(table[name], grid)] = 1
            place += grid.n_bins
        return found

    def weights_by_field(self, beta: Floats) -> dict[str, float]:
        """Return by how much each field's terms differ: the spread of their coefficients."""
        found, place = {}, 1
        for name, grid in self.grids.items():
            found[name] = float(np.ptp(beta[place : place + grid.n_bins]))
            place += grid.n_bins
        return found


def density_ratio(
    design: Design, reference: pl.DataFrame, window: pl.DataFrame, *, rng: np.random.Generator
) -> Floats:
    """Return the window's density over the reference's, at each row of the reference.

    w(x) = (n_s / n_t) g(x) / (1 - g(x)), g the probability that a row is of the window. Ratios above
    50 are cut: they rest on next to no rows.

    Args:
        design: Bins of the reference.
        reference: Its rows.
        window: The window's rows, at least one.
        rng: Chooses the rows to learn from.

    Source: Bickel, Brueckner & Scheffer, JMLR 10, 2009; as used by PAPE, arXiv 2401.08348.
    """
    source, target = _sampled(reference, rng), _sampled(window, rng)
    matrix = np.concatenate([design.matrix(source), design.matrix(target)])
    marks = np.r_[np.zeros(source.height), np.ones(target.height)]
    beta = fit_logistic(matrix, marks, ridge=5.0)
    log_odds = np.concatenate(
        [design.matrix(part) @ beta for part in reference.iter_slices(_SAMPLE)] or [np.zeros(0)]
    )
    ratio = np.exp(np.clip(log_odds, -30, 30)) * source.height / target.height
    return np.asarray(np.minimum(ratio, _GREATEST_RATIO))


def two_sample(
    design: Design,
    reference: pl.DataFrame,
    window: pl.DataFrame,
    *,
    reference_day: Integers,
    window_day: Integers,
    rng: np.random.Generator,
) -> TwoSample:
    """Train a classifier on half of the days of each side and test it on the other half.

    The p-value exchanges whole days of the test half, since rows of a day resemble each other.

    Args:
        design: Bins of the reference.
        reference: Its rows.
        window: The window's rows.
        reference_day: Number of each reference row's day.
        window_day: The same of the window; at least two days.
        rng: Source of randomness.

    Raises:
        InvalidSetting: A side has fewer than two days.

    Source: Lopez-Paz & Oquab, Revisiting classifier two-sample tests, ICLR 2017.
    """
    halves = [_halves(days, rng) for days in (reference_day, window_day)]
    train = [_sampled(t.filter(pl.Series(h)), rng) for t, h in zip((reference, window), halves, strict=True)]
    beta = fit_logistic(
        np.concatenate([design.matrix(part) for part in train]),
        np.r_[np.zeros(train[0].height), np.ones(train[1].height)],
        ridge=5.0,
    )
    scores, days, is_window = [], [], []
    for side, (table, half, day) in enumerate(
        zip((reference, window), halves, (reference_day, window_day), strict=True)
    ):
        rest = np.flatnonzero(~half)
        if len(rest) > _SAMPLE:
            rest = rng.choice(rest, _SAMPLE, replace=False)
        scores.append(probability(design.matrix(table[rest]) @ beta))
        days.append(day[rest] * 2 + side)
        is_window.append(np.full(len(rest), side == 1))
    score, marks = np.concatenate(scores), np.concatenate(is_window)
    value = auc(marks, score)
    _, day_of_row = np.unique(np.concatenate(days), return_inverse=True)
    ranks = np.argsort(np.argsort(score)) + 1.0
    sums, rows = np.bincount(day_of_row, weights=ranks).astype(np.float64), np.bincount(day_of_row)
    of_window = np.zeros(len(rows), np.bool_)
    of_window[day_of_row[marks]] = True
    above = sum(
        _auc_of_days(sums, rows, rng.permutation(of_window)) >= value - 1e-12 for _ in range(_N_PERMUTATIONS)
    )
    weights = design.weights_by_field(beta)
    telling = tuple(sorted(weights, key=lambda name: -weights[name])[:3])
    return TwoSample(value, (1 + above) / (1 + _N_PERMUTATIONS), telling)


def _auc_of_days(sums: Floats, rows: Integers, chosen: npt.NDArray[np.bool_]) -> float:
    n, m = float(rows[chosen].sum()), float(rows[~chosen].sum())
    return float((sums[chosen].sum() - n * (n + 1) / 2) / (n * m))


def _halves(days: Integers, rng: np.random.Generator) -> npt.NDArray[np.bool_]:
    present = np.unique(days)
    if len(present) < 2:
        raise InvalidSetting("A two-sample test by days needs two days on each side.")
    return np.isin(days, rng.permutation(present)[: len(present) // 2])


def _sampled(table: pl.DataFrame, rng: np.random.Generator) -> pl.DataFrame:
    if table.height <= _SAMPLE:
        return table
    return table[np.sort(rng.choice(table.height, _SAMPLE, replace=False))]


class ErrorModel:
    """DLE: how large the error is, learned from the inputs and the answer."""

    def __init__(
        self,
        reference: pl.DataFrame,
        errors: Floats,
        *,
        fields: Sequence[str],
        chunk: Integers,
        level: float = 0.9,
        metric: str = "mae",
    ) -> None:
        """Learn from labelled rows.

        Args:
            reference: Inputs and answers.
            errors: |y - f| of each row, (y - f)² for `rmse`, 1 where a class was wrong.
            fields: Columns to learn from; the answer should be one of them.
            chunk: Number of each row's stretch of time, from 0: each is estimated from the others,
                and the quantile of what that misses is the interval. Of one stretch there is only the
                chance of the errors.
            level: Confidence, in (0, 1).
            metric: `mae`, `rmse` (the root of the mean) or `error_rate`.
        """
        self.level, self.metric = level, metric
        self._design = Design(reference, fields)
        matrix = self._design.matrix(reference)
        self._beta = fit_linear(matrix, errors)
        present = np.unique(chunk)
        misses = []
        for each in present if len(present) > 1 else ():
            held = chunk == each
            beta = fit_linear(matrix[~held], errors[~held])
            misses.append(abs(float((matrix[held] @ beta).mean() - errors[held].mean())))
        chance = student_quantile(0.5 + level / 2, max(1, len(errors) - 1)) * float(errors.std())
        self.half_width = (
            conformal_quantile(misses, level=level) if misses else chance / max(1.0, len(errors) ** 0.5)
        )

    def estimate(self, table: pl.DataFrame) -> Estimated:
        """Estimate the mean error of a window."""
        value = float(self.expected(table).mean())
        ends = [max(0.0, value - self.half_width), value, value + self.half_width]
        low, middle, high = np.sqrt(ends).tolist() if self.metric == "rmse" else ends
        if self.metric == "error_rate":
            high = min(1.0, high)
        return Estimated(self.metric, middle, low, high, self.level, "dle", table.height, BLIND_DLE)

    def expected(self, table: pl.DataFrame) -> Floats:
        """Return the error that is expected of each row, >= 0."""
        return np.asarray(np.maximum(self._design.matrix(table) @ self._beta, 0.0))


def conformal_quantile(misses: Sequence[float], *, level: float) -> float:
    """Return the size that the next miss does not exceed with probability `level`; the largest of few.

    Source: Vovk, Gammerman & Shafer, 2005: the ceil((n + 1) level)-th smallest of n.
    """
    if not misses:
        return float("inf")
    place = int(np.ceil((len(misses) + 1) * level)) - 1
    return float(sorted(misses)[min(place, len(misses) - 1)])
