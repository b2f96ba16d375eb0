"""Rings when the first of many deadlines is over.

To look every few milliseconds would be simpler, but a process that wakes finds its caches cold: next to a
slow model that cost a worker a tenth of its time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import inf

REST_S = 0.01
"""Between two times that it rings: deadlines that close to each other are looked at together."""


class Alarm:
    """One timer, set to the earliest deadline that it was told of."""

    def __init__(
        self,
        ring: Callable[[], None],
        call_later: Callable[[float, Callable[[], None]], asyncio.TimerHandle],
        monotonic_s: Callable[[], float],
    ) -> None:
        """Begin with no deadline.

        Args:
            ring: Called when one is over. Those that are not have to be told again.
            call_later: Calls a function after some seconds.
            monotonic_s: Gives the time, seconds.
        """
        self._ring = ring
        self._call_later = call_later
        self._monotonic_s = monotonic_s
        self._at_s = inf
        self._rang_s = -inf
        self._timer: asyncio.TimerHandle | None = None

    def set(self, deadline_s: float) -> None:
        """Ring at that time or before."""
        if deadline_s >= self._at_s:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._at_s = deadline_s
        due_s = max(deadline_s, self._rang_s + REST_S)
        self._timer = self._call_later(max(0.0, due_s - self._monotonic_s()), self._is_due)

    def _is_due(self) -> None:
        self._timer = None
        self._at_s = inf
        self._rang_s = self._monotonic_s()
        self._ring()
