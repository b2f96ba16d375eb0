"""Shadows: versions that get a copy of a request after its answer has left, and answer nobody.

A shadow never changes, delays or fails an answer. Copies wait in a bounded queue for each shadow;
whatever does not fit, has become old, or comes while the worker is busy, is dropped and counted. A
model that runs in the worker's loop holds it up while it runs, so it may take only a small part of
the time: a shadow ten times slower is asked ten times less often.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from tidegate.contract.batch import Batch
from tidegate.core.clock import Clock
from tidegate.core.error import TidegateError
from tidegate.journal.codec import TurnEncoder
from tidegate.journal.record import Flag, JournalUnavailable, Stream, Turn
from tidegate.predictor.protocol import PredictorError
from tidegate.serving.call import Call, DeadlineExceeded, Group
from tidegate.serving.endpoint import Arm, LoadedVersion
from tidegate.serving.guard import inspect
from tidegate.serving.metric import MetricPage

_log = logging.getLogger("tidegate.serving")

MAX_WAITING_ROWS = 1024
"""Rows that wait for one shadow in one worker: bounds memory, and is more than a quiet moment clears."""
MAX_AGE_S = 5.0
"""A copy that waited so long says more of the queue than of the model."""
SHORT_S = 0.001
"""A call in the loop that is no longer than this delays nobody by more than a turn does."""
SHORT_REST = 4
"""After a short call, and after any in another process, a shadow is left alone for so many times its
length: it takes a fifth of the time at most, of the loop or of a core."""
LONG_REST = 250
"""After a longer one: under half a percent of requests, less than a 99th percentile shows, meet one."""
PAUSE_S = 0.002
BURST_S = 0.0005
"""Between two pauses copies are handed over for about so long."""
ABSENT_S = 0.1
"""Between two looks for a model whose process is being started again."""
LATE_S = 0.010
"""A timer that comes this late has found the loop busy."""
HOLD_S = 0.05
"""How long a busy worker asks no shadow."""
BUSY_SHARE = 0.75
"""Part of a processor above which the worker has no time to give away."""
_LOOK_S = 0.1


class Journal(Protocol):
    """Where the shadows' answers go."""

    def stream(self, stream: Stream) -> TurnEncoder:
        """Return the encoder of a stream."""
        ...

    def append(self, frames: Sequence[bytes]) -> object:
        """Write frames, or have them written. Raises JournalUnavailable."""
        ...


class _Copy(NamedTuple):
    """One request as a shadow gets it."""

    request_id: bytes
    arrived_us: int
    n_rows: int
    key_hashes: list[bytes] | None
    buckets: list[float]


class _Item(NamedTuple):
    """Requests that were answered by one model call, so that the shadow's call is like it."""

    inputs: Batch
    copies: list[_Copy]
    face: LoadedVersion
    since_s: float
    is_again: bool = False


class _Lane:
    """What waits for one shadow, and what it is working on."""

    def __init__(self, arm: Arm, metrics: MetricPage) -> None:
        labels = {"service": arm.service, "version": str(arm.version.number)}
        self.arm = arm
        self.waiting: deque[_Item] = deque()
        self.n_rows = 0
        self.asked: dict[Call, _Copy] = {}
        self.not_before_s = 0.0
        self.encoder: TurnEncoder | None = None
        self.timeout: asyncio.TimerHandle | None = None
        self.copied = metrics.counter("tidegate_shadow_copied_total", labels)
        self.dropped = metrics.counter("tidegate_shadow_dropped_total", labels)

    def may_ask(self, now_s: float) -> bool:
        """Tell whether a copy waits and may go now; one that has waited for too long is dropped."""
        while self.waiting and now_s - self.waiting[0].since_s > MAX_AGE_S:
            self.dropped.add(len(self.take().copies))
        return bool(
            self.waiting
            and not self.asked
            and now_s >= self.not_before_s
            and self.arm.version.executor.is_there
        )

    def take(self) -> _Item:
        """Return what has waited longest."""
        item = self.waiting.popleft()
        self.n_rows -= item.inputs.n_rows
        return item

    def drop_all(self) -> None:
        """Forget what waits."""
        self.dropped.add(sum(len(item.copies) for item in self.waiting))
        self.waiting.clear()
        self.n_rows = 0


