"""Two versions on the same requests: only pairs in which they differ tell them apart.

Source: McNemar, Psychometrika 12, 1947; made anytime-valid by the e-process of `eprocess` at weight
1/2. The bets on a bounded loss: Waudby-Smith & Ramdas, JRSSB 86(1), 2024, arXiv 2010.09686.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tidegate.core.error import InvalidSetting
from tidegate.statistics.eprocess import REGRESSED_GRID, EventCount, RatioTest, log_mean_exp

Floats = npt.NDArray[np.float64]

PAIRED_GRID = (1.02, 1.05, *REGRESSED_GRID)
"""Alternatives for discordant pairs: of those, small ratios already matter where versions differ often."""

_STAKES = (0.01, 0.03, 0.1, 0.25, 0.5, 0.75, 0.95)
"""Bets as parts of the largest that cannot lose everything."""


def log_worse(worse: int, better: int, *, test: RatioTest | None = None) -> float:
    """Return log E against "the candidate is not wrong more often than stable", from discordant pairs.

    Args:
        worse: Pairs in which only the candidate was wrong.
        better: Pairs in which only stable was wrong.
        test: Another null or grid than the default.
    """
    chosen = test or RatioTest(1.0, PAIRED_GRID)
    return log_mean_exp(chosen.log_evidence([EventCount(0.5, worse, better)]))


class LossTest:
    """Bets against "the candidate's loss exceeds stable's by `margin` or more on average".

    The state is a float for each bet; it merges by addition.
    """

    def __init__(self, margin: float, state: Sequence[float] | None = None) -> None:
        """Begin, or take up a `state` that was kept.

        Args:
            margin: Excess of loss that is to be refuted, in (0, 1).
            state: Log wealth of each bet.

        Raises:
            InvalidSetting: The margin lies outside its range.
        """
        if not 0 < margin < 1:
            raise InvalidSetting(f"A margin of loss lies in (0, 1). Got {margin}.")
        self.margin = margin
        # D <= 1, so that 1 + lambda (margin - D) stays above 0 below 1 / (1 - margin)
        self._stakes = np.array(_STAKES) / (1 - margin)
        self._logs = np.zeros(len(_STAKES)) if state is None else np.array(state, np.float64)

    @property
    def state(self) -> list[float]:
        """Log wealth of each bet."""
        return [float(value) for value in self._logs]

    @property
    def log_e(self) -> float:
        """Logarithm of the e-value; at ln(1 / alpha) the null is refuted."""
        return log_mean_exp(self._logs)

    def observe(self, differences: Any) -> None:
        """Take in differences of loss (candidate less stable), each in [-1, 1].

        Raises:
            InvalidSetting: One lies outside, or is no number: clip at a declared scale first.
        """
        values = np.asarray(differences, np.float64).reshape(-1)
        if len(values) and not bool((np.abs(values) <= 1).all()):  # NaN compares as False
            raise InvalidSetting(
                "A difference of losses must be a number in [-1, 1].",
                hint="Divide the losses by a declared scale and clip them.",
            )
        self._logs = self._logs + np.log1p(self._stakes * (self.margin - values[:, None])).sum(axis=0)

    def observe_counts(self, *, worse: int, better: int, even: int) -> None:
        """Take in pairs of losses that are 0 or 1."""
        for difference, count in ((1.0, worse), (-1.0, better), (0.0, even)):
            self._logs = self._logs + count * np.log1p(self._stakes * (self.margin - difference))
