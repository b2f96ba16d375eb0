"""How far counts in the same bins have moved apart, and how far they would by chance.

All measures take counts with the bins on the last axis, so that thousands of resampled windows are
one call. An empty bin counts as half a row, so that it is far away and not infinitely.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from tidegate.core.error import InvalidSetting
from tidegate.statistics.special import chi2_tail

Floats = npt.NDArray[np.float64]
_HALF_A_ROW = 0.5
_MAX_TERMS = 100


def psi(reference: npt.ArrayLike, window: npt.ArrayLike) -> Floats:
    """Return the population stability index, nats, >= 0, shape of all axes but the last.

    Args:
        reference: Rows of each bin, shape (..., n_bins).
        window: The same of the window.

    Raises:
        InvalidSetting: The bins differ, or one side has no rows.

    Source: Yurdakul & Naranjo, J. Risk Model Validation 14(4), 2020.
    """
    before, after = _checked(reference, window)
    used = (before > 0) | (after > 0)
    p = np.maximum(before, _HALF_A_ROW) / before.sum(axis=-1, keepdims=True)
    q = np.maximum(after, _HALF_A_ROW) / after.sum(axis=-1, keepdims=True)
    return np.asarray(np.where(used, (q - p) * np.log(q / p), 0.0).sum(axis=-1))


def psi_tail(value: float, n_reference: float, n_window: float, *, n_bins: int) -> float:
    """Return P(PSI > `value`) without drift, for independent rows.

    PSI is then about (1/n + 1/m) chi2 with n_bins - 1 degrees of freedom; bins that nobody is in do
    not count.

    Source: Yurdakul & Naranjo, 2020.
    """
    if n_bins < 2:
        return 1.0 if value <= 0 else 0.0
    return chi2_tail(value / (1 / n_reference + 1 / n_window), n_bins - 1)


def ks(reference: npt.ArrayLike, window: npt.ArrayLike) -> Floats:
    """Return the Kolmogorov-Smirnov distance of the binned distributions, in [0, 1].

    Bins must be in the order of their values. It is below that of the values themselves by at most
    the share of the reference in one bin.

    Raises:
        InvalidSetting: See `psi`.
    """
    before, after = _checked(reference, window)
    return np.asarray(np.abs(np.cumsum(_shares(before) - _shares(after), axis=-1)).max(axis=-1))


def ks_tail(value: float, n_reference: float, n_window: float) -> float:
    """Return P(D > `value`) without drift, for independent rows.

    Source: Kolmogorov's limit law with the correction of Stephens, JRSS B 32(1), 1970.
    """
    root = math.sqrt(n_reference * n_window / (n_reference + n_window))
    scaled = (root + 0.12 + 0.11 / root) * value
    if scaled < 0.2:  # the series alternates too slowly; the probability is 1 to twelve digits
        return 1.0
    terms = ((-1.0) ** (k - 1) * math.exp(-2 * (k * scaled) ** 2) for k in range(1, _MAX_TERMS))
    return min(1.0, max(0.0, 2 * math.fsum(terms)))


def jensen_shannon(reference: npt.ArrayLike, window: npt.ArrayLike) -> Floats:
    """Return the Jensen-Shannon distance in [0, 1]: the root of the divergence in bits, a metric.

    Raises:
        InvalidSetting: See `psi`.

    Source: Endres & Schindelin, IEEE Trans. Information Theory 49(7), 2003.
    """
    before, after = _checked(reference, window)
    p, q = _shares(before), _shares(after)
    middle = (p + q) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        parts = np.where(p > 0, p * np.log2(p / middle), 0) + np.where(q > 0, q * np.log2(q / middle), 0)
    return np.asarray(np.sqrt(np.clip(parts.sum(axis=-1) / 2, 0, 1)))


def wasserstein(reference: npt.ArrayLike, window: npt.ArrayLike, cuts: npt.ArrayLike) -> Floats:
    """Return the first Wasserstein distance, in the unit of the cuts, winsorised at the outer ones.

    Within a bin values are taken as spread evenly; what is beyond the reference's range lies at its
    end.

    Args:
        reference: Rows by bin: below, one for each two neighbouring cuts, above; shape (..., n_cuts + 1).
        window: The same of the window.
        cuts: Ends of the bins, ascending, shape (n_cuts,).

    Raises:
        InvalidSetting: See `psi`.
    """
    before, after = _checked(reference, window)
    widths = np.diff(np.asarray(cuts, dtype=np.float64))
    gap = np.cumsum(_shares(after) - _shares(before), axis=-1)[..., :-1]  # at each cut
    left, right = gap[..., :-1], gap[..., 1:]
    crossing = left * right < 0
    with np.errstate(divide="ignore", invalid="ignore"):
        # between two cuts the gap is a straight line: one triangle, or two where it changes sign
        split = (left**2 + right**2) / (2 * (np.abs(left) + np.abs(right)))
    area = np.where(crossing, split, (np.abs(left) + np.abs(right)) / 2)
    return np.asarray((area * widths).sum(axis=-1))


def chi_square(reference: npt.ArrayLike, window: npt.ArrayLike) -> tuple[float, float]:
    """Return the statistic of "one distribution gave both", and its p-value for independent rows.

    Args:
        reference: Rows by bin, shape (n_bins,).
        window: The same of the window.

    Raises:
        InvalidSetting: See `psi`.

    Source: Pearson's test of homogeneity of two samples.
    """
    before, after = _checked(reference, window)
    used = (before + after) > 0
    n_used = int(used.sum())
    if n_used < 2:
        return 0.0, 1.0
    n, m = float(before.sum()), float(after.sum())
    expected = (before + after)[used] * m / (n + m)
    # one margin given, the two rows of the table are (after - expected) with opposite signs
    statistic = float(((after[used] - expected) ** 2 / expected).sum() * (n + m) / n)
    return statistic, chi2_tail(statistic, n_used - 1)


def _shares(counts: Floats) -> Floats:
    return np.asarray(counts / counts.sum(axis=-1, keepdims=True))


def _checked(reference: npt.ArrayLike, window: npt.ArrayLike) -> tuple[Floats, Floats]:
    before, after = np.asarray(reference, dtype=np.float64), np.asarray(window, dtype=np.float64)
    if not before.ndim or not after.ndim or before.shape[-1] != after.shape[-1]:
        raise InvalidSetting(f"Both sides have the same bins. Got shapes {before.shape} and {after.shape}.")
    if not (bool((before.sum(axis=-1) > 0).all()) and bool((after.sum(axis=-1) > 0).all())):
        raise InvalidSetting("A distribution needs at least one row on each side.")
    return before, after
