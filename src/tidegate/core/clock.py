"""Time as a parameter, so that whatever decides by time can be replayed and simulated."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """The two times there are; never mix them."""

    def wall_us(self) -> int:
        """Return microseconds since 1970-01-01 UTC. May jump; for records, never for waiting."""
        ...

    def monotonic_s(self) -> float:
        """Return seconds that only grow. For deadlines and durations, meaningless across machines."""
        ...


class SystemClock:
    """The machine's own clocks."""

    def wall_us(self) -> int:
        return time.time_ns() // 1000

    def monotonic_s(self) -> float:
        return time.monotonic()
