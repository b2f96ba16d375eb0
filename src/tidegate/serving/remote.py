"""Runs a model in its runner, over a Unix socket."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterator

from tidegate.predictor.protocol import PredictorError
from tidegate.serving.call import Call, DeadlineExceeded, Group
from tidegate.serving.duration import DurationModel
from tidegate.serving.frame import Answer, Ask, FrameBuffer, encode, pack, unpack

_RECONNECT_S = 0.05


class RunnerUnavailable(PredictorError):
    """The runner of a version is not there: it crashed, or is being started again."""

    code = "runner_unavailable"


class RemoteExecutor(asyncio.Protocol):
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
        self._duration = duration or DurationModel({})
        self._max_batch_rows = max_batch_rows
        self._path = path
        self._loop = loop
        self._who = f"version {version} of service {service!r}"
        self._transport: asyncio.Transport | None = None
        self._frames = FrameBuffer()
        self._asked: dict[int, tuple[Group, Callable[[Group], None]]] = {}
        self._next_id = 0
        self.waiting_rows = 0
        self._elsewhere_rows = 0
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
                await self._loop.create_unix_connection(lambda: self, self._path)
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
        return self._transport is not None

    @property
    def wait_s(self) -> float:
        rows_ahead = self.waiting_rows + self._elsewhere_rows
        return self._duration.wait_s(rows_ahead, max_batch_rows=self._max_batch_rows)

    def submit(self, group: Group, done: Callable[[Group], None]) -> None:
        """Send the rows to the runner."""
        if self._transport is None:
            group.error = self._unavailable()
            done(group)
            return
        if group.n_rows > self._max_batch_rows and len(group.calls) > 1:
            # in pieces of one batch at most, so that the first are answered while the last still wait
            for calls in _pieces(group.calls, self._max_batch_rows):
                self._send(group.part(calls), done)
        else:
            self._send(group, done)

    def _send(self, group: Group, done: Callable[[Group], None]) -> None:
        assert self._transport is not None
        self._next_id += 1
        self._asked[self._next_id] = (group, done)
        self.waiting_rows += group.n_rows
        # check inputs belong to no call: whoever tries them has a limit of its own
        deadline_s = max((call.deadline_s for call in group.calls), default=math.inf)
        self._transport.write(encode(Ask(self._next_id, deadline_s, group.n_rows, pack(group.inputs))))

    def close(self) -> None:
        self._closed = True
        if self._transport is not None:
            self._transport.close()

    # --- asyncio.Protocol ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # a Unix connection gives a Transport
        self._frames = FrameBuffer()

    def data_received(self, data: bytes) -> None:
        for answer in self._frames.feed(data):
            if isinstance(answer, Answer):
                self._take(answer)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        asked, self._asked = self._asked, {}
        self.waiting_rows = 0
        for group, done in asked.values():
            group.error = self._unavailable()
            done(group)
        if not self._closed:
            self.reconnect()

    # ---

    def _take(self, answer: Answer) -> None:
        group, done = self._asked.pop(answer.id)
        self.waiting_rows -= group.n_rows
        if answer.error == "deadline_exceeded":
            group.error = DeadlineExceeded("The model could not begin in time.", hint="Allow more time.")
        elif answer.error:
            group.error = PredictorError(answer.message, hint="The model is at fault, not the transport.")
        else:
            group.outputs = unpack(answer.parts, group.n_rows)
            group.predict_us = answer.predict_us
            group.batch_rows = answer.batch_rows
            self._duration.observe(answer.batch_rows, answer.predict_us / 1e6)
        self._elsewhere_rows = max(0, answer.waiting_rows - self.waiting_rows)
        done(group)

    async def _reconnect(self) -> None:
        while not self._closed and self._transport is None:
            try:
                await self._loop.create_unix_connection(lambda: self, self._path)
            except OSError:
                await asyncio.sleep(_RECONNECT_S)

    def _unavailable(self) -> RunnerUnavailable:
        return RunnerUnavailable(
            f"The process that runs {self._who} is not there.",
            hint="It is being started again; try in a moment.",
        )


def _pieces(calls: list[Call], max_rows: int) -> Iterator[list[Call]]:
    """Cut calls into runs of at most `max_rows` rows, or of one call that has more."""
    piece: list[Call] = []
    n_rows = 0
    for call in calls:
        if piece and n_rows + call.n_rows > max_rows:
            yield piece
            piece, n_rows = [], 0
        piece.append(call)
        n_rows += call.n_rows
    yield piece
