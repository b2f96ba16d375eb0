"""A process of ours that is started again when it dies."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from tidegate.core.clock import Clock

_log = logging.getLogger("tidegate.supervisor")

_FIRST_BACKOFF_S = 0.05
_MAX_BACKOFF_S = 30.0
_STEADY_S = 10.0
"""A process that lived this long starts anew without backoff when it dies."""
_USEFUL_S = 2.0
"""Less than this it hardly did more than start."""
_WORTH_IT = 10
"""A pause is not made longer while lives are this many times as long."""


class Child:
    """A process that is started again when it dies."""

    def __init__(
        self,
        name: str,
        make_command: Callable[[int], list[str]],
        clock: Clock,
        *,
        keep: Callable[[], Sequence[int]] = tuple,
        environment: Mapping[str, str] | None = None,
        is_foreign: bool = False,
    ) -> None:
        """Name a process.

        Args:
            name: For the log.
            make_command: Gives the command line, told how often it was started before.
            clock: Time.
            keep: Gives the file descriptors that it inherits, before the command line is asked for.
            environment: Its environment variables; this process's if None.
            is_foreign: Whether it runs code of others: what that has started ends with it.
        """
        self.name = name
        self._make_command = make_command
        self._keep = keep
        self._environment = environment
        self._is_foreign = is_foreign
        self._clock = clock
        self._process: subprocess.Popen[bytes] | None = None
        self.started_s = 0.0  # monotonic
        self._start_at_s = 0.0
        self._backoff_s = _FIRST_BACKOFF_S
        self.n_started = 0
        self.n_deaths = 0  # in a row, none of them after a steady life
        self.last_exit = ""
        self.refused = ""  # why the system did not let it start; "" once it did

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    @property
    def waits_s(self) -> float:
        """How long it stays away yet; 0 if it runs or is due."""
        return 0.0 if self._process is not None else max(0.0, self._start_at_s - self._clock.monotonic_s())

    @property
    def is_steady(self) -> bool:
        """Whether it has run for a good while."""
        return self._process is not None and self._clock.monotonic_s() - self.started_s > _STEADY_S

    def tend(self) -> None:
        """Start it if it is time to; notice that it died."""
        now_s = self._clock.monotonic_s()
        if self._process is not None:
            code = self._poll()
            if code is None:
                return
            _log.warning("process.died name=%s pid=%d %s", self.name, self._process.pid, describe_exit(code))
            self._process = None
            self._note_death(now_s - self.started_s, describe_exit(code))
        if now_s >= self._start_at_s:
            self._start(now_s)

    def _start(self, now_s: float) -> None:
        """Start it; what the system refuses, for want of processes or descriptors, is tried again later."""
        try:
            kept = self._keep()
            self._process = subprocess.Popen(
                self._make_command(self.n_started),
                stdin=subprocess.DEVNULL,
                pass_fds=kept,
                env=self._environment,
                process_group=0 if self._is_foreign else None,
            )
        except OSError as error:
            self.refused = error.strerror or str(error)
            _log.error("process.not_started name=%s: %s", self.name, error)
            self._note_death(0.0, f"before it began ({self.refused})")
            return
        self.refused = ""
        self.started_s = now_s
        self.n_started += 1

    def _note_death(self, lived_s: float, how: str) -> None:
        self.n_deaths = 1 if lived_s > _STEADY_S else self.n_deaths + 1
        self.last_exit = how
        self._backoff_s = self._next_backoff_s(lived_s)
        self._start_at_s = self._clock.monotonic_s() + self._backoff_s

    def _next_backoff_s(self, lived_s: float) -> float:
        """Return how long it stays away: longer each time, unless it was there for most of the time.

        What somebody kills every few seconds is no crash loop, and its capacity is missed meanwhile.
        """
        if lived_s > _STEADY_S:
            return _FIRST_BACKOFF_S
        if lived_s > _WORTH_IT * self._backoff_s and lived_s > _USEFUL_S:
            return self._backoff_s
        return min(2 * self._backoff_s, _MAX_BACKOFF_S)

    @property
    def has_ended(self) -> bool:
        """Whether it was started and does not run any more."""
        return self._poll() is not None

    def signal(self, signum: int) -> None:
        """Send a signal, if it lives."""
        if self._process is not None and self._poll() is None:
            self._process.send_signal(signum)

    def stop(self, within_s: float) -> None:
        """Wait until it ended after a signal; kill it if it does not."""
        if self._process is None:
            return
        try:
            self._process.wait(max(0.0, within_s))
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._poll()
        self._process = None

    def _poll(self) -> int | None:
        """Return its exit code once it has ended, and end what it has left."""
        if self._process is None or (code := self._process.poll()) is None:
            return None
        if self._is_foreign:
            end_group(self._process.pid)
        return code


def end_group(pid: int) -> None:
    """End what a process has left in its group, which is named after it."""
    with suppress(ProcessLookupError, PermissionError):  # nobody, or only who waits to be reaped
        os.killpg(pid, signal.SIGKILL)


def describe_exit(code: int) -> str:
    """Return in words how a process ended, from its return code."""
    return f"by {signal.Signals(-code).name}" if code < 0 else f"with exit status {code}"
