"""An alarm that stands until days in a row were good again: one cause is one signal."""

from __future__ import annotations

from tidegate.monitoring.signal import QUIET_WINDOWS
from tidegate.statistics.detector import RiskDetector


class StandingAlarm:
    """The e-SR detector over days. After its alarm a worse day says that the cause is still there.

    Only an alarm needs the detector's certainty. That it is over is said by as many days in a row at or
    below the threshold as resolve a signal; then the detector begins anew.
    """

    def __init__(self, *, threshold: float, limit: float) -> None:
        """Begin without an alarm; see `RiskDetector`."""
        self.detector = RiskDetector(threshold=threshold, limit=limit)
        self._n_days: int | None = None
        self._n_good = 0

    @property
    def threshold(self) -> float:
        """Loss that is still accepted."""
        return self.detector.threshold

    @property
    def limit(self) -> float:
        """Mean days to a false alarm at least."""
        return self.detector.limit

    @property
    def level(self) -> float:
        """The detector's value over its limit, at most 1; 1 from an alarm on, for as long as it stands."""
        return 1.0 if self._n_days is not None else min(1.0, self.detector.value / self.detector.limit)

    def take(self, loss: float) -> int | None:
        """Take the loss of a day, in [0, 1].

        Returns:
            For about how many days the loss has been too high, if on this day it is; None else.
        """
        if self._n_days is None:
            if self.detector.update([loss]) is None:
                return None
            self._n_days, self._n_good = self.detector.n_since, 0
            return self._n_days
        self._n_days += 1
        if loss > self.threshold:
            self._n_good = 0
            return self._n_days
        self._n_good += 1
        if self._n_good >= QUIET_WINDOWS:
            self._n_days = None
            self.detector.restart()
        return None
