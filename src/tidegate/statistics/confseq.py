"""Confidence sequences: intervals that hold at all times at once, for people who look every day.

They are for display; verdicts come from the tests of `eprocess`, `allowance` and `paired`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from tidegate.core.error import InvalidSetting
from tidegate.statistics.interval import Interval

Floats = npt.NDArray[np.float64]

_HALVINGS = 40


def empirical_bernstein(values: Any, *, alpha: float = 0.05) -> Interval:
    """Return the interval of the running mean of values in [0, 1] after all of them.

    Args:
        values: In the order they came, each in [0, 1].
        alpha: Probability that the sequence of intervals ever misses the mean.

    Raises:
        InvalidSetting: A value lies outside [0, 1] or is no number, or alpha outside (0, 1).

    Source: the predictable plug-in empirical-Bernstein sequence, Waudby-Smith & Ramdas, JRSSB 86(1),
    2024, theorem 2.
    """
    xs = _checked(values, alpha)
    if not len(xs):
        return Interval(0.0, 1.0)
    stakes, means = _stakes(xs, alpha)
    spread = (xs - means) ** 2 * (-np.log1p(-stakes) - stakes)
    total = float(stakes.sum())
    centre = float((stakes * xs).sum()) / total
    half = (math.log(2 / alpha) + float(spread.sum())) / total
    return Interval(max(0.0, centre - half), min(1.0, centre + half))


def _stakes(xs: Floats, alpha: float) -> tuple[Floats, Floats]:
    """Return each value's bet, and the mean before it: both known before the value is seen."""
    n = np.arange(1, len(xs) + 1)
    mean = (0.5 + np.cumsum(xs)) / (n + 1)
    before = np.concatenate([[0.5], mean[:-1]])
    variance = (0.25 + np.cumsum((xs - mean) ** 2)) / (n + 1)
    known = np.concatenate([[0.25], variance[:-1]])
    stakes = np.minimum(0.5, np.sqrt(2 * math.log(2 / alpha) / (known * n * np.log1p(n))))
    return stakes, before


def betting(values: Any, *, alpha: float = 0.05) -> Interval:
    """Return the hedged betting interval of a mean of values in [0, 1]; tighter than `empirical_bernstein`.

    Raises:
        InvalidSetting: As `empirical_bernstein`.

    Source: Waudby-Smith & Ramdas, JRSSB 86(1), 2024, theorem 3: the mean m is kept while the larger of
    prod(1 + l (x - m)) / 2 and prod(1 - l (x - m)) / 2 stays below 1 / alpha.
    """
    xs = _checked(values, alpha)
    if not len(xs):
        return Interval(0.0, 1.0)
    stakes, _ = _stakes(xs, alpha)
    inside = float(np.clip(xs.mean(), 1e-9, 1 - 1e-9))
    if _is_refuted(xs, stakes, inside, alpha):  # the bets followed a mean that has moved since
        return Interval(inside, inside)
    return Interval(*(_last_kept(xs, stakes, inside, end, alpha) for end in (0.0, 1.0)))


def _last_kept(xs: Floats, stakes: Floats, inside: float, end: float, alpha: float) -> float:
    """Return where, on the way from a mean that is kept to an end, refutation begins."""
    kept, refuted = inside, end
    for _ in range(_HALVINGS):
        middle = (kept + refuted) / 2
        if _is_refuted(xs, stakes, middle, alpha):
            refuted = middle
        else:
            kept = middle
    return refuted


def _is_refuted(xs: Floats, stakes: Floats, mean: float, alpha: float) -> bool:
    # three quarters of what would let one value take everything
    up = np.minimum(stakes, 0.75 / mean)
    down = np.minimum(stakes, 0.75 / (1 - mean))
    wanted = math.log(2 / alpha)
    return bool(np.log1p(up * (xs - mean)).sum() >= wanted or np.log1p(-down * (xs - mean)).sum() >= wanted)


def proportion(yes: int, n: int, *, alpha: float = 0.05) -> Interval:
    """Return the interval of a proportion; from counts alone, so that it merges by addition.

    Args:
        yes: Draws that were.
        n: Draws.
        alpha: Probability that the sequence of intervals ever misses it.

    Raises:
        InvalidSetting: The counts cannot be, or alpha lies outside (0, 1).

    Source: the likelihood ratio of a Jeffreys mixture, by Ville's inequality (Robbins, Annals of
    Mathematical Statistics 41(5), 1970).
    """
    if not 0 <= yes <= n or not 0 < alpha < 1:
        raise InvalidSetting(f"A proportion is of {n} draws, alpha in (0, 1). Got {yes}, {alpha}.")
    if n == 0:
        return Interval(0.0, 1.0)
    mixture = math.lgamma(0.5 + yes) + math.lgamma(0.5 + n - yes) - math.lgamma(1 + n) - math.log(math.pi)

    def is_refuted(rate: float) -> bool:
        likelihood = yes * math.log(rate) if yes else 0.0
        likelihood += (n - yes) * math.log1p(-rate) if yes < n else 0.0
        return mixture - likelihood >= -math.log(alpha)

    ends = []
    for end in (0.0, 1.0):
        kept, refuted = yes / n, end
        if kept == end:
            ends.append(end)
            continue
        for _ in range(_HALVINGS):
            middle = (kept + refuted) / 2
            kept, refuted = (kept, middle) if is_refuted(middle) else (middle, refuted)
        ends.append(refuted)
    return Interval(*ends)


