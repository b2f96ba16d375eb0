"""Special functions that intervals and tests need, on single numbers."""

from __future__ import annotations

import math
from statistics import NormalDist

from tidegate.core.error import InvalidSetting

_TINY = 1e-300
_MAX_TERMS = 2000


def incomplete_beta(a: float, b: float, x: float) -> float:
    """Return the regularised incomplete beta function I_x(a, b), in [0, 1].

    Args:
        a: First shape, > 0.
        b: Second shape, > 0.
        x: Upper end of the integral, in [0, 1].

    Raises:
        InvalidSetting: An argument lies outside its range.

    Source: the continued fraction of DLMF 8.17.22, evaluated by Lentz's method; the symmetry
    I_x(a, b) = 1 - I_{1-x}(b, a) is used where the fraction converges slowly.
    """
    if not (a > 0 and b > 0 and 0 <= x <= 1):
        raise InvalidSetting(f"I_x(a, b) needs a, b > 0 and x in [0, 1]. Got a={a}, b={b}, x={x}.")
    if x in (0.0, 1.0):
        return x
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    if x > (a + 1) / (a + b + 2):
        return 1 - math.exp(log_front) * _fraction(b, a, 1 - x) / b
    return math.exp(log_front) * _fraction(a, b, x) / a


def _fraction(a: float, b: float, x: float) -> float:
    upper = 1.0
    lower = 1 - (a + b) * x / (a + 1)
    lower = 1 / (lower if abs(lower) > _TINY else _TINY)
    value = lower
    for m in range(1, _MAX_TERMS):
        for term in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            lower = 1 + term * lower
            lower = 1 / (lower if abs(lower) > _TINY else _TINY)
            upper = 1 + term / upper
            upper = upper if abs(upper) > _TINY else _TINY
            value *= upper * lower
        if abs(upper * lower - 1) < 1e-15:
            break
    return value


def beta_quantile(probability: float, a: float, b: float) -> float:
    """Return the x in [0, 1] at which I_x(a, b) = `probability`, found by bisection.

    Raises:
        InvalidSetting: The probability lies outside [0, 1], or a shape is not > 0.
    """
    if not 0 <= probability <= 1:
        raise InvalidSetting(f"A probability lies in [0, 1]. Got {probability}.")
    low, high = 0.0, 1.0
    while True:
        middle = (low + high) / 2
        # halving ends where no number lies between; below 1e-300 the figure is 0 to anyone
        if middle in (low, high) or high < _TINY:
            return middle
        if incomplete_beta(a, b, middle) < probability:
            low = middle
        else:
            high = middle


def normal_quantile(probability: float) -> float:
    """Return the quantile of the standard normal distribution; `probability` in (0, 1)."""
    if not 0 < probability < 1:
        raise InvalidSetting(f"A normal quantile needs a probability in (0, 1). Got {probability}.")
    return NormalDist().inv_cdf(probability)


def student_tail(statistic: float, freedom: float) -> float:
    """Return P(T > `statistic`) of Student's t with `freedom` > 0 degrees of freedom.

    Source: DLMF 8.17 and the identity P(|T| > t) = I_{v/(v+t^2)}(v/2, 1/2).
    """
    if math.isinf(statistic):
        return 0.0 if statistic > 0 else 1.0
    both = incomplete_beta(freedom / 2, 0.5, freedom / (freedom + statistic * statistic))
    return both / 2 if statistic > 0 else 1 - both / 2


def student_quantile(probability: float, freedom: float) -> float:
    """Return the quantile of Student's t; `probability` in (0, 1), `freedom` > 0."""
    if probability == 0.5:
        return 0.0
    if not 0 < probability < 1:
        raise InvalidSetting(f"A quantile needs a probability in (0, 1). Got {probability}.")
    share = beta_quantile(2 * min(probability, 1 - probability), freedom / 2, 0.5)
    size = math.sqrt(freedom * (1 - share) / max(share, _TINY))
    return size if probability > 0.5 else -size


def chi2_tail(statistic: float, freedom: float) -> float:
    """Return P(X > `statistic`) of chi-square with `freedom` > 0 degrees of freedom.

    Raises:
        InvalidSetting: The degrees of freedom are not above 0.

    Source: DLMF 8.7.1 (series) and 8.9.2 (continued fraction, by Lentz's method) of the incomplete
    gamma functions; each is used where it converges.
    """
    if not freedom > 0:
        raise InvalidSetting(f"Chi-square needs degrees of freedom above 0. Got {freedom}.")
    a, x = freedom / 2, statistic / 2
    if x <= 0:
        return 1.0
    if math.isinf(x):
        return 0.0
    log_front = a * math.log(x) - x - math.lgamma(a)
    if x < a + 1:
        term = total = 1 / a
        for n in range(1, _MAX_TERMS):
            term *= x / (a + n)
            total += term
            if term < total * 1e-16:
                break
        return max(0.0, 1 - total * math.exp(log_front))
    lower = x + 1 - a
    upper = 1 / _TINY
    inverse = 1 / lower
    value = inverse
    for n in range(1, _MAX_TERMS):
        factor = n * (a - n)
        lower += 2
        inverse = factor * inverse + lower
        inverse = 1 / (inverse if abs(inverse) > _TINY else _TINY)
        upper = lower + factor / upper
        upper = upper if abs(upper) > _TINY else _TINY
        value *= inverse * upper
        if abs(inverse * upper - 1) < 1e-15:
            break
    return value * math.exp(log_front)