class ShadowLane:
    """Carries copies to the shadows of one worker, when it has nothing better to do.

    While the worker is busy no shadow is asked, and the queues fill and overflow.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        journal: Journal,
        *,
        clock: Clock,
        metrics: MetricPage,
        used_s: Callable[[], float] = time.process_time,
    ) -> None:
        """Make a lane without copies.

        Args:
            loop: The event loop; every method is called there.
            journal: Where the shadows' answers go.
            clock: Time.
            metrics: Where counts go.
            used_s: Processor time that the worker has used, seconds.
        """
        self._loop = loop
        self._journal = journal
        self._clock = clock
        self._metrics = metrics
        self._used_s = used_s
        self._lanes: dict[Arm, _Lane] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._due_s = 0.0
        self._look = (0.0, 0.0)
        self._busy = False

    def offer(self, group: Group) -> None:
        """Take copies of answered requests; returns at once, whatever the shadows do."""
        try:
            self._offer(group)
        except Exception as defect:  # noqa: BLE001 - the turn's other answers come after this
            _log.error("shadow.not_offered", exc_info=defect)

    def _offer(self, group: Group) -> None:
        for arm in group.arm.shadows:
            lane = self._lanes.get(arm)
            if lane is None:
                lane = self._lanes[arm] = _Lane(arm, self._metrics)
            calls = group.calls
            if arm.share < 1.0:
                calls = [call for call in calls if call.bucket < arm.share]
                if not calls:
                    continue
            n_rows = sum([call.n_rows for call in calls])
            if self._busy or lane.n_rows + n_rows > MAX_WAITING_ROWS:
                lane.dropped.add(len(calls))
                continue
            copies = [
                _Copy(call.request_id, call.arrived_us, call.n_rows, call.key_hashes, arm.buckets_of(call))
                for call in calls
            ]
            inputs = group.inputs if len(calls) == len(group.calls) else _rows_of(group, calls)
            item = _Item(inputs, copies, group.arm.version, self._clock.monotonic_s())
            lane.waiting.append(item)
            lane.n_rows += n_rows
            if self._timer is None and not lane.asked:
                self._wake(PAUSE_S)
        if self._busy:
            self._observe(self._clock.monotonic_s())

    def forget(self, arms: Sequence[Arm]) -> None:
        """Drop what is kept for shadows that no route names any more."""
        for arm in arms:
            lane = self._lanes.pop(arm, None)
            if lane is not None:
                lane.drop_all()
                if lane.timeout is not None:
                    lane.timeout.cancel()

    def _wake(self, within_s: float) -> None:
        due_s = self._loop.time() + within_s
        if self._timer is not None:
            if self._due_s <= due_s:
                return
            self._timer.cancel()
        self._due_s = due_s
        self._timer = self._loop.call_later(within_s, self._step)

    def _step(self) -> None:
        """Ask shadows for a moment, if there is time for it."""
        self._timer = None
        now_s = began_s = self._clock.monotonic_s()
        self._observe(now_s)
        if self._busy or self._loop.time() - self._due_s > LATE_S:
            # what waits too long meanwhile is dropped for that
            if any([lane.waiting for lane in self._lanes.values()]):  # noqa: C419 - a list is quicker
                self._wake(HOLD_S)
            return
        while now_s - began_s < BURST_S:
            ready = [lane for lane in self._lanes.values() if lane.may_ask(now_s)]
            if not ready:
                break
            for lane in ready:
                self._ask(lane, lane.take())
            now_s = self._clock.monotonic_s()
        # a lane that has asked is woken by its answer; one whose model is not there is looked at again
        waits_s = [
            max(PAUSE_S, lane.not_before_s - now_s) if lane.arm.version.executor.is_there else ABSENT_S
            for lane in self._lanes.values()
            if lane.waiting and not lane.asked
        ]
        if waits_s:
            self._wake(min(waits_s))

    def _observe(self, now_s: float) -> None:
        """See, every now and then, how much of a processor the worker uses."""
        began_s, used_before_s = self._look
        if now_s - began_s < _LOOK_S:
            return
        used_s = self._used_s()
        self._busy = began_s > 0.0 and (used_s - used_before_s) > BUSY_SHARE * (now_s - began_s)
        self._look = (now_s, used_s)

    def _ask(self, lane: _Lane, item: _Item) -> None:
        version = lane.arm.version
        try:
            inputs = version.adopt(item.inputs, item.face)
            assert isinstance(inputs, Batch)
        except TidegateError:
            lane.dropped.add(len(item.copies))
            return
        now_s = self._clock.monotonic_s()
        limit_s = version.deadline_s
        calls = []
        for copy in item.copies:
            call = Call(
                lane.arm,
                [],
                n_rows=copy.n_rows,
                request_id=copy.request_id,
                arrived_us=copy.arrived_us,
                started_s=now_s,
                deadline_s=now_s + limit_s,
                reply=_nobody,
            )
            lane.asked[call] = copy
            calls.append(call)
        if not item.is_again:
            lane.copied.add(len(calls))
        group = Group(lane.arm, calls, inputs)
        lane.timeout = self._loop.call_later(limit_s + 0.1, self._give_up, lane, group)
        began_s = self._clock.monotonic_s()
        try:
            version.executor.submit(group, lambda done: self._take(lane, done))
        except Exception as defect:  # noqa: BLE001 - it must cost these copies, nothing else
            _log.error("shadow.failed", exc_info=defect)
            self._drop(lane, calls)
        ended_s = self._clock.monotonic_s()
        took_s = ended_s - began_s
        rest = SHORT_REST if took_s <= SHORT_S else LONG_REST
        lane.not_before_s = ended_s + rest * took_s

    def _take(self, lane: _Lane, group: Group) -> None:
        """Take what a shadow answered, and journal it."""
        calls = [call for call in group.calls if call in lane.asked]
        if not calls:
            return  # it was given up meanwhile
        if len(calls) < len(group.calls):
            error, group = group.error, group.part(calls)
            group.error = error
        if group.error is not None and len(calls) > 1 and isinstance(group.error, PredictorError):
            self._ask_again(lane, group, calls)
            self._drop(lane, calls)
            return
        if group.error is not None:
            self._journal_failed(lane, group, group.error)
        else:
            good, bad = inspect(group)
            if good is not None:
                self._write(lane, good)
            for part, error in bad:
                self._journal_failed(lane, part, error)
        # a model in another process takes a core that others need; of one in the loop `_ask` has the time
        lane.not_before_s = self._clock.monotonic_s() + SHORT_REST * group.predict_us / 1e6
        self._drop(lane, calls)

    def _ask_again(self, lane: _Lane, group: Group, calls: Sequence[Call]) -> None:
        """Have each request wait for a call of its own: one input may have brought the whole batch down.

        Not at once, as for answers: so many calls without a pause would hold others up.
        """
        if lane.n_rows + group.n_rows > MAX_WAITING_ROWS:
            assert group.error is not None
            self._journal_failed(lane, group, group.error)
            return
        now_s = self._clock.monotonic_s()
        for call in reversed(calls):
            inputs = group.part([call]).inputs
            lane.waiting.appendleft(_Item(inputs, [lane.asked[call]], lane.arm.version, now_s, is_again=True))
            lane.n_rows += inputs.n_rows

    def _give_up(self, lane: _Lane, group: Group) -> None:
        """Stop waiting for a shadow that does not answer."""
        lane.timeout = None
        calls = [call for call in group.calls if call in lane.asked]
        if calls:
            error = DeadlineExceeded("The shadow did not answer in time.")
            self._journal_failed(lane, group.part(calls), error)
            self._drop(lane, calls)

    def _drop(self, lane: _Lane, calls: Sequence[Call]) -> None:
        for call in calls:
            lane.asked.pop(call, None)
        if lane.asked:
            return
        if lane.timeout is not None:
            lane.timeout.cancel()
            lane.timeout = None
        if lane.waiting:
            self._wake(PAUSE_S)

    def _journal_failed(self, lane: _Lane, group: Group, error: TidegateError) -> None:
        group.flags |= Flag.FAILED
        group.error = error
        group.outputs = None
        self._write(lane, group)

    def _write(self, lane: _Lane, group: Group) -> None:
        if self._lanes.get(lane.arm) is not lane:
            return
        copies = [lane.asked[call] for call in group.calls]
        turn = Turn(
            request_ids=[copy.request_id for copy in copies],
            arrived_us=[copy.arrived_us for copy in copies],
            inputs=None,  # the prediction's own record has them
            outputs=group.outputs,
            rows_per_request=[copy.n_rows for copy in copies] if group.n_rows != len(copies) else None,
            flags=int(group.flags),
            service_time_us=group.predict_us,
            batch_rows=group.batch_rows,
            buckets=[bucket for copy in copies for bucket in copy.buckets],
        )
        if copies[0].key_hashes is not None:
            turn.key_hashes = [key for copy in copies for key in copy.key_hashes or ()]
        if group.error is not None:
            turn.errors = [group.error.code] * len(copies)
        try:
            if lane.encoder is None:
                lane.encoder = self._journal.stream(lane.arm.stream)
            self._journal.append([lane.encoder.encode(turn)])
        except JournalUnavailable:
            lane.dropped.add(len(copies))
        except Exception as defect:  # noqa: BLE001 - a copy is worth less than the loop it runs in
            _log.error("shadow.not_recorded", exc_info=defect)
            lane.dropped.add(len(copies))


def _rows_of(group: Group, calls: Sequence[Call]) -> Batch:
    index = [row for call in calls for row in range(call.start, call.start + call.n_rows)]
    return group.inputs.take(index)


def _nobody(call: Call) -> None:
    """Answer a copy: nobody asked for it."""
