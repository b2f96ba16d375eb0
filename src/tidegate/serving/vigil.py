"""Stays awake for the next request of a caller who sends each as soon as the last one is answered.

A core that has nothing to do is halted, and in a virtual machine it takes tens of microseconds to wake:
as long as the request itself. Where the next one comes at once, its arrival is looked for instead, which
takes no more CPU time than to halt, to wake and to find the caches cold.

Source: Linux does the same for a guest that would halt and for a network device's queue (its
documentation, "Guest halt polling" and, in "NAPI", busy polling).
"""

from __future__ import annotations

from collections.abc import Callable

CALLER_S = 200e-6
ANSWER_S = 300e-6
"""Who needs longer, a caller or a model in its runner, is not waited for awake, and nobody for longer."""

_SHARE = 0.8
"""Of the waits that have to be short: of those that are not, each takes the limit's time of a core."""
_LEARNING_RATE = 0.125


class Vigil:
    """Whether an event loop sleeps while it waits for one kind of thing."""

    def __init__(
        self,
        limit_s: float,
        call_soon: Callable[[Callable[[], None]], object],
        monotonic_s: Callable[[], float],
    ) -> None:
        """Begin asleep.

        Args:
            limit_s: How long most waits have to be at most for the loop to stay awake, and how long it does
                so then, seconds.
            call_soon: Runs a function in the loop's next turn, and keeps the loop from sleeping before it.
            monotonic_s: Gives the time, seconds.
        """
        self._limit_s = limit_s
        self._call_soon = call_soon
        self._monotonic_s = monotonic_s
        self._short = 0.0  # share of the last waits that were
        self._since_s: float | None = None
        self._is_looking = False

    def begin(self) -> None:
        """From now on there is nothing to do but to wait."""
        self._since_s = self._monotonic_s()
        if self._short > _SHARE and not self._is_looking:
            self._is_looking = True
            self._call_soon(self._look)

    def end(self) -> None:
        """It has come, or something else has."""
        if self._since_s is not None:
            was_short = self._monotonic_s() - self._since_s < self._limit_s
            self._short += _LEARNING_RATE * (was_short - self._short)
            self._since_s = None

    def _look(self) -> None:
        if self._since_s is not None and self._monotonic_s() - self._since_s < self._limit_s:
            self._call_soon(self._look)
        else:
            self._is_looking = False