def quantile(values: Any, fraction: float, *, alpha: float = 0.05) -> Interval:
    """Return the interval of one fixed quantile of any distribution.

    Args:
        values: Independent draws.
        fraction: Which quantile, in (0, 1).
        alpha: Probability that the sequence of intervals ever misses it.

    Returns:
        Infinite where too few values came to bound an end.

    Raises:
        InvalidSetting: The fraction or alpha lies outside (0, 1), or a value is no number.

    Source: Howard & Ramdas, Bernoulli 28(3), 2022, section 3: the count of values up to the quantile is
    binomial, and the beta-binomial mixture bounds it at all times.
    """
    if not 0 < fraction < 1 or not 0 < alpha < 1:
        raise InvalidSetting(f"A fraction and an alpha lie in (0, 1). Got {fraction}, {alpha}.")
    xs = np.sort(np.asarray(values, np.float64).reshape(-1))
    if np.isnan(xs).any():
        raise InvalidSetting("A quantile needs numbers; one of the values is none.")
    n = len(xs)
    least, most = count_bounds(n, fraction, alpha=alpha)
    # the quantile is at or above the value of that rank, and at or below the one after the last
    low = -math.inf if least <= 0 else float(xs[least - 1])
    high = math.inf if most >= n else float(xs[most])
    return Interval(low, high)


def count_bounds(n: int, fraction: float, *, alpha: float) -> tuple[int, int]:
    """Return the least and the largest count of n draws below their `fraction` quantile, at all times."""
    if n == 0:
        return 0, 0
    a, b = 100 * fraction, 100 * (1 - fraction)
    prior = math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)

    def is_possible(count: int) -> bool:
        mixture = math.lgamma(a + count) + math.lgamma(b + n - count) - math.lgamma(a + b + n) - prior
        log_e = mixture - count * math.log(fraction) - (n - count) * math.log1p(-fraction)
        return log_e < -math.log(alpha)

    middle = min(n, max(0, round(n * fraction)))
    least = _edge(is_possible, middle, 0)
    return least, _edge(is_possible, middle, n)


def _edge(is_possible: Any, inside: int, end: int) -> int:
    """Return the last possible count on the way from `inside` to `end`; the evidence is convex."""
    if is_possible(end):
        return end
    good, bad = inside, end
    while abs(good - bad) > 1:
        middle = (good + bad) // 2
        if is_possible(middle):
            good = middle
        else:
            bad = middle
    return good


def asymptotic(n: int, mean: float, variance: float, *, alpha: float = 0.05, best_at: int = 500) -> Interval:
    """Return the asymptotic interval of a mean without bounds.

    Args:
        n: Values seen; below 2 the interval is infinite.
        mean: Their mean.
        variance: Their variance.
        alpha: Probability that the sequence ever misses the mean, for many values.
        best_at: Number of values at which the interval is narrowest.

    Raises:
        InvalidSetting: alpha lies outside (0, 1), or `best_at` is below 1.

    Source: Waudby-Smith, Arbour, Sinha, Kennedy & Ramdas, Annals of Statistics 52(6), 2024,
    arXiv 2103.06476, theorem 2.2 and its rule for rho.
    """
    if not 0 < alpha < 1 or best_at < 1:
        raise InvalidSetting(f"alpha lies in (0, 1), best_at is at least 1. Got {alpha}, {best_at}.")
    if n < 2 or not math.isfinite(mean) or not math.isfinite(variance):
        return Interval(-math.inf, math.inf)
    log_alpha = -2 * math.log(alpha)
    rho2 = (log_alpha + math.log(log_alpha + 1)) / best_at
    inner = 2 * (n * rho2 + 1) / (n * n * rho2) * math.log(math.sqrt(n * rho2 + 1) / alpha)
    half = math.sqrt(max(0.0, variance) * inner)
    return Interval(mean - half, mean + half)


def _checked(values: Any, alpha: float) -> Floats:
    xs = np.asarray(values, np.float64).reshape(-1)
    if len(xs) and not bool(((xs >= 0) & (xs <= 1)).all()):
        raise InvalidSetting("This interval needs numbers in [0, 1].", hint="Scale and clip them first.")
    if not 0 < alpha < 1:
        raise InvalidSetting(f"alpha lies in (0, 1). Got {alpha}.")
    return xs
