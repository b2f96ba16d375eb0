"""Runs a model in its runner, over a Unix socket."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

from tidegate.predictor.protocol import PredictorError
from tidegate.serving.call import DeadlineExceeded, Group
from tidegate.serving.frame import Answer, Ask, FrameBuffer, encode, pack, unpack

_RECONNECT_S = 0.05
_LEARNING_RATE = 0.2  # a model that slows down is known for it after a few calls


class RunnerUnavailable(PredictorError):
    """The runner of a version is not there: it crashed, or is being started again."""

    code = "runner_unavailable"


class RemoteExecutor(asyncio.Protocol):
    """An executor whose model is in another process.

    Learns from the answers how long a row takes, by which new requests are admitted.
    """

    def __init__(self, path: str, *, loop: asyncio.AbstractEventLoop, service: str, version: int) -> None:
        """Name the runner; `connect` has to be called.

        Args:
            path: Its Unix socket.
            loop: The event loop.
            service: Whose model it is, for messages.
            version: Likewise.
        """
        self._path = path
        self._loop = loop
        self._who = f"version {version} of service {service!r}"
        self._transport: asyncio.Transport | None = None
        self._frames = FrameBuffer()
        self._asked: dict[int, tuple[Group, Callable[[Group], None]]] = {}
        self._next_id = 0
        self._waiting_rows = 0
        self._elsewhere_rows = 0
        self._row_s = 0.0
        self._call_s = 0.0
        self._closed = False

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

    @property
    def waiting_rows(self) -> int:
        return self._waiting_rows

    @property
    def wait_s(self) -> float:
        return (self._waiting_rows + self._elsewhere_rows) * self._row_s + self._call_s

    def submit(self, group: Group, done: Callable[[Group], None]) -> None:
        """Send the rows to the runner."""
        if self._transport is None:
            group.error = self._unavailable()
            done(group)
            return
        self._next_id += 1
        self._asked[self._next_id] = (group, done)
        self._waiting_rows += group.n_rows
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
        self._waiting_rows = 0
        for group, done in asked.values():
            group.error = self._unavailable()
            done(group)
        if not self._closed:
            self._loop.create_task(self._reconnect())

    # ---

    def _take(self, answer: Answer) -> None:
        group, done = self._asked.pop(answer.id)
        self._waiting_rows -= group.n_rows
        if answer.error == "deadline_exceeded":
            group.error = DeadlineExceeded("The model could not begin in time.", hint="Allow more time.")
        elif answer.error:
            group.error = PredictorError(answer.message, hint="The model is at fault, not the transport.")
        else:
            group.outputs = unpack(answer.parts, group.n_rows)
            group.predict_us = answer.predict_us
            group.batch_rows = answer.batch_rows
            call_s = answer.predict_us / 1e6
            self._call_s += _LEARNING_RATE * (call_s - self._call_s)
            self._row_s += _LEARNING_RATE * (call_s / max(answer.batch_rows, 1) - self._row_s)
        self._elsewhere_rows = max(0, answer.waiting_rows - self._waiting_rows)
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
