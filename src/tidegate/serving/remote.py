"""Runs a model in its runner, over a Unix socket."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterator
from functools import partial
from time import monotonic
from typing import NamedTuple

from tidegate.contract.objective import Criticality
from tidegate.core.error import TidegateError
from tidegate.journal.record import Flag
from tidegate.predictor.protocol import PredictorError
from tidegate.serving.admission import Backlog
from tidegate.serving.call import Call, DeadlineExceeded, Group, Overloaded
from tidegate.serving.duration import DurationModel
from tidegate.serving.frame import MOVING, Answer, Ask, Cancel, FrameBuffer, encode, pack, unpack
from tidegate.serving.quarantine import QuarantinedInput

_RECONNECT_S = 0.05
_WAY_BACK = 0.05
"""Part of a request's time that is left for its answer's way from the runner to the caller."""
_PIECES = 4
"""Pieces of a batch in which rows are sent to a runner that is busy: whole ones would not fill the gaps."""


class _Link(asyncio.Protocol):
    """One connection to a runner. There are two for a moment, when one runner hands over to another."""

    def __init__(self, executor: RemoteExecutor) -> None:
        self._executor = executor
        self.transport: asyncio.Transport | None = None
        self.frames = FrameBuffer()
        self.n_asked = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]  # a Unix connection gives a Transport
        self._executor.linked(self)

    def data_received(self, data: bytes) -> None:
        for answer in self.frames.feed(data):
            if isinstance(answer, Answer):
                self._executor.take(self, answer)

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self._executor.unlinked(self)


class _Asked(NamedTuple):
    """Rows that were sent to the runner, by which link, and when their answer was expected."""

    group: Group
    done: Callable[[Group], None]
    sent_s: float
    expected_s: float
    link: _Link

    @property
    def kind(self) -> object:
        """What is equal for rows that may be handed back as one group; the group itself where it stays alone.

        That one without calls is looked at by whoever gave it; calls that were settled meanwhile have a
        group of their own, in which their answers may still wait for the disk.
        """
        group = self.group
        if not group.calls or any([call.settled for call in group.calls]):  # noqa: C419 - faster than a generator
            return group
        return group.arm, self.done, group.flags


class RunnerUnavailable(PredictorError):
    """The runner of a version is not there: it crashed, or is being started again."""

    code = "runner_unavailable"
    is_down = True


class RemoteExecutor:
    """An executor whose model is in another process.

    Learns from the answers how long a row takes, by which new requests are admitted.
    """

    def __init__(
        self,
        path: str,
        *,
        loop: asyncio.AbstractEventLoop,
        service: str,
        version: int,
        duration: DurationModel | None = None,
        max_batch_rows: int = 1,
    ) -> None:
        """Name the runner; `connect` has to be called.

        Args:
            path: Its Unix socket.
            loop: The event loop.
            service: Whose model it is, for messages.
            version: Likewise.
            duration: How long calls take; learns on. None if nothing is known yet.
            max_batch_rows: Rows of one call.
        """
        self.backlog = Backlog(duration or DurationModel({}), max_batch_rows=max_batch_rows)
        self._max_batch_rows = max_batch_rows
        self._path = path
        self._loop = loop
        self._who = f"version {version} of service {service!r}"
        self._link: _Link | None = None
        self._asked: dict[int, _Asked] = {}
        self._next_id = 0
        self._closed = False
        self._reconnecting: asyncio.Task[None] | None = None  # a task that nobody holds may be collected

    async def connect(self, *, timeout_s: float) -> None:
        """Connect to the runner as soon as it listens.

        Raises:
            RunnerUnavailable: It did not within the time.
        """
        give_up_s = self._loop.time() + timeout_s
        while True:
            try:
                await self._loop.create_unix_connection(lambda: _Link(self), self._path)
                return
            except OSError as error:
                if self._loop.time() > give_up_s:
                    raise self._unavailable() from error
                await asyncio.sleep(_RECONNECT_S)

    def reconnect(self) -> None:
        """Connect as soon as the runner is back, however long that takes."""
        self._reconnecting = self._loop.create_task(self._reconnect())

    @property
    def is_there(self) -> bool:
        return self._link is not None

    @property
    def waiting_rows(self) -> int:
        return self.backlog.own

    @property
    def wait_s(self) -> float:
        return self.backlog.wait_s

    def submit(self, group: Group, done: Callable[[Group], None]) -> None:
        """Send the rows to the runner."""
        if self._link is None:
            group.error = self._unavailable()
            done(group)
            return
        calls = group.calls
        if len(calls) > 1:
            limit = self._max_batch_rows
            if self.backlog.own:
                limit = max(1, limit // _PIECES)
            if group.n_rows > limit or len({call.criticality for call in calls}) > 1:
                # in pieces, so that the first are answered while the last still wait
                for piece in _pieces(calls, limit):
                    self._send(group.part(piece), done)
                return
        self._send(group, done)

    def _send(self, group: Group, done: Callable[[Group], None]) -> None:
        link = self._link
        assert link is not None
        assert link.transport is not None
        self._next_id += 1
        ask_id = self._next_id
        self._asked[ask_id] = _Asked(group, done, monotonic(), self.backlog.send(group.n_rows), link)
        link.n_asked += 1
        # check inputs belong to no call: whoever tries them has a limit of its own
        deadline_s = max((_due_s(call) for call in group.calls), default=math.inf)
        criticality = group.calls[0].criticality if group.calls else Criticality.CRITICAL
        for call in group.calls:
            call.on_abandon = partial(self._cancel, ask_id)
        ask = Ask(ask_id, deadline_s, group.n_rows, pack(group.inputs), criticality)
        link.transport.write(encode(ask))

    def _cancel(self, ask_id: int) -> None:
        """Take rows back for which nobody waits any more."""
        asked = self._asked.get(ask_id)
        if asked is None or not all(call.abandoned for call in asked.group.calls):
            return
        group, link = self._asked.pop(ask_id).group, asked.link
        self.backlog.own -= group.n_rows
        for call in group.calls:
            call.settled = True
        if link.transport is not None:
            link.transport.write(encode(Cancel(ask_id)))
        link.n_asked -= 1
        asked.done(group)
        self._released(link)

    def close(self) -> None:
        self._closed = True
        if self._link is not None and self._link.transport is not None:
            self._link.transport.close()

    # --- links ---

    def linked(self, link: _Link) -> None:
        """Send by a new link from now on; one that is left closes after its last answer."""
        before, self._link = self._link, link
        if before is not None:
            self._released(before)
        if self._closed:
            self.close()

    def unlinked(self, link: _Link) -> None:
        """Learn that a link is gone: what was asked by it will not be answered."""
        if self._link is link:
            self._link = None
        lost = [ask_id for ask_id, asked in self._asked.items() if asked.link is link]
        if len(lost) == len(self._asked):
            self.backlog.lose()
        for ask_id in lost:
            asked = self._asked.pop(ask_id)
            asked.group.error = self._unavailable()
            asked.done(asked.group)
        if not self._closed and self._link is None:
            self.reconnect()

    def _released(self, link: _Link) -> None:
        """Close a link that is not used any more, once nothing is owed on it."""
        if link is not self._link and link.n_asked == 0 and link.transport is not None:
            link.transport.close()

    def take(self, link: _Link, answer: Answer) -> None:
        """Take an answer."""
        if answer.error == MOVING:
            if link is self._link:
                self.reconnect()
            return
        if answer.batch_rows:
            self.backlog.duration.observe(answer.batch_rows, answer.predict_us / 1e6)
        asked = [self._asked.pop(ask_id, None) for ask_id in answer.ids]
        present = [each for each in asked if each is not None]  # the others were cancelled while they ran
        if not present:
            return
        link.n_asked -= len(present)
        now_s = monotonic()
        for each in present:
            self.backlog.own -= each.group.n_rows
            if answer.batch_rows:
                self.backlog.compare(each.expected_s, now_s - each.sent_s)
        if answer.batch_rows:
            self.backlog.told(answer.waiting_rows, standing=answer.standing, peers=answer.peers)
        if answer.error == QuarantinedInput.code:
            self._set_apart(present[0], answer)
            return
        if answer.error:
            for each in present:
                each.group.error = _error(answer)
                each.done(each.group)
        else:
            self._hand_out(asked, answer)
        self._released(link)

    def _hand_out(self, asked: list[_Asked | None], answer: Answer) -> None:
        """Give outputs to whoever asked for them, in as few groups as there can be.

        What ran together is checked, journalled and answered together: one frame for thirty rows that
        came one by one costs little more than one for each would.
        """
        outputs = unpack(answer.parts, sum(answer.n_rows))
        together: dict[object, list[tuple[_Asked, range]]] = {}
        start = 0
        for each, n_rows in zip(asked, answer.n_rows, strict=True):
            if each is not None:
                together.setdefault(each.kind, []).append((each, range(start, start + n_rows)))
            start += n_rows
        for parts in together.values():
            joined = Group.join([each.group for each, _ in parts])
            if joined.n_rows < outputs.n_rows:
                joined.outputs = outputs.take([row for _, rows in parts for row in rows])
            else:
                joined.outputs = outputs
            joined.predict_us = answer.predict_us
            joined.batch_rows = answer.batch_rows
            parts[0][0].done(joined)

    def _set_apart(self, asked: _Asked, answer: Answer) -> None:
        """Refuse the calls whose rows are in quarantine, and ask for the others again."""
        group = asked.group
        bad = set(answer.bad_rows)
        rest = [call for call in group.calls if bad.isdisjoint(range(call.start, call.start + call.n_rows))]
        guilty = [call for call in group.calls if call not in rest]
        parts = [group.part([call]) for call in guilty] if rest or len(guilty) > 1 else [group]
        others = group.part(rest) if rest else None
        for part in parts:
            part.error = QuarantinedInput(
                f"Input that {self._who} did not survive before is not given to it again.",
                hint="Send other values; this input is tried again within the hour.",
            )
            if answer.is_shared:
                part.flags |= Flag.POISON
            asked.done(part)
        if others is not None:
            self.submit(others, asked.done)
        self._released(asked.link)

    async def _reconnect(self) -> None:
        before = self._link
        while not self._closed and self._link is before:
            try:
                await self._loop.create_unix_connection(lambda: _Link(self), self._path)
            except OSError:
                await asyncio.sleep(_RECONNECT_S)

    def _unavailable(self) -> RunnerUnavailable:
        return RunnerUnavailable(
            f"The process that runs {self._who} is not there.",
            hint="It is being started again; try in a moment.",
        )


def _error(answer: Answer) -> TidegateError:
    if answer.error == DeadlineExceeded.code:
        return DeadlineExceeded("The model could not begin in time.", hint="Allow more time.")
    if answer.error == Overloaded.code:
        return Overloaded(answer.message, hint="Try again after the time in Retry-After.")
    return PredictorError(answer.message, hint="The model is at fault, not the transport.")


def _due_s(call: Call) -> float:
    """Return when a call's rows have to leave the runner: the way back takes its time as well."""
    return call.deadline_s - _WAY_BACK * (call.deadline_s - call.started_s)


def _pieces(calls: list[Call], max_rows: int) -> Iterator[list[Call]]:
    """Cut calls into runs of one criticality and at most `max_rows` rows, or of one call that has more."""
    piece: list[Call] = []
    n_rows = 0
    for call in calls:
        if piece and (n_rows + call.n_rows > max_rows or call.criticality != piece[0].criticality):
            yield piece
            piece, n_rows = [], 0
        piece.append(call)
        n_rows += call.n_rows
    yield piece
