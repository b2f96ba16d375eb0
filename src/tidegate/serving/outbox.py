"""The way out: what is finished is journalled by one write, and only then answered.

A record that cannot be written costs its answer, or is counted as dropped, as the service's journal
mode says; a slow disk holds answers back, never the loop.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from tidegate.core.clock import Clock
from tidegate.journal.codec import TurnEncoder
from tidegate.journal.lane import JournalLane, Writing
from tidegate.journal.record import NO_ID, NO_SPAN, Flag, JournalMode, JournalUnavailable, Turn
from tidegate.serving.call import Call, Group
from tidegate.serving.endpoint import Arm
from tidegate.serving.hold import Held, Hold
from tidegate.serving.meter import Meter
from tidegate.serving.metric import MetricPage
from tidegate.serving.shadow import ShadowLane

_log = logging.getLogger("tidegate.serving")


class Outbox:
    """Journals and answers the groups of one data plane."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        journal: JournalLane,
        *,
        clock: Clock,
        metrics: MetricPage,
        fail: Callable[[list[Call], BaseException], None],
    ) -> None:
        """Make an empty one.

        Args:
            loop: The event loop it runs in; every method is called there.
            journal: Where records go.
            clock: Time.
            metrics: Where counts go.
            fail: Answers calls that a defect of ours has stopped.
        """
        self._loop = loop
        self._journal = journal
        self._clock = clock
        self._metrics = metrics
        # whether one request is all that there is: a thread for its write would only be waited for
        self.is_alone: Callable[[], bool] = lambda: False
        self._fail = fail
        self._encoders: dict[Arm, TurnEncoder] = {}
        self._meters: dict[Arm, Meter] = {}
        self._shadow = ShadowLane(loop, journal, clock=clock, metrics=metrics)
        self._lost = False
        self._dropped = metrics.counter("tidegate_journal_dropped_total")
        self._syncing: set[asyncio.Future[None]] = set()
        self._hold = Hold(loop, journal, clock=clock, release=self._release)

    @property
    def busy(self) -> bool:
        """Whether answers wait for a disk."""
        return bool(self._syncing or self._hold)

    def send(self, groups: list[Group]) -> None:
        """Journal groups by one write, then answer them."""
        frames: list[bytes] = []
        framed: list[Group] = []
        for group in groups:
            try:
                frames.append(self._encoder(group.arm).encode(self._record(group)))
                framed.append(group)
            except Exception as defect:  # noqa: BLE001 - it must cost this record, not the turn
                _log.error("record.not_encoded", exc_info=defect)
                self._lost = True
                self._unwritten(group, defect)
        try:
            inline = len(frames) == 1 and self.is_alone()
            writing = self._journal.append(frames, inline=inline) if frames else None
            self._lost = len(framed) < len(groups)
            if writing is not None:  # the disk is slow: answers wait for it, the loop does not
                held = self._hold.keep(framed, writing)
                writing.then(lambda writing: self._settle_held(held, writing))
                groups = [group for group in groups if group not in framed]
        except JournalUnavailable as error:
            self._lost = True
            for group in framed[error.written :]:
                self._unwritten(group, error)
        self._deliver(groups)

    def _settle_held(self, held: Held, writing: Writing) -> None:
        """Answer what has waited for a slow write until now."""
        kept = self._hold.take(held)
        if writing.error is not None:
            self._lost = True
            for group in kept[writing.error.written :]:
                if group is not None:
                    self._unwritten(group, writing.error)
        self._deliver([group for group in kept if group is not None])

    def _release(self, group: Group, error: JournalUnavailable) -> None:
        """Answer what cannot wait for the disk any longer, as the journal mode says."""
        self._lost = True
        self._unwritten(group, error)
        self._answer(group)

    def _deliver(self, groups: list[Group]) -> None:
        durable = [group for group in groups if group.arm.version.journal is JournalMode.DURABLE]
        if durable:
            self._answer_after_sync(durable)
            groups = [group for group in groups if group.arm.version.journal is not JournalMode.DURABLE]
        for group in groups:
            self._answer(group)

    def _answer(self, group: Group) -> None:
        meter = self._meters.get(group.arm)
        if meter is None:
            meter = self._meters[group.arm] = Meter(self._metrics, group.arm)
        now_s = self._clock.monotonic_s()
        for call in group.calls:
            if not call.abandoned:
                try:
                    call.reply(call)
                except Exception as defect:  # noqa: BLE001 - it must cost this answer, not the turn's others
                    self._fail([call], defect)
        # what nobody waits for comes after the answers
        meter.count(group, now_s)
        group.arm.version.n_asked += len(group.calls)
        if group.arm.shadows:
            self._shadow.offer(group)
        group.calls.clear()  # calls and group refer to each other; without this only the collector frees them

    def _answer_after_sync(self, groups: list[Group]) -> None:
        future = self._loop.run_in_executor(None, self._journal.sync)
        self._syncing.add(future)
        held = self._hold.keep(groups)

        def answer(done: asyncio.Future[None]) -> None:
            self._syncing.discard(done)
            error = done.exception()
            for group in self._hold.take(held):
                if group is None:
                    continue
                if error is not None:
                    self._fail_unwritten(group, error)
                self._answer(group)

        future.add_done_callback(answer)

    def _unwritten(self, group: Group, error: BaseException) -> None:
        self._dropped.add(group.n_rows)
        if group.arm.version.journal is not JournalMode.AVAILABLE:
            self._fail_unwritten(group, error)

    def _fail_unwritten(self, group: Group, error: BaseException) -> None:
        for call in group.calls:
            call.error = JournalUnavailable(
                f"Service {group.arm.service!r} answers only what is journalled, and nothing can be.",
                hint="Try again later; the operator sees why in `tidegate status`.",
                service=group.arm.service,
            )
            call.error.__cause__ = error

    def _encoder(self, arm: Arm) -> TurnEncoder:
        encoder = self._encoders.get(arm)
        if encoder is None:
            encoder = self._encoders[arm] = self._journal.stream(arm.stream)
        return encoder

    def _record(self, group: Group) -> Turn:
        calls = group.calls
        flags = group.flags | (Flag.DROPPED if self._lost else 0)
        several = group.n_rows != len(calls)
        now_s = self._clock.monotonic_s()
        turn = Turn(
            request_ids=[call.request_id for call in calls],
            arrived_us=[call.arrived_us for call in calls],
            inputs=group.inputs,
            outputs=group.outputs,
            rows_per_request=[call.n_rows for call in calls] if several else None,
            flags=int(flags),
            service_time_us=group.predict_us,
            batch_rows=group.batch_rows,
            answered_by=group.answered_by,
            took_us=[(now_s - call.started_s) * 1e6 for call in calls],
        )
        if group.error is not None:
            turn.errors = [group.error.code] * len(calls)
        if any([call.caller_id for call in calls]):  # noqa: C419 - a list is twice as fast as a generator here
            turn.caller_ids = [call.caller_id for call in calls]
        if any([call.trace for call in calls]):  # noqa: C419 - likewise
            turn.trace_ids = [call.trace[:16] or NO_ID for call in calls]
            turn.parent_ids = [call.trace[16:] or NO_SPAN for call in calls]
        if calls[0].key_hashes is not None:
            turn.key_hashes = [key for call in calls for key in call.key_hashes or ()]
        if calls[0].bucket >= 0.0:
            arm = group.arm
            turn.buckets = (
                [bucket for call in calls for bucket in arm.buckets_of(call)]
                if several
                else [call.bucket for call in calls]
            )
        return turn

    def forget(self, arms: Sequence[Arm]) -> None:
        """Drop what is kept for arms that no route leads to any more."""
        for arm in arms:
            self._encoders.pop(arm, None)
            self._meters.pop(arm, None)
        self._shadow.forget(arms)
