"""How much may be under way at one model: a limit that follows what its answers take.

Source: Netflix, concurrency-limits, `Gradient2Limit` (2018); METHODS, section 5.
"""

from __future__ import annotations

_LONG_WINDOWS = 600  # windows over which the usual time is averaged: a minute at the least
_DRIFT = 0.95  # how fast the usual time comes down again after a slow spell


class GradientLimit:
    """Lets more through as long as answers take as long as usual, and less once they take longer.

    At the end of each window the limit shrinks by the ratio of the usual time to the present one, and
    grows by a few where there is no delay. It stays where it is while less than half of it is used:
    what was not tried says nothing. The usual time is learned only while the limit is not reached: a
    time under full load tells of the queue, and a limit that took it for usual would grow for ever.
    """

    def __init__(
        self,
        *,
        minimum: int,
        maximum: int = 1_000_000,
        initial: int | None = None,
        tolerance: float = 1.5,
        smoothing: float = 0.2,
        headroom: float = 4.0,
        window_s: float = 0.1,
    ) -> None:
        """Begin with a limit.

        Args:
            minimum: Below which it never falls: what keeps the model busy.
            maximum: Above which it never grows.
            initial: What it begins with; the minimum if None.
            tolerance: How many times the usual time an answer may take before the limit shrinks.
            smoothing: Part of a newly computed limit that counts at once.
            headroom: By how much it tries to grow in a window.
            window_s: How long answers are averaged before the limit changes, seconds.
        """
        self._minimum = float(minimum)
        self._maximum = float(maximum)
        self._tolerance = tolerance
        self._smoothing = smoothing
        self._headroom = headroom
        self._window_s = window_s
        self._limit = self._minimum if initial is None else float(initial)
        self._usual_s = 0.0
        self._n_windows = 0
        self._ends_s = -1.0
        self._sum_s, self._n_answers, self._most = 0.0, 0, 0

    @property
    def limit(self) -> int:
        """How much may be under way at once."""
        return int(self._limit)

    def observe(self, took_s: float, *, in_flight: int, now_s: float) -> None:
        """Learn from an answer.

        Args:
            took_s: From the request to its answer, seconds.
            in_flight: How much was under way with it.
            now_s: Monotonic time.
        """
        self._sum_s += took_s
        self._n_answers += 1
        self._most = max(self._most, in_flight)
        if now_s < self._ends_s:
            return
        self._ends_s = now_s + self._window_s
        self._learn(self._sum_s / self._n_answers, self._most)
        self._sum_s, self._n_answers, self._most = 0.0, 0, 0

    def _learn(self, took_s: float, in_flight: int) -> None:
        if took_s <= 0:
            return
        if in_flight < self.limit or self._usual_s == 0 or took_s < self._usual_s:
            # the first windows are averaged plainly, so that none of them counts for long
            self._n_windows = min(self._n_windows + 1, _LONG_WINDOWS)
            self._usual_s += (took_s - self._usual_s) * max(1 / self._n_windows, 2 / (_LONG_WINDOWS + 1))
            if self._usual_s > 2 * took_s:
                self._usual_s *= _DRIFT
        if in_flight < self._limit / 2:
            return
        gradient = min(1.0, max(0.5, self._tolerance * self._usual_s / took_s))
        wanted = gradient * self._limit + self._headroom
        limit = (1 - self._smoothing) * self._limit + self._smoothing * wanted
        self._limit = min(self._maximum, max(self._minimum, limit))
