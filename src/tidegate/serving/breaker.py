"""A breaker before one version: a model that mostly fails is left alone for a while. Pure.

The window always counts as full. A version begins with a window of good calls, and good calls are
only noted while there is a failure to be forgotten: a healthy version's breaker costs nothing.

Source: Nygard, "Release It!", 2nd edition, chapter 5; METHODS, section 5.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

WINDOW = 20
OPEN_SHARE = 0.5
OPEN_S = 5.0
JITTER = 0.2
PROBES = 3
"""Probes in a row that have to succeed before all calls pass again."""


class Breaker:
    """Closed: all calls pass. Open: none does. Then one at a time, until enough have succeeded."""

    __slots__ = (
        "_draw",
        "_failures_to_open",
        "_good_probes",
        "_open_s",
        "_probe_until_s",
        "_reopens_s",
        "_window",
        "is_closed",
        "n_failed",
    )

    def __init__(
        self,
        *,
        draw: Callable[[], float],
        window: int = WINDOW,
        open_share: float = OPEN_SHARE,
        open_s: float = OPEN_S,
    ) -> None:
        """Begin closed.

        Args:
            draw: Draws from [0, 1): that workers do not all probe at once.
            window: Calls that are looked at.
            open_share: Part of them that has to fail to open it.
            open_s: How long it stays open, seconds, give or take a fifth.
        """
        self.is_closed = True
        self.n_failed = 0  # in the window
        self._draw = draw
        self._window: deque[bool] = deque(maxlen=window)
        self._failures_to_open = max(1, round(window * open_share))
        self._open_s = open_s
        self._reopens_s = 0.0
        self._probe_until_s = 0.0
        self._good_probes = 0

    def let_through(self, now_s: float) -> int:
        """Return how many calls may pass now, while it is not closed: none, or one as a probe."""
        if now_s < self._reopens_s or now_s < self._probe_until_s:
            return 0
        # a probe that never comes back, because its caller is gone, is replaced after a while
        self._probe_until_s = now_s + self._open_s
        return 1

    def succeed(self, n_calls: int = 1) -> None:
        """Note calls that the version answered well."""
        if not self.is_closed:
            self._probe_until_s = 0.0
            self._good_probes += 1
            if self._good_probes >= PROBES:
                self.is_closed = True
                self._window.clear()
                self.n_failed = 0
            return
        for _ in range(min(n_calls, self._window.maxlen or 0)):
            self._note(False)

    def fail(self, now_s: float) -> None:
        """Note a call that the version failed, or did not answer in time."""
        if not self.is_closed:
            self._open(now_s)
            return
        self._note(True)
        if self.n_failed >= self._failures_to_open:
            self.is_closed = False
            self._open(now_s)

    def _note(self, failed: bool) -> None:
        window = self._window
        if len(window) == window.maxlen:
            self.n_failed -= window[0]
        window.append(failed)
        self.n_failed += failed

    def _open(self, now_s: float) -> None:
        self._good_probes = 0
        self._probe_until_s = 0.0
        self._reopens_s = now_s + self._open_s * (1 - JITTER + 2 * JITTER * self._draw())
