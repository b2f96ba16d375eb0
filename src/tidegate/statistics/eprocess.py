"""The e-process for binary events of two arms: evidence that may be looked at as often as one likes.

Event i came from the candidate (x_i = 1) or from stable (x_i = 0). If the candidate's rate is r times
stable's, the event comes from the candidate with probability

    theta(r, w) = w r / (w r + 1 - w)

where w is the candidate's share, at that event, of what could have had one. For a null ratio r_0 and
alternatives r_j of prior weight pi_j,

    E_n = sum_j pi_j prod_i (theta(r_j, w_i) / theta(r_0, w_i))^x_i
                            ((1 - theta(r_j, w_i)) / (1 - theta(r_0, w_i)))^(1 - x_i)

is a nonnegative supermartingale of mean at most 1 while the null holds, so that by Ville's inequality
P(E_n >= 1 / alpha for any n) <= alpha, whatever traffic does and however shares move.

Events whose w is not known exactly are counted at an end of its range: for "regressed" at the larger
w and for "safe" at the smaller one every factor's mean under the null is at most 1.

Source: Lindon & Malek, Anytime-Valid Inference for Multinomial Count Data, NeurIPS 2022,
arXiv 2011.03567; Lindon, Ham, Tingley & Bojinov, arXiv 2205.14762.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from tidegate.core.error import InvalidSetting

Floats = npt.NDArray[np.float64]

REGRESSED_GRID = (1.1, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0)
"""Alternatives of "the candidate's rate is not above stable's", METHODS 1.1."""

_SAFE_FRACTIONS = (0.4, 0.8)
"""Alternatives of "the candidate's rate is at least r_max times stable's", as parts of r_max. With
r_max = 1.25: half of stable's rate, and exactly stable's. Each one more delays the proof for all others."""


class EventCount(msgspec.Struct, frozen=True, array_like=True):
    """Events of one weight.

    Attributes:
        weight: The candidate's share of what could have had an event, in [0, 1].
        candidate: Events of the candidate.
        stable: Events of the stable version.
    """

    weight: float
    candidate: int
    stable: int


class RatioTest(msgspec.Struct, frozen=True):
    """Tests a ratio of two rates against a grid of alternatives.

    Attributes:
        null: The ratio that is to be refuted.
        grid: Alternatives, each with the same prior weight.
    """

    null: float
    grid: tuple[float, ...]

    def __post_init__(self) -> None:
        if not (self.null > 0 and self.grid and all(ratio >= 0 for ratio in self.grid)):
            raise InvalidSetting(
                f"A ratio test needs a null above 0 and alternatives of at least 0. Got {self.null} and "
                f"{self.grid}."
            )

    def log_factors(self, weights: Any) -> tuple[Floats, Floats]:
        """Return what one event multiplies each alternative's evidence by, as logarithms.

        Args:
            weights: Shares of the candidate, in [0, 1], any shape.

        Returns:
            Of an event of the candidate and of one of stable, shape (*weights.shape, len(grid)).
        """
        share = np.asarray(weights, np.float64)[..., None]
        ratios = np.asarray(self.grid, np.float64)
        # theta(r)/theta(r0) = (r/r0) d and (1-theta(r))/(1-theta(r0)) = d, with this d; exact at w = 0 and 1
        with np.errstate(divide="ignore", invalid="ignore"):
            spread = np.log1p(share * (self.null - 1.0)) - np.log1p(share * (ratios - 1.0))
            gain = np.log(ratios / self.null)
        # with the whole of the traffic an event tells nothing: every ratio predicts it with certainty
        return np.where(share >= 1.0, 0.0, gain + spread), np.where(share >= 1.0, 0.0, spread)

    def log_evidence(self, counts: Iterable[EventCount]) -> Floats:
        """Return each alternative's log evidence over counted events, shape (len(grid),).

        Counts of disjoint events add: products of factors do not depend on their order.
        """
        rows = list(counts)
        total = np.zeros(len(self.grid))
        if not rows:
            return total
        candidate, stable = self.log_factors([row.weight for row in rows])
        for row, of_candidate, of_stable in zip(rows, candidate, stable, strict=True):
            if row.candidate:
                total += row.candidate * of_candidate
            if row.stable:
                total += row.stable * of_stable
        return total


def regression_test(tolerated: float = 1.0) -> RatioTest:
    """Return the test of "the candidate's rate is at most `tolerated` times stable's"."""
    return RatioTest(tolerated, tuple(tolerated * ratio for ratio in REGRESSED_GRID))


def safety_test(largest: float) -> RatioTest:
    """Return the test of "the candidate's rate is at least `largest` times stable's"."""
    return RatioTest(largest, tuple(largest * part for part in _SAFE_FRACTIONS))


class RatioProcess:
    """One e-process while it runs; its state is a float for each alternative.

    Two processes over consecutive stretches merge into what one over both would be.
    """

    def __init__(self, test: RatioTest, state: Sequence[float] | None = None) -> None:
        """Begin, or take up a `state` that was kept."""
        self.test = test
        self._logs = np.zeros(len(test.grid)) if state is None else np.array(state, np.float64)
        if self._logs.shape != (len(test.grid),):
            raise InvalidSetting(
                f"The state of this test has {len(test.grid)} numbers, {self._logs.shape} came."
            )

    @property
    def state(self) -> list[float]:
        """Log evidence of each alternative."""
        return [float(value) for value in self._logs]

    def observe(self, *, weight: float, candidate: int = 0, stable: int = 0) -> None:
        """Take in events of one weight."""
        self._logs = self._logs + self.test.log_evidence([EventCount(weight, candidate, stable)])

    def merge(self, later: RatioProcess) -> RatioProcess:
        """Return the process over this stretch and a later one.

        Raises:
            InvalidSetting: The other one tests something else.
        """
        if later.test != self.test:
            raise InvalidSetting("Only processes of the same test merge.")
        return RatioProcess(self.test, [a + b for a, b in zip(self.state, later.state, strict=True)])

    @property
    def log_e(self) -> float:
        """Logarithm of the e-value."""
        return log_mean_exp(self._logs)


def log_mean_exp(logs: Any, weights: Any = None) -> float:
    """Return log(sum_j pi_j exp(logs_j)) without overflow; equal weights if None."""
    values = np.asarray(logs, np.float64)
    largest = float(values.max())
    if not math.isfinite(largest):
        return largest
    scaled = np.exp(values - largest)
    mean = scaled.mean() if weights is None else float(np.dot(scaled, weights))
    return largest + math.log(float(mean))


def paths(test: RatioTest, from_candidate: Any, weights: Any) -> Floats:
    """Return log E after each event of many streams at once, shape (..., n_events).

    Args:
        test: What is tested.
        from_candidate: Whether each event came from the candidate, shape (..., n_events).
        weights: The candidate's share at each event, same shape or one number.
    """
    events = np.asarray(from_candidate, bool)
    total: Floats | None = None
    shares = np.asarray(weights, np.float64)
    for ratio in test.grid:  # one alternative at a time: memory stays that of the events
        yes, no = RatioTest(test.null, (ratio,)).log_factors(shares)
        log = np.cumsum(np.where(events, yes[..., 0], no[..., 0]), axis=-1)
        total = log if total is None else np.logaddexp(total, log)
    assert total is not None
    result: Floats = total - math.log(len(test.grid))
    return result


def drift(test: RatioTest, *, weight: float, ratio: float = 1.0) -> Floats:
    """Return each alternative's mean log growth an event if the true ratio of rates is `ratio`.

    Args:
        test: What is tested.
        weight: The candidate's share, in (0, 1).
        ratio: The truth.
    """
    candidate, stable = test.log_factors(weight)
    share = weight * ratio / (weight * ratio + 1 - weight)
    grown: Floats = share * candidate + (1 - share) * stable
    return grown
