"""Detectors that are looked at with every label, and whose time to a false alarm is bounded from below."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
import numpy as np
import numpy.typing as npt

from tidegate.core.error import InvalidSetting

Floats = npt.NDArray[np.float64]

N_BETS = 8
_LEAST_BET, _GREATEST_BET = 0.1, 2.0
_ALL_IN = 0.95  # of the bet at which one loss of 0 would lose everything


def bets(threshold: float) -> Floats:
    """Return the grid of bets for a risk threshold: 0.1 to 2, less where one loss of 0 would ruin them.

    Raises:
        InvalidSetting: The threshold is not in (0, 1).
    """
    if not 0 < threshold < 1:
        raise InvalidSetting(f"A risk threshold lies in (0, 1). Got {threshold}.")
    greatest = min(_GREATEST_BET, _ALL_IN / threshold)
    return np.geomspace(min(_LEAST_BET, greatest / 2), greatest, N_BETS)


class RiskDetector(msgspec.Struct):
    """The e-SR detector: says when the mean of bounded losses has risen above a threshold.

    M_k <- (1 + lambda_k (loss - threshold)) (1 + M_k), mixed with equal weights over k. While the
    expected loss, given the past, is at most the threshold, M - n is a supermartingale: the mean
    number of labels to a false alarm is at least `limit`.

    Attributes:
        threshold: Risk that is still accepted, in (0, 1); losses lie in [0, 1].
        limit: M at which it alarms: mean labels to a false alarm at least.
        state: M of each bet; zeros at the start.
        n_labels: Labels since the start.
        n_since: Labels since the estimated change: when M was last at its bottom.

    Source: Shin, Ramdas & Rinaldo, E-detectors: a nonparametric framework for sequential change
    detection, NEJSDS 2024 (arXiv 2203.03532).
    """

    threshold: float
    limit: float
    state: list[float] = []
    n_labels: int = 0
    n_since: int = 0

    @property
    def value(self) -> float:
        """M, the mixture over the bets."""
        return float(np.mean(self.state)) if self.state else 0.0

    @property
    def alarmed(self) -> bool:
        return self.value >= self.limit

    def update(self, losses: Iterable[float]) -> int | None:
        """Take losses in order of time; stop at the alarm.

        Returns:
            Position of the loss at which it alarmed, None if it did not. Losses after it are not taken.

        Raises:
            InvalidSetting: A loss lies outside [0, 1] or is no number.
        """
        grid = bets(self.threshold)
        state = np.array(self.state) if self.state else np.zeros(len(grid))
        alarm = None
        for position, loss in enumerate(losses):
            if not 0 <= loss <= 1:
                raise InvalidSetting(f"A loss lies in [0, 1]. Got {loss}.")
            state = (1 + grid * (loss - self.threshold)) * (1 + state)
            self.n_labels += 1
            value = state.mean()
            self.n_since = 0 if value <= 1.0 else self.n_since + 1
            if value >= self.limit:
                alarm = position
                break
        self.state = state.tolist()
        return alarm

    def restart(self) -> None:
        """Forget what was seen, as after an alarm that was dealt with."""
        self.state, self.n_labels, self.n_since = [], 0, 0


def first_alarms(losses: npt.ArrayLike, *, threshold: float, limit: float) -> npt.NDArray[np.int64]:
    """Return the label at which each of many streams alarms, from 0; -1 for those that do not.

    Args:
        losses: In [0, 1], shape (n_streams, n_labels).
        threshold: As in `RiskDetector`.
        limit: As in `RiskDetector`.
    """
    streams = np.asarray(losses, dtype=np.float64)
    grid = bets(threshold)
    state = np.zeros((len(streams), len(grid)))
    found = np.full(len(streams), -1, np.int64)
    for position in range(streams.shape[1]):
        state = (1 + grid * (streams[:, position, None] - threshold)) * (1 + state)
        found[(found < 0) & (state.mean(axis=1) >= limit)] = position
        np.minimum(state, 1e150, out=state)  # those that have alarmed would overflow
    return found
