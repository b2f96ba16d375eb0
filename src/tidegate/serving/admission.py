"""Whether a request that comes now can be answered in time: decided on its headers, before its body.

A refusal costs what it takes to make, and at ten times the capacity there are nine of them for each
answer. So what can be computed once for many requests is: how many rows may be ahead of one with so
much time. To decide is then to compare two numbers.

Source: METHODS, sections 5 and 6; Gujarati et al., "Serving DNNs like Clockwork", OSDI 2020 (admit by
predicted durations).
"""

from __future__ import annotations

from tidegate.contract.objective import Criticality, Limits
from tidegate.serving.duration import DurationModel
from tidegate.serving.queue import MIN_TARGET_S

PATIENCE = (0.1, 0.35, 0.7, 0.8)
"""By criticality, part of a request's time that its answer may be expected to take: the estimate is a
mean, and the way in and out takes time as well."""

STANDING_PATIENCE = (0.0, 0.15, 0.3, 0.4)
"""The same once the model's queue stands. To let more in would make all wait and answer no more."""

STANDING_CALLS = (0.0, 2.0, 3.0, 4.0)
"""Calls of the model, its own included, that are let in at least: one that runs, one that is ready when
that is done, and what comes until another worker has told what it has sent."""

QUEUE_SHARE = (0.25, 0.5, 1.0, 1.25)
"""Part of the declared bound of waiting rows that each criticality may fill."""

_LEARNING_RATE = 0.05
MAX_SLOWNESS = 1.25
"""By how much a slow way to the model shortens patience at most. More would keep batches small just when
the machine is short of time, and small batches cost the most time a row."""

_MAX_KNOWN = 256
"""Bounds what is remembered by request time: callers may send as many different ones as they like."""


class Backlog:
    """What waits at a model that works one call at a time, as one of its workers knows it.

    A worker hears of the others' rows only with its answers. Until the next one it takes it that they
    have sent as much since as it has itself: the same load balancer feeds them all.
    """

    __slots__ = (
        "_allowed",
        "_elsewhere",
        "_excess_s",
        "_max_batch_rows",
        "_others",
        "_own_then",
        "_slowness",
        "_standing",
        "duration",
        "own",
        "pending",
    )

    def __init__(self, duration: DurationModel, *, max_batch_rows: int) -> None:
        """Begin with nothing.

        Args:
            duration: How long calls take; its owner lets it learn.
            max_batch_rows: Rows of one call.
        """
        self.duration = duration
        self.own = 0  # rows that this worker sent and that are not answered
        self.pending = 0  # rows that it took and will send at the end of the loop's turn
        self._max_batch_rows = max_batch_rows
        self._own_then = 0
        self._elsewhere = 0
        self._others = 0
        self._standing = False
        self._slowness = 1.0
        self._allowed: dict[tuple[float, int], int] = {}
        self._excess_s: dict[tuple[float, int], float] = {}

    @property
    def rows_ahead(self) -> int:
        """Rows that a request which came now would wait for, of all workers."""
        own = self.own + self.pending
        grown = own - self._own_then
        return own + self._elsewhere + (grown * self._others if grown > 0 else 0)

    @property
    def wait_s(self) -> float:
        """When a row that came now would be answered, seconds from now."""
        return self.duration.wait_s(self.rows_ahead, max_batch_rows=self._max_batch_rows)

    def send(self, n_rows: int) -> float:
        """Count rows that are sent now, and return when their answer is expected, seconds from now."""
        self.own += n_rows
        ahead = self.own + self._elsewhere - 1
        return self.duration.wait_s(ahead, max_batch_rows=self._max_batch_rows)

    def told(self, waiting_rows: int, *, standing: bool = False, peers: int = 1) -> None:
        """Take what came with an answer.

        Args:
            waiting_rows: Rows of all workers that wait at the model now.
            standing: Whether its queue stands.
            peers: How many workers it has.
        """
        self._own_then = self.own + self.pending
        self._elsewhere = max(0, waiting_rows - self.own)
        self._others = max(0, peers - 1)
        self._standing = standing
        self._allowed.clear()  # calls may take longer or shorter now
        self._excess_s.clear()

    def compare(self, predicted_s: float, took_s: float) -> None:
        """Learn what the way to the model and back takes beside the model: a busy machine doubles it.

        Args:
            predicted_s: What `send` said.
            took_s: From then to their answer.
        """
        if predicted_s > 0:
            seen = min(took_s / predicted_s, MAX_SLOWNESS)
            self._slowness += _LEARNING_RATE * (seen - self._slowness)

    def lose(self) -> None:
        """Forget everything: the process behind it is gone."""
        self.own = self._own_then = self._elsewhere = 0
        self._standing = False
        self._allowed.clear()
        self._excess_s.clear()

    def allowed_rows(self, timeout_s: float, criticality: int) -> int:
        """Return how many rows may be ahead of a request, at most.

        Args:
            timeout_s: The time that it may take.
            criticality: How much it matters.
        """
        key = (timeout_s, criticality)
        found = self._allowed.get(key)
        if found is None:
            if len(self._allowed) >= _MAX_KNOWN:
                self._allowed.clear()
            patience_s = self._patience_s(timeout_s, criticality)
            found = self.duration.rows_within(patience_s, max_batch_rows=self._max_batch_rows)
            self._allowed[key] = found
        return found

    def excess_s(self, timeout_s: float, criticality: int) -> float:
        """Return after which time a request like this would be let in, if nothing else came.

        It stays what it was for the first one since the model last told anything: a few milliseconds
        more make no difference to whoever comes back after a second.
        """
        key = (timeout_s, criticality)
        found = self._excess_s.get(key)
        if found is None:
            if len(self._excess_s) >= _MAX_KNOWN:
                self._excess_s.clear()
            found = max(0.001, self.wait_s - self._patience_s(timeout_s, criticality))
            self._excess_s[key] = found
        return found

    def _patience_s(self, timeout_s: float, criticality: int) -> float:
        patience_s = PATIENCE[criticality] * timeout_s / max(1.0, self._slowness)
        if not self._standing:
            return patience_s
        call_s = self.duration.call_s(self._max_batch_rows)
        at_least_s = STANDING_CALLS[criticality] * max(call_s, MIN_TARGET_S)
        return min(patience_s, max(STANDING_PATIENCE[criticality] * timeout_s, at_least_s))


class Admission:
    """The rule of one version: `wait_s` is asked for each request whose model has a queue."""

    __slots__ = ("_backlog", "_bounds", "default_criticality")

    def __init__(self, backlog: Backlog, limits: Limits) -> None:
        """Take the queue and its declared bounds."""
        self._backlog = backlog
        self._bounds = tuple(int(share * limits.max_waiting_rows) for share in QUEUE_SHARE)
        self.default_criticality = Criticality[limits.criticality.upper()]

    def wait_s(self, timeout_s: float, criticality: int) -> float:
        """Return after which time to try again, seconds; 0 if the request is let in.

        Args:
            timeout_s: The time that it may take.
            criticality: How much it matters.
        """
        backlog = self._backlog
        ahead = backlog.rows_ahead
        # an idle model is always tried: else one that was slow for a moment would never be asked again
        if ahead == 0 or (
            ahead <= backlog.allowed_rows(timeout_s, criticality)
            and backlog.own + backlog.pending < self._bounds[criticality]
        ):
            return 0.0
        return backlog.excess_s(timeout_s, criticality)
