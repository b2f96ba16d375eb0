"""Token buckets: that one caller does not take what all are to share.

Fairness only: a server is kept from overload by what it can answer in time, not by what callers
were promised.
"""

from __future__ import annotations

MAX_CALLERS = 10_000
"""Callers that are remembered; beyond, those who have not been seen for longest start afresh."""


class TokenBuckets:
    """A bucket a caller, which fills at a rate up to a burst; a request takes one token."""

    __slots__ = ("_burst", "_callers", "_max_callers", "_rate_per_s")

    def __init__(self, rate_per_s: float, burst: int, *, max_callers: int = MAX_CALLERS) -> None:
        """Make buckets that are full at first.

        Args:
            rate_per_s: Tokens a second, above 0.
            burst: Tokens that a bucket holds, at least 1.
            max_callers: How many are remembered.
        """
        self._rate_per_s = rate_per_s
        self._burst = float(burst)
        self._max_callers = max_callers
        self._callers: dict[str, tuple[float, float]] = {}  # caller -> tokens then, and when

    def take(self, caller: str, now_s: float) -> float:
        """Take a token.

        Args:
            caller: Whose.
            now_s: Monotonic time.

        Returns:
            0.0 if there was one, else after how many seconds there will be.
        """
        tokens, then_s = self._callers.pop(caller, (self._burst, now_s))
        tokens = min(self._burst, tokens + (now_s - then_s) * self._rate_per_s)
        wait_s = 0.0 if tokens >= 1.0 else (1.0 - tokens) / self._rate_per_s
        # put in anew, so that the dict is in the order in which callers were last seen
        self._callers[caller] = (tokens if wait_s else tokens - 1.0, now_s)
        if len(self._callers) > self._max_callers:
            del self._callers[next(iter(self._callers))]
        return wait_s
