"""Is the candidate worse by less than an absolute allowance? Anytime-valid, and finite without failures.

A trial is the first look at a key (or one request, where keys do not repeat). Its key was drawn to the
candidate with probability w, so that with y = 1 for an event

    z = y 1{candidate} / w - y 1{stable} / (1 - w)

has the mean p_candidate - p_stable at that moment, whatever either does over time: nothing has to be
stationary. For the null "p_candidate - p_stable >= delta" each bet

    W_n = prod_i (1 + lambda (delta - z_i)),   0 <= lambda <= w

is a nonnegative supermartingale, and so is their mixture; W >= 1 / alpha refutes the null at any time
(Ville). Without failures W grows by 1 + w delta a trial, so that about ln(1 / alpha) / delta keys of the
candidate suffice, where a proof by ratio would never end.

The same bets, read the other way round, give the largest excess that is still possible.

Source: betting on a bounded mean, Waudby-Smith & Ramdas, JRSSB 86(1), 2024, arXiv 2010.09686; inverse
probability weights make the difference of two arms such a mean (Horvitz & Thompson, JASA 47, 1952).
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import msgspec
import numpy as np
import numpy.typing as npt

from tidegate.core.error import InvalidSetting
from tidegate.statistics.eprocess import log_mean_exp

Floats = npt.NDArray[np.float64]

_FRACTIONS = np.array([1.0, 0.5, 0.25, 0.125, 0.0625, 0.03125])
"""Bets as parts of the largest. The largest is best without failures; with a rate of p the best is
about delta / p of it."""
_WEIGHTS = np.array([0.5, 0.1, 0.1, 0.1, 0.1, 0.1])
_HALVINGS = 40


class TrialCount(msgspec.Struct, frozen=True, array_like=True):
    """Trials of one weight.

    Attributes:
        weight: Probability that a trial's key was the candidate's, in [0, 1].
        trials: How many, of both arms.
        candidate: Events of the candidate.
        stable: Events of the stable version.
    """

    weight: float
    trials: int
    candidate: int
    stable: int


def log_wealth(counts: Iterable[TrialCount], *, allowance: float) -> float:
    """Return log W against "the candidate's rate exceeds stable's by `allowance` or more".

    Counts of disjoint trials add; an event may be counted later than its trial.

    Args:
        counts: Trials and their events. A weight of 0 or 1 compares nothing and is passed over.
        allowance: delta, in (0, 1].

    Raises:
        InvalidSetting: The allowance lies outside its range.
    """
    if not 0 < allowance <= 1:
        raise InvalidSetting(f"An allowance lies in (0, 1]. Got {allowance}.")
    rows = [row for row in counts if 0 < row.weight < 1]
    if not rows:
        return 0.0
    return log_mean_exp(_log_bets(_table(rows), allowance), _WEIGHTS)


def _table(rows: list[TrialCount]) -> Floats:
    return np.array([msgspec.structs.astuple(row) for row in rows], np.float64).reshape(len(rows), 4)


def _log_bets(rows: Floats, allowance: float) -> Floats:
    weight, trials, candidate, stable = (column[:, None] for column in rows.T)
    stake = weight * _FRACTIONS
    idle = np.log1p(stake * allowance)
    lost = np.log1p(np.maximum(stake * (allowance - 1 / weight), -1 + 1e-300))
    won = np.log1p(stake * (allowance + 1 / (1 - weight)))
    # an event takes the place of "nothing happened" in its trial
    total: Floats = (trials * idle + candidate * (lost - idle) + stable * (won - idle)).sum(axis=0)
    return total


def worst_excess(counts: Iterable[TrialCount], *, alpha: float) -> float:
    """Return the largest excess of the candidate's rate over stable's that is not refuted, in (0, 1].

    An upper confidence bound that holds at all times at once with probability 1 - `alpha`; 1 while
    nothing is refuted.

    Args:
        counts: As `log_wealth`.
        alpha: Probability that the bound is ever wrong.

    Raises:
        InvalidSetting: `alpha` lies outside (0, 1).
    """
    if not 0 < alpha < 1:
        raise InvalidSetting(f"alpha lies in (0, 1). Got {alpha}.")
    rows = _table([row for row in counts if 0 < row.weight < 1])
    wanted = -math.log(alpha)
    if not len(rows) or log_mean_exp(_log_bets(rows, 1.0), _WEIGHTS) < wanted:
        return 1.0
    low, high = 0.0, 1.0  # the wealth grows with the allowance
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if log_mean_exp(_log_bets(rows, middle), _WEIGHTS) >= wanted:
            high = middle
        else:
            low = middle
    return high


def keys_without_failure(*, allowance: float, alpha: float) -> float:
    """Return about how many keys of the candidate prove `allowance` if nothing fails in either arm."""
    return (-math.log(alpha) - math.log(float(_WEIGHTS[0]))) / math.log1p(allowance)


BETS: tuple[tuple[float, float], ...] = tuple(
    (float(fraction), -math.log(weight)) for fraction, weight in zip(_FRACTIONS, _WEIGHTS, strict=True)
)
"""Each bet as a part of the largest, and what its prior weight costs, in nats."""


def growth(fraction: float, *, allowance: float, rate: float, weight: float) -> float:
    """Return the mean log growth of one bet in one trial if both arms have events at `rate`.

    Args:
        fraction: The bet, as a part of the largest.
        allowance: Excess that is to be refuted.
        rate: Probability of an event in a trial.
        weight: Probability that a trial is the candidate's, in (0, 1).
    """
    stake = weight * fraction
    lost = math.log1p(max(stake * (allowance - 1 / weight), -1 + 1e-300))
    won = math.log1p(stake * (allowance + 1 / (1 - weight)))
    return (1 - rate) * math.log1p(stake * allowance) + rate * (weight * lost + (1 - weight) * won)
