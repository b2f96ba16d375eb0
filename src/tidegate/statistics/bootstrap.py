"""The bootstrap of figures that are functions of sums over rows, all replicates at once.

Means, ratios, squared errors, shares explained: nearly every figure is one. Replicates of the sums
are a matrix product of resampling counts and rows, so thousands cost milliseconds.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from tidegate.core.error import InvalidSetting
from tidegate.statistics.interval import Interval, check_counts

Floats = npt.NDArray[np.float64]

N_REPLICATES = 2000
# The variance of the sum is read off this many units with a standard error of 1.1%, which no reader
# of an interval sees; beyond it the cost would grow with the rows and the answer would not.
MAX_UNITS = 4096
MIN_UNITS = 10
"""From fewer rows or groups no interval is drawn: a bootstrap of a handful is too sure of itself."""
_CHUNK = 32  # counts of a chunk stay in the processor's cache: twice as fast as 256


def count_units(n_rows: int, cluster: npt.NDArray[np.int64] | None = None) -> int:
    """Return how many pieces of independent evidence rows are: themselves, or their clusters."""
    return n_rows if cluster is None else len(np.unique(cluster))


def replicate_sums(
    terms: npt.ArrayLike,
    *,
    rng: np.random.Generator,
    n_replicates: int = N_REPLICATES,
    cluster: npt.NDArray[np.int64] | None = None,
) -> Floats:
    """Return the sums of `terms` over resampled rows.

    Above `MAX_UNITS` rows, rows are first put at random into that many groups of (nearly) equal
    size, and groups are resampled: the sums have the same variance in expectation.

    Args:
        terms: What each row adds to each sum, shape (n_rows, n_sums). Put a column of ones among
            them where a figure divides by the number of rows: with groups it varies.
        rng: Source of randomness.
        n_replicates: How many replicates.
        cluster: Which rows belong together (a customer, a query), as integers from 0, shape
            (n_rows,); clusters are resampled instead of rows. None: rows are independent.

    Returns:
        Shape (n_replicates, n_sums).

    Raises:
        InvalidSetting: There are no rows, or `terms` is no matrix.

    Source: Efron, Annals of Statistics 7(1), 1979; for clusters Davison & Hinkley, Bootstrap
    Methods and their Application, 1997, section 3.8.
    """
    rows = np.asarray(terms, dtype=np.float64)
    if rows.ndim != 2 or not len(rows):
        raise InvalidSetting(f"The bootstrap takes a matrix with at least one row. Got shape {rows.shape}.")
    if cluster is not None:
        rows = _summed(rows, cluster)
    if len(rows) > MAX_UNITS:
        rows = _summed(rows, rng.permutation(len(rows)) % MAX_UNITS)
    n_units = len(rows)
    sums = np.empty((n_replicates, rows.shape[1]))
    for start in range(0, n_replicates, _CHUNK):
        n = min(_CHUNK, n_replicates - start)
        drawn = rng.integers(0, n_units, size=(n, n_units)) + (np.arange(n) * n_units)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=n * n_units).reshape(n, n_units)
        sums[start : start + n] = counts.astype(np.float64) @ rows
    return sums


def percentile_interval(replicates: npt.ArrayLike, *, level: float = 0.95) -> Interval | None:
    """Return the middle `level` of the replicates; None where fewer than half are defined.

    Replicates that are not finite (a resample without any event has no recall) are left out.

    Raises:
        InvalidSetting: The level is not in (0, 1).
    """
    check_counts(0, 0, level=level)
    values = np.asarray(replicates, dtype=np.float64)
    finite = values[np.isfinite(values)]
    if 2 * len(finite) < len(values) or not len(finite):
        return None
    low, high = np.quantile(finite, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))


def bootstrap(
    terms: npt.ArrayLike,
    figure: Callable[[Floats], Floats],
    *,
    rng: np.random.Generator,
    level: float = 0.95,
    n_replicates: int = N_REPLICATES,
    cluster: npt.NDArray[np.int64] | None = None,
) -> Interval | None:
    """Return the percentile interval of `figure`, which maps sums (k, n_sums) to figures (k,).

    Returns:
        The interval; None of fewer than `MIN_UNITS` rows or clusters, and where too few replicates are
        defined.

    Raises:
        InvalidSetting: See `replicate_sums` and `percentile_interval`.
    """
    if count_units(len(np.asarray(terms)), cluster) < MIN_UNITS:
        return None
    sums = replicate_sums(terms, rng=rng, n_replicates=n_replicates, cluster=cluster)
    with np.errstate(divide="ignore", invalid="ignore"):
        return percentile_interval(figure(sums), level=level)


def _summed(rows: Floats, group: npt.NDArray[np.int64]) -> Floats:
    if group.shape != (len(rows),):
        raise InvalidSetting(f"One cluster a row. Got {group.shape} for {len(rows)} rows.")
    present, index = np.unique(group, return_inverse=True)
    return np.stack([np.bincount(index, weights=column, minlength=len(present)) for column in rows.T], axis=1)
