"""How a worker shares its core: at once for a lone request, in turn with others when it is crowded."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress

CROWD = 4
"""Calls under way from which the next message is no reason to interrupt anybody."""
ALONE = 1


class Courtesy:
    """Has a crowded worker wait for its turn of the core.

    The kernel lets a process that a message wakes interrupt who runs: right for a lone request. With a
    crowd under way each message would interrupt the model, or the one who is about to send the next
    message, for a turn of the loop with one request in it. Let run on, they leave the worker fewer turns
    with more in each. The wait is at most a slice of the scheduler's, some milliseconds, and on an idle
    core there is none.

    Args:
        yields: Tells the kernel whether this thread interrupts nobody (True) or whom it is due (False).
    """

    def __init__(self, yields: Callable[[bool], None]) -> None:
        self._yields = yields
        self._crowded = False

    def look(self, n_calls: int) -> None:
        """Say how many calls are under way."""
        if n_calls >= CROWD if not self._crowded else n_calls <= ALONE:
            self._crowded = not self._crowded
            self._yields(self._crowded)


def yield_on_linux(crowded: bool) -> None:
    """Set the calling thread's policy: SCHED_BATCH interrupts nobody, else all is equal (sched(7))."""
    if hasattr(os, "SCHED_BATCH"):
        with suppress(OSError):  # a sandbox may forbid it; then every message interrupts, as by default
            os.sched_setscheduler(0, os.SCHED_BATCH if crowded else os.SCHED_OTHER, os.sched_param(0))
