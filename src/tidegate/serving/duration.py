"""How long a call of a model takes, by its number of rows, as this machine is now."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping

_LEARNING_RATE = 0.2  # a model that slows down is known for it after a few calls
_MAX_STEP = 4.0  # one call that a busy machine delayed is not a model that slowed down


class DurationModel:
    """Durations measured when the version was tried, times a factor that follows what calls take now.

    The shape (what a row more costs) is a property of the model; the factor is the machine's: other
    processes, a slower clock, inputs that are harder than those of the trial.

    Source: Gujarati et al., "Serving DNNs like Clockwork", OSDI 2020, admit by predicted durations;
    METHODS, section 6.
    """

    def __init__(self, call_us: Mapping[int, float]) -> None:
        """Take what the trial measured.

        Args:
            call_us: Rows of a call -> its duration in microseconds. Empty where nothing is known
                yet; then nothing is predicted until the first call has been observed.
        """
        self._sizes = sorted(call_us)
        self._call_s = [call_us[n_rows] / 1e6 for n_rows in self._sizes]
        self._factor = 1.0

    def call_s(self, n_rows: int) -> float:
        """Return the expected duration of a call of `n_rows` rows, seconds; 0 if nothing is known."""
        return self._factor * self._base_s(n_rows)

    def observe(self, n_rows: int, took_s: float) -> None:
        """Learn from a call."""
        if not self._sizes:
            self._sizes, self._call_s = [n_rows], [took_s]
            return
        base_s = self._base_s(n_rows)
        if base_s > 0:
            seen = min(took_s / base_s, _MAX_STEP * self._factor)
            self._factor += _LEARNING_RATE * (seen - self._factor)

    def wait_s(self, rows_ahead: int, *, max_batch_rows: int) -> float:
        """Return when a row that came now would be answered, seconds from now.

        Args:
            rows_ahead: Rows that wait or run.
            max_batch_rows: Rows of one call.
        """
        full, rest = divmod(rows_ahead, max_batch_rows)
        return full * self.call_s(max_batch_rows) + self.call_s(rest + 1)

    def rows_within(self, patience_s: float, *, max_batch_rows: int) -> int:
        """Return how many rows may be ahead of one that is to be answered within `patience_s`.

        It is the greatest number for which `wait_s` is no more than that; 0 if there is none.
        """
        full_s = self.call_s(max_batch_rows)
        if full_s <= 0:
            return 1 << 30  # nothing is known, so nothing is refused
        full = int(patience_s // full_s)
        low, high = -1, max_batch_rows - 1  # rows beyond the full batches: low fits, high + 1 does not
        left_s = patience_s - full * full_s
        while low < high:
            middle = (low + high + 1) // 2
            if self.call_s(middle + 1) <= left_s:
                low = middle
            else:
                high = middle - 1
        return max(0, full * max_batch_rows + low)

    def _base_s(self, n_rows: int) -> float:
        sizes, call_s = self._sizes, self._call_s
        if not sizes:
            return 0.0
        at = bisect_left(sizes, n_rows)
        if at == len(sizes):  # beyond what was measured: a row costs what it cost there
            return call_s[-1] * n_rows / sizes[-1]
        if sizes[at] == n_rows or at == 0:
            return call_s[at]
        low, high = sizes[at - 1], sizes[at]
        return call_s[at - 1] + (call_s[at] - call_s[at - 1]) * (n_rows - low) / (high - low)
