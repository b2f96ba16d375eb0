"""Histograms anchored on a reference: counts that merge by addition into what one would have seen.

The bins are fixed once, at quantiles of the reference, so that windows, workers and machines count
into the same ones. Whatever is no value of the reference has a bin: below its least, above its
greatest, a category it lacks, missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from tidegate.core.error import InvalidSetting

Counts = npt.NDArray[np.int64]
Column = npt.NDArray[Any]

N_BINS = 20
"""|D - D_grid| <= 1 / N_BINS: a Kolmogorov distance is known to 0.05, and a profile of 20 fields is 4 kB."""
MAX_CATEGORIES = 100
_CHUNK = 1 << 15  # values and their bins stay in the processor's cache
_N_OUTER = 3  # below, above, missing


class NumberGrid(msgspec.Struct, frozen=True, tag="number"):
    """Bins of a number.

    Attributes:
        cuts: Least number of each bin, ascending, and the least number above the last one. The first
            is the reference's minimum.
    """

    cuts: tuple[float, ...]

    @property
    def n_bins(self) -> int:
        """Number of bins: below, one for each cut but the last, above, missing."""
        return len(self.cuts) - 1 + _N_OUTER

    @property
    def names(self) -> tuple[str, ...]:
        """What each bin holds, in words."""
        pairs = zip(self.cuts[:-1], self.cuts[1:], strict=True)
        inner = (
            f"{low:.4g}" if high <= np.nextafter(low, np.inf) else f"{low:.4g} to {high:.4g}"
            for low, high in pairs
        )
        return (f"below {self.cuts[0]:.4g}", *inner, f"above {self.cuts[-1]:.4g}", "missing")

    def codes(self, values: Column) -> npt.NDArray[np.intp]:
        """Return the bin of each value; what is no number is missing.

        Args:
            values: Numbers, truth values or object columns with None, shape (n_rows,).
        """
        numbers = np.asarray(values, dtype=np.float64)
        codes = np.searchsorted(np.asarray(self.cuts), numbers, side="right")
        codes[np.isnan(numbers)] = self.n_bins - 1
        return codes

    def count(self, values: Column) -> Counts:
        """Return how many values fall into each bin, shape (n_bins,)."""
        cuts = np.asarray(self.cuts)
        if values.dtype == np.float32 and bool((cuts == cuts.astype(np.float32)).all()):
            cuts = cuts.astype(np.float32)
        elif values.dtype != np.float64:
            values = values.astype(np.float64)
        total = np.zeros(self.n_bins, np.int64)
        n_missing = 0
        for start in range(0, len(values), _CHUNK):
            part = values[start : start + _CHUNK]
            total += np.bincount(np.searchsorted(cuts, part, side="right"), minlength=self.n_bins)
            n_missing += int(np.count_nonzero(np.isnan(part)))  # NaN sorts above everything
        total[-2] -= n_missing
        total[-1] += n_missing
        return total


class CategoryGrid(msgspec.Struct, frozen=True, tag="category"):
    """Bins of a text: the reference's values, any other, missing.

    Attributes:
        values: The values that have a bin of their own.
    """

    values: tuple[str, ...]

    @property
    def n_bins(self) -> int:
        """Number of bins: one a value, any other, missing."""
        return len(self.values) + 2

    @property
    def names(self) -> tuple[str, ...]:
        """What each bin holds."""
        return (*self.values, "any other", "missing")

    def codes(self, values: Column) -> npt.NDArray[np.intp]:
        """Return the bin of each value, shape (n_rows,); None is missing."""
        known = {value: code for code, value in enumerate(self.values)}
        other = len(known)
        return np.fromiter(
            (other + 1 if value is None else known.get(str(value), other) for value in values.tolist()),
            np.intp,
            len(values),
        )

    def count(self, values: Column) -> Counts:
        """Return how many values fall into each bin, shape (n_bins,)."""
        return np.bincount(self.codes(values), minlength=self.n_bins).astype(np.int64)


Grid = NumberGrid | CategoryGrid


def number_grid(values: Column, *, n_bins: int = N_BINS) -> NumberGrid:
    """Return bins that each hold about as many of the reference's values.

    A value that is frequent enough to be several quantiles has a bin that begins with it.

    Args:
        values: The reference, shape (n_rows,); what is not finite is left out.
        n_bins: Bins between its least and its greatest value, at most.

    Raises:
        InvalidSetting: There is no finite value, or `n_bins` is below 1.
    """
    if n_bins < 1:
        raise InvalidSetting(f"A histogram has at least one bin. Got {n_bins}.")
    numbers = np.asarray(values, dtype=np.float64)
    numbers = numbers[np.isfinite(numbers)]
    if not len(numbers):
        raise InvalidSetting("The reference of a histogram has no finite value.")
    inner = np.quantile(numbers, np.arange(1, n_bins) / n_bins, method="inverted_cdf")
    cuts = np.unique(np.r_[numbers.min(), inner, np.nextafter(numbers.max(), np.inf)])
    return NumberGrid(tuple(cuts.tolist()))


def category_grid(counts: Sequence[tuple[str, int]], *, max_categories: int = MAX_CATEGORIES) -> CategoryGrid:
    """Return a bin for each of the reference's most frequent values.

    Args:
        counts: Values and how often each occurs, in any order.
        max_categories: Values with a bin of their own at most.
    """
    ordered = sorted(counts, key=lambda pair: (-pair[1], pair[0]))
    return CategoryGrid(tuple(sorted(value for value, _ in ordered[:max_categories])))
