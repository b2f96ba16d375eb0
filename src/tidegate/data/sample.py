"""Samples whose weights keep estimates unbiased: each row counts for as many as it stands for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from tidegate.core.error import InvalidSetting
from tidegate.data.split import strata

Floats = npt.NDArray[np.float64]


class Sample(NamedTuple):
    """Drawn rows and what each stands for.

    The sum of weight times value estimates the total of the whole table without bias, whatever the
    design (Horvitz & Thompson, JASA 47, 1952); a row of probability zero could not be estimated, and is
    refused.

    Attributes:
        rows: Row numbers, ascending, each at most once.
        weights: One over the probability with which the row was drawn.
    """

    rows: npt.NDArray[np.int64]
    weights: Floats

    def total(self, values: npt.ArrayLike) -> float:
        """Estimate the sum of `values`, which has one for each row of the table."""
        return float((np.asarray(values, np.float64)[self.rows] * self.weights).sum())

    def mean(self, values: npt.ArrayLike) -> float:
        """Estimate the mean of `values`: the total over the estimated number of rows (Hajek); NaN for none.

        Its bias goes with 1/n; in exchange it does not jump when the sample's size does.
        """
        n_rows = self.weights.sum()
        return self.total(values) / float(n_rows) if n_rows else float("nan")


def uniform_sample(n_rows: int, n_drawn: int, *, seed: int) -> Sample:
    """Draw rows without replacement, each with the same probability.

    Raises:
        InvalidSetting: More are asked for than there are, or none of some.
    """
    _check_size(n_rows, n_drawn)
    rows = np.random.default_rng(seed).choice(n_rows, n_drawn, replace=False)
    return Sample(np.sort(rows).astype(np.int64), np.full(n_drawn, n_rows / max(n_drawn, 1)))


def stratified_sample(table: pl.DataFrame, columns: Sequence[str], *, per_stratum: int, seed: int) -> Sample:
    """Draw up to `per_stratum` rows of each combination of values: rare ones are seen, and weigh less.

    Raises:
        InvalidSetting: `per_stratum` is below 1.
    """
    if per_stratum < 1:
        raise InvalidSetting(f"Draw at least one row of each stratum. Got {per_stratum}.")
    draw = np.random.default_rng(seed)
    rows, weights = [], []
    for members in strata(table, columns):
        n_drawn = min(per_stratum, len(members))
        rows.append(draw.choice(members, n_drawn, replace=False))
        weights.append(np.full(n_drawn, len(members) / n_drawn))
    return _ordered(rows, weights)


def _ordered(rows: list[npt.NDArray[np.int64]], weights: list[Floats]) -> Sample:
    if not rows:
        return Sample(np.empty(0, np.int64), np.empty(0))
    joined = np.concatenate(rows)
    order = np.argsort(joined)
    return Sample(joined[order], np.concatenate(weights)[order])


def weighted_sample(sizes: npt.ArrayLike, n_drawn: int, *, seed: int) -> Sample:
    """Draw exactly `n_drawn` rows with probabilities proportional to `sizes`, without replacement.

    A row so large that its probability would exceed 1 is always drawn, and the others share the rest.
    Rows are shuffled first, so that no order of the table matters.

    Args:
        sizes: One for each row, positive: what the row is likely to contribute.
        n_drawn: How many.
        seed: Of the draw.

    Raises:
        InvalidSetting: A size is not positive and finite, or more are asked for than there are.

    Source: systematic sampling with unequal probabilities, Madow, Ann. Math. Stat. 20(3), 1949.
    """
    size = np.asarray(sizes, np.float64)
    _check_size(len(size), n_drawn)
    if not (np.isfinite(size) & (size > 0)).all():
        raise InvalidSetting(
            "Every row needs a positive, finite size: a row that is never drawn cannot be estimated.",
            hint="Add a small constant to all sizes.",
        )
    draw = np.random.default_rng(seed)
    chance = inclusion_probabilities(size, n_drawn)
    order = draw.permutation(len(size))
    ends = np.cumsum(chance[order])
    # Every point u, u + 1, ... falls into one row's interval; at most one into each, as none exceeds 1.
    points = draw.random() + np.arange(n_drawn)
    places = np.minimum(np.searchsorted(ends, points, side="right"), len(size) - 1)
    rows = np.unique(order[places]).astype(np.int64)
    return Sample(rows, 1 / chance[rows])


def inclusion_probabilities(sizes: Floats, n_drawn: int) -> Floats:
    """Return each row's probability, in (0, 1] and summing to `n_drawn`, proportional to size below 1."""
    chance = np.zeros(len(sizes))
    sure = np.zeros(len(sizes), np.bool_)
    while True:
        n_left = n_drawn - int(sure.sum())
        rest = sizes[~sure].sum()
        chance[sure] = 1.0
        chance[~sure] = n_left * sizes[~sure] / rest if rest else 0.0
        over = (chance >= 1.0) & ~sure
        if not over.any():
            return chance
        sure |= over


def reservoir_sample(rows: Iterable[object], n_drawn: int, *, seed: int) -> tuple[list[object], float]:
    """Draw from a stream whose length nobody knows, each row with the same probability, in one pass.

    Returns:
        The drawn rows, in no order, and the weight that each of them has.

    Raises:
        InvalidSetting: `n_drawn` is below 1.

    Source: algorithm R, Vitter, ACM TOMS 11(1), 1985.
    """
    if n_drawn < 1:
        raise InvalidSetting(f"Draw at least one row. Got {n_drawn}.")
    draw = np.random.default_rng(seed)
    kept: list[object] = []
    n_seen = 0
    for n_seen, row in enumerate(rows, 1):
        if len(kept) < n_drawn:
            kept.append(row)
        elif (place := int(draw.integers(n_seen))) < n_drawn:
            kept[place] = row
    return kept, n_seen / len(kept) if kept else 0.0


def _check_size(n_rows: int, n_drawn: int) -> None:
    if not 0 <= n_drawn <= n_rows or (n_rows and not n_drawn):
        raise InvalidSetting(f"{n_drawn} of {n_rows} rows cannot be drawn.", hint="Draw 1 to all of them.")
