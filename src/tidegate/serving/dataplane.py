"""The data plane: rows in, journalled answers out, one loop turn at a time.

All requests that arrive in one turn of the event loop are run, journalled by one write, and
answered together. There is no timer: a lone request is a turn of its own and waits for nothing,
and under load turns grow by themselves.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from math import inf

from tidegate.contract.batch import Batch
from tidegate.core.clock import Clock
from tidegate.core.error import TidegateError
from tidegate.journal.codec import encode_event, encode_outcomes, encode_refusals
from tidegate.journal.lane import JournalLane
from tidegate.journal.record import Event, Flag, JournalUnavailable, Outcome, Refusal
from tidegate.journal.segment import JournalWriter
from tidegate.predictor.protocol import PredictorError
from tidegate.serving.alarm import Alarm
from tidegate.serving.cache import ResponseCache
from tidegate.serving.call import BreakerOpen, Call, DeadlineExceeded, Group, Overloaded, SafeMode
from tidegate.serving.courtesy import Courtesy
from tidegate.serving.endpoint import Arm, Endpoint, LoadedVersion, UnknownService
from tidegate.serving.guard import ask_stand_in, fall_back, inspect, is_fault, take_stand_in
from tidegate.serving.metric import MetricPage
from tidegate.serving.outbox import Outbox
from tidegate.serving.reroute import take_back
from tidegate.serving.vigil import ANSWER_S, CALLER_S, Vigil

_log = logging.getLogger("tidegate.serving")

_PATIENCE_S = 2.0
"""How long reported outcomes wait for a disk that stands."""


class DataPlane:
    """Carries calls to their models and back, by way of the journal."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        journal: JournalWriter,
        *,
        clock: Clock,
        metrics: MetricPage,
        new_id: Callable[[], bytes],
        yields: Callable[[bool], None] = lambda crowded: None,
    ) -> None:
        """Make a data plane without services.

        Args:
            loop: The event loop it runs in; every method is called there.
            journal: Where records go.
            clock: Time.
            metrics: Where counts go.
            new_id: Makes request ids, 16 bytes each.
            yields: As `Courtesy` calls it.
        """
        self.clock = clock
        self.new_id = new_id
        self.endpoints: dict[str, Endpoint] = {}
        self.on_demand: frozenset[str] = frozenset()
        self.unwell: dict[tuple[str, int], str] = {}  # why a version does not answer its check inputs now
        self._loop = loop
        self._journal = JournalLane(journal, loop, clock=clock)
        self._metrics = metrics
        self._courtesy = Courtesy(yields)
        self._caller = Vigil(CALLER_S, loop.call_soon, clock.monotonic_s)
        self._answer = Vigil(ANSWER_S, loop.call_soon, clock.monotonic_s)
        self._arrived: list[Call] = []
        self._finished: list[Group] = []
        self._settling = False
        self._unfinished: set[Call] = set()
        self._alarm = Alarm(self._sweep, loop.call_later, clock.monotonic_s)
        self._refused: dict[tuple[str, str, str], int] = {}
        self._recording = 0  # reports of outcomes that wait for the disk
        self._dropped = metrics.counter("tidegate_journal_dropped_total")
        self.outbox = Outbox(
            loop,
            self._journal,
            clock=clock,
            metrics=metrics,
            fail=self._fail,
        )

    # --- the way in ---

    def endpoint(self, service: str) -> Endpoint:
        """Return the endpoint of a service.

        Raises:
            UnknownService: It is not routed here.
        """
        endpoint = self.endpoints.get(service)
        if endpoint is None:
            raise UnknownService(
                f"There is no service {service!r} here.",
                hint=f"Known: {', '.join(sorted(self.endpoints)[:20]) or 'none yet'}.",
                service=service,
            )
        return endpoint

    def submit(self, call: Call) -> None:
        """Take a call; its `reply` is called when it is answered and journalled."""
        self._caller.end()
        version = call.arm.version
        if version.cache is not None and not call.arm.safe_mode and self._reuse(call, version.cache):
            return
        self._enqueue(call)

    def _enqueue(self, call: Call) -> None:
        if not self._arrived:
            self._loop.call_soon(self._turn)
        self._arrived.append(call)
        version = call.arm.version
        if version.is_elsewhere:
            version.backlog.pending += call.n_rows  # type: ignore[union-attr]  # it has one then

    def reroute(self, endpoint: Endpoint) -> None:
        """Have calls that wait for a version which the route has taken away answered by the route."""
        if self._arrived:
            self._turn()
        moved = take_back(self._unfinished, endpoint)
        self._unfinished = {call for call in self._unfinished if not call.settled}
        for call in moved:
            self.submit(call)

    def record_outcomes(
        self, outcomes: Sequence[Outcome], then: Callable[[JournalUnavailable | None], None]
    ) -> None:
        """Journal outcomes.

        Args:
            outcomes: What is reported.
            then: Called without an error once they survive this process, now or when a slow disk goes
                on; with one if that takes too long.

        Raises:
            JournalUnavailable: They cannot be written.
        """
        writing = self._journal.append([encode_outcomes(outcomes)])
        if writing is None:
            then(None)
            return
        self._recording += 1
        waits = True

        def end(error: JournalUnavailable | None) -> None:
            nonlocal waits
            if waits:
                waits = False
                timer.cancel()
                self._recording -= 1
                then(error)

        def give_up() -> None:
            self._journal.withdraw(writing)
            end(JournalUnavailable("The disk of the journal stands.", hint="Send the outcomes again."))

        timer = self._loop.call_later(_PATIENCE_S, give_up)
        writing.then(lambda writing: end(writing.error))

    def record_event(self, event: Event) -> None:
        """Journal something that happened to the process or the route, as well as can be."""
        try:
            self._journal.append([encode_event(event)])
        except JournalUnavailable:
            self._dropped.add()

    def count_refusal(self, service: str, code: str, field: object = None) -> None:
        """Count a request that was turned away before it became a call, and the field that was wrong."""
        key = (service, code, "" if field is None else self._known(service, field))
        self._refused[key] = self._refused.get(key, 0) + 1

    def _known(self, service: str, field: object) -> str:
        """Return a field's name if the contract has it: callers may invent as many others as they like."""
        endpoint = self.endpoints.get(service)
        arms = endpoint.arms if endpoint is not None else ()
        known = any(field in arm.version.contract.input.by_name for arm in arms)
        return str(field) if known else "an unknown field"

    def journal_refusals(self) -> None:
        """Write what was refused since the last time, counted, into the journal."""
        if not self._refused:
            return
        now_us = self.clock.wall_us()
        refusals = [
            Refusal(service, code, count, now_us, field)
            for (service, code, field), count in self._refused.items()
        ]
        for refusal in refusals:
            labels = {"service": refusal.service, "code": refusal.code}
            self._metrics.counter("tidegate_refusals_total", labels).add(refusal.count)
        self._refused.clear()
        try:
            self._journal.append([encode_refusals(refusals)])
        except JournalUnavailable:
            self._dropped.add(len(refusals))

    @property
    def busy(self) -> bool:
        """Whether calls are under way."""
        waits = self._recording or self.outbox.busy
        return bool(self._arrived or self._finished or self._unfinished or waits)

    # --- one turn ---

    def _turn(self) -> None:
        calls, self._arrived = self._arrived, []
        self._courtesy.look(len(calls) + len(self._unfinished))
        self._settling = True
        arms = {call.arm for call in calls}
        if len(arms) == 1:
            self._start(calls[0].arm, calls)
        else:
            for arm in arms:
                self._start(arm, [call for call in calls if call.arm is arm])
        self._settling = False
        if self._finished:
            self._settle()
        elif self._unfinished and self.outbox.is_alone():
            self._answer.begin()

    def _start(self, arm: Arm, calls: list[Call]) -> None:
        now_s = self.clock.monotonic_s()
        if arm.version.is_elsewhere:
            arm.version.backlog.pending = 0  # type: ignore[union-attr]  # likewise
        late = [call for call in calls if call.deadline_s <= now_s or call.abandoned]
        if late:
            calls = [call for call in calls if call.deadline_s > now_s and not call.abandoned]
            for call in late:
                self._expire(call)
        if not calls:
            return
        try:
            group = Group.gather(arm, calls)
        except Exception as defect:  # noqa: BLE001 - it must cost these calls, not the turn
            self._fail(calls, defect)
            return
        if arm.safe_mode:
            error = SafeMode(
                f"Service {arm.service!r} is in safe mode: its model is not asked.",
                hint="It ends when an operator switches to a good version.",
                service=arm.service,
            )
            for call in calls:
                self._fall_back(group.part([call]), error)
            return
        passing: Group | None = group
        if arm.stand_in is not None:
            passing = self._cap(group)
        if passing is not None and not arm.version.breaker.is_closed:
            passing = self._hold_back(passing, now_s)
        if passing is None:
            return
        group, calls = passing, passing.calls
        self._unfinished.update(group.calls)
        try:
            arm.version.executor.submit(group, self._arrive)
        except Exception as defect:  # noqa: BLE001 - it must cost these calls, not the turn
            self._unfinished.difference_update(calls)
            self._fail(calls, defect)
        self._watch(calls)

    def _watch(self, calls: Iterable[Call]) -> None:
        if self._unfinished:
            self._alarm.set(min((call.deadline_s for call in calls), default=inf))

    def _cap(self, group: Group) -> Group | None:
        """Have the stable version answer what an arm beside it would answer too late; return the rest.

        Callers were let in for the stable version's queue. A candidate that is slower has its own, and
        may not make them wait, or take the machine from the stable one, by letting it grow.
        """
        version = group.arm.version
        if version.admission is None:
            return group
        passing = []
        for call in group.calls:
            wait_s = version.admission.wait_s(call.deadline_s - call.started_s, call.criticality)
            if wait_s:
                self._fall_back(group.part([call]), Overloaded.after(wait_s, version.service))
            else:
                passing.append(call)
        if len(passing) == len(group.calls):
            return group
        return group.part(passing) if passing else None

    def _hold_back(self, group: Group, now_s: float) -> Group | None:
        """Let others answer for a version that is to be left alone; return what may pass as a probe."""
        arm, calls = group.arm, group.calls
        n_passing = arm.version.breaker.let_through(now_s)
        error = BreakerOpen(
            f"Version {arm.version.number} of service {arm.service!r} has failed too often.",
            hint="It is tried again in a few seconds; `tidegate journal` shows its errors.",
            service=arm.service,
            version=arm.version.number,
            retry_after_s=1.0,
        )
        for call in calls[n_passing:]:
            self._fall_back(group.part([call]), error)
        return group.part(calls[:n_passing]) if n_passing else None

    def _arrive(self, group: Group) -> None:
        """Take a group back from its executor, with outputs or an error."""
        self._answer.end()
        calls = group.calls
        self._unfinished.difference_update(calls)
        if any(call.settled for call in calls):
            self._scatter(calls)
            calls = [call for call in calls if not call.settled]
            if not calls:
                return
            error = group.error
            group = group.part(calls)
            group.error = error
        if group.error is None:
            self._check(group)
        elif len(calls) > 1 and isinstance(group.error, PredictorError) and not group.error.is_down:
            # one input may have brought the whole batch down: find out which by halves
            half = len(calls) // 2
            for some in (calls[:half], calls[half:]):
                self._unfinished.update(some)
                group.arm.version.executor.submit(group.part(some), self._arrive)
        else:
            for call in calls:
                if is_fault(group.error):
                    self._blame(group.arm.version)
                part = group.part([call])
                part.flags |= group.flags
                self._fall_back(part, group.error)
        self._settle_later()

    def _settle_later(self) -> None:
        if self._finished and not self._settling:
            if self.outbox.is_alone():  # nothing else comes in this turn
                self._settle()
                return
            self._settling = True
            self._loop.call_soon(self._settle_soon)

    def _settle_soon(self) -> None:
        self._settling = False
        if self._finished:
            self._settle()

    def _settle(self) -> None:
        groups, self._finished = self._finished, []
        self.outbox.send(groups)
        if not self.busy and self.outbox.is_alone():
            self._caller.begin()

    def _check(self, group: Group) -> None:
        """Hold the outputs against the contract; calls that got a bad row fall back."""
        version = group.arm.version
        if version.is_elsewhere:
            version.answered_s = self.clock.monotonic_s()
        good, bad = inspect(group)
        if good is not None:
            if version.breaker.n_failed:
                self._clear(version, len(good.calls))
            if version.cache is not None:
                self._keep(good, version.cache)
            self._finished.append(good)
        for part, error in bad:
            self._blame(version)
            self._fall_back(part, error)

    def _fall_back(self, part: Group, error: TidegateError) -> None:
        """Let the declared chain answer a call: the stable version first, then tables and constants."""
        self._scatter(part.calls)
        found = None if part.arm.stand_in is None else ask_stand_in(part, error)
        if found is None:
            fall_back(part, error)
            self._finished.append(part)
            return
        stand_in, asked = found
        self._unfinished.update(part.calls)
        stand_in.executor.submit(asked, lambda asked: self._arrive_instead(part, asked, stand_in, error))
        self._watch(part.calls)

    def _arrive_instead(
        self, part: Group, asked: Group, stand_in: LoadedVersion, error: TidegateError
    ) -> None:
        """Take what the stand-in has made of a call."""
        self._unfinished.difference_update(part.calls)
        if asked.error is not None and is_fault(asked.error):
            self._blame(stand_in)
        if any(call.settled for call in part.calls):
            return
        if not take_stand_in(part, asked, error):
            fall_back(part, error)
        self._finished.append(part)
        self._settle_later()

    def _clear(self, version: LoadedVersion, n_calls: int) -> None:
        """Note calls that a version which has failed some has answered well."""
        breaker = version.breaker
        was_closed = breaker.is_closed
        breaker.succeed(n_calls)
        if breaker.is_closed and not was_closed:
            detail = {"version": version.number}
            self.record_event(Event("breaker.closed", self.clock.wall_us(), version.service, detail))

    def _blame(self, version: LoadedVersion) -> None:
        """Note that a version has failed a call; too many, and it is left alone for a while."""
        breaker = version.breaker
        was_closed = breaker.is_closed
        breaker.fail(self.clock.monotonic_s())
        if was_closed and not breaker.is_closed:
            _log.warning("breaker.opened service=%s version=%d", version.service, version.number)
            detail = {"version": version.number}
            self.record_event(Event("breaker.opened", self.clock.wall_us(), version.service, detail))

    # --- answers that are kept ---

    def _reuse(self, call: Call, cache: ResponseCache) -> bool:
        """Answer a call by what is kept, or let it wait for what is being computed; False if neither."""
        inputs = call.inputs
        if not isinstance(inputs, Batch):
            inputs = call.inputs = call.arm.version.decoder.gather(inputs)
        key = cache.key(inputs)
        outputs = cache.find(key, self.clock.monotonic_s())
        if outputs is not None:
            self._give(call, outputs)
        elif cache.board(key, call):
            Group(call.arm, [call], inputs)  # what it is answered from if its time is over before
            self._unfinished.add(call)
            self._watch([call])
        else:
            call.cache_key = key
            return False
        return True

    def _give(self, call: Call, outputs: Batch) -> None:
        assert isinstance(call.inputs, Batch)
        group = Group(call.arm, [call], call.inputs)
        group.outputs = outputs
        group.flags |= Flag.CACHED
        self._finished.append(group)
        self._settle_later()

    def _keep(self, group: Group, cache: ResponseCache) -> None:
        """Keep the answers of a model's call, and give them to who waits for the same."""
        assert group.outputs is not None
        now_s = self.clock.monotonic_s()
        for call in group.calls:
            key, call.cache_key = call.cache_key, None
            if key is None:
                continue
            outputs = group.outputs.rows(call.start, call.start + call.n_rows)
            cache.keep(key, outputs, now_s)
            for other in cache.land(key):
                self._unfinished.discard(other)
                if not other.settled:
                    self._give(other, outputs)

    def _scatter(self, calls: Sequence[Call]) -> None:
        """Let go whoever waits for the answers of calls that will have none: each asks for itself."""
        for call in calls:
            key, call.cache_key = call.cache_key, None
            cache = call.arm.version.cache
            if key is None or cache is None:
                continue
            for other in cache.land(key):
                self._unfinished.discard(other)
                if not other.settled:
                    self._enqueue(other)

    # --- deadlines of calls that wait for a slow model ---

    def _fail(self, calls: list[Call], error: BaseException) -> None:
        """Answer calls that a defect of ours has stopped."""
        _log.error("call.failed", exc_info=error)
        self._scatter(calls)
        for call in calls:
            call.settled = True
            if not call.abandoned:
                call.error = TidegateError(
                    "The server failed on this request.", hint="Its log has the details."
                )
                call.reply(call)

    def _expire(self, call: Call) -> None:
        call.settled = True
        self._scatter([call])
        if call.abandoned:
            return
        call.error = DeadlineExceeded(
            f"Service {call.arm.service!r} did not answer in time.",
            hint="Allow more time by 'tidegate-timeout-ms', or send fewer rows.",
            service=call.arm.service,
        )
        self.count_refusal(call.arm.service, "deadline_exceeded")
        call.reply(call)

    def _sweep(self) -> None:
        now_s = self.clock.monotonic_s()
        late = [call for call in self._unfinished if call.deadline_s <= now_s]
        silent: set[LoadedVersion] = set()
        for call in late:
            self._unfinished.discard(call)
            part = call.group.part([call])
            call.settled = True
            self._scatter([call])
            if call.abandoned:
                continue
            error = DeadlineExceeded(
                f"Service {call.arm.service!r} did not answer in time.",
                hint="Allow more time by 'tidegate-timeout-ms', or send fewer rows.",
                service=call.arm.service,
            )
            part.flags |= Flag.LATE
            version = call.arm.version
            if version.answered_s < call.started_s:  # it did not only wait: nothing came back all that time
                silent.add(version)
            fall_back(part, error)
            self._finished.append(part)
        for version in silent:
            # once, however many waited: what they know is the same, and it may be this loop that stood still
            self._blame(version)
        if self._finished and not self._settling:
            self._settle()
        self._watch(self._unfinished)

    def close_journal(self) -> None:
        """Write what waits and close the journal, unless its disk stands."""
        self._journal.close()

    def forget(self, arms: Sequence[Arm]) -> None:
        """Drop what is kept for arms that no route leads to any more."""
        self.outbox.forget(arms)
