"""An executor whose model another server runs: asked from the loop, by connections that are kept.

A call that takes longer than most is asked a second time, on another connection, and the first answer
wins (where that is declared). What is under way at once follows what answers take: nothing else is
known of a server that is not ours.

Source: Dean & Barroso, "The Tail at Scale", CACM 56(2), 2013 (hedged requests after the 95th percentile).
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Any

import httptools

from tidegate.contract.schema import Contract
from tidegate.predictor.protocol import PredictorError
from tidegate.predictor.remote import (
    MAX_ANSWER_BYTES,
    RemoteOptions,
    decode_rows,
    encode_rows,
    infer_path,
    refused,
    split_url,
    unreachable,
)
from tidegate.serving.call import DeadlineExceeded, Group, Overloaded
from tidegate.serving.limit import GradientLimit

HEDGE_QUANTILE = 0.95
HEDGE_BUDGET = 0.1
"""Second asks over first ones, at most: a server that is slow for all must not be asked twice by all."""
MIN_IN_FLIGHT = 8
MAX_IDLE = 64
_KNOWN = 200  # durations of which the quantile is taken
_LEARN_AFTER = 20


class Durations:
    """A quantile of the last calls' durations."""

    def __init__(self) -> None:
        self._last_s: deque[float] = deque(maxlen=_KNOWN)
        self._high_s = 0.0
        self._n_new = 0

    def observe(self, took_s: float) -> None:
        self._last_s.append(took_s)
        self._n_new += 1
        if self._n_new >= _LEARN_AFTER:
            self._n_new = 0
            known = sorted(self._last_s)
            self._high_s = known[min(len(known) - 1, int(HEDGE_QUANTILE * len(known)))]

    @property
    def hedge_after_s(self) -> float | None:
        """After which a call takes longer than most; None while too little is known."""
        return self._high_s or None


class _Wire(asyncio.Protocol):
    """One kept connection, one request at a time."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.is_open = True
        self._parser: Any = None
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None
        self._body: list[bytes] = []
        self._n_bytes = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]  # a stream connection gives a Transport

    def ask(self, request: bytes) -> asyncio.Future[tuple[int, bytes]]:
        """Send a request; the future is its status and body."""
        assert self.transport is not None
        self._parser = httptools.HttpResponseParser(self)
        self._answer = asyncio.get_running_loop().create_future()
        self._body, self._n_bytes = [], 0
        self.transport.write(request)
        return self._answer

    def close(self) -> None:
        self.is_open = False
        if self.transport is not None:
            self.transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._answer is None or self._answer.done():
            self.close()  # nobody asked
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._fail(error)

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(exc or ConnectionResetError())

    def on_body(self, body: bytes) -> None:
        self._n_bytes += len(body)
        if self._n_bytes > MAX_ANSWER_BYTES:
            self._fail(ValueError("the answer is too large"))
        self._body.append(body)

    def on_message_complete(self) -> None:
        if not self._parser.should_keep_alive():
            self.is_open = False
        if self._answer is not None and not self._answer.done():
            self._answer.set_result((self._parser.get_status_code(), b"".join(self._body)))

    def _fail(self, error: BaseException) -> None:
        self.close()
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error if isinstance(error, Exception) else ConnectionResetError())


class UpstreamExecutor:
    """Asks another server for the rows of a group."""

    is_there = True

    def __init__(
        self,
        contract: Contract,
        options: RemoteOptions,
        *,
        loop: asyncio.AbstractEventLoop,
        side_effects: bool = False,
    ) -> None:
        """Take what is declared; `resolve` has to be called.

        Args:
            contract: What the model takes and gives.
            options: Where it is.
            loop: The event loop.
            side_effects: Whether a call does something beside answering, so that none is made twice.
        """
        self._contract = contract
        self._options = options
        self._loop = loop
        self._parts = split_url(options.url)
        self._hedges = options.hedge and not side_effects
        self._retries = not side_effects
        self._context = ssl.create_default_context() if self._parts.scheme == "https" else None
        host = self._parts.netloc
        self._head = (
            f"POST {infer_path(options)} HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n"
            "content-length: "
        ).encode()
        self._addresses: list[str] = []
        self._idle: list[_Wire] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._limit = GradientLimit(minimum=MIN_IN_FLIGHT, initial=64)
        self._durations = Durations()
        self._in_flight = 0
        self._hedge_tokens = 1.0
        self.waiting_rows = 0
        self.n_hedged = 0

    async def resolve(self) -> None:
        """Look the server's addresses up, once: a name that changes its mind is not followed.

        Raises:
            RemoteUnavailable: It has none.
        """
        port = self._parts.port or (443 if self._context else 80)
        try:
            found = await self._loop.getaddrinfo(self._parts.hostname, port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise unreachable(error) from error
        self._addresses = [str(entry[4][0]) for entry in found]

    @property
    def wait_s(self) -> float:
        return 0.0

    def submit(self, group: Group, done: Callable[[Group], None]) -> None:
        """Ask the server; `done` is called when it has answered or failed."""
        if self._in_flight >= self._limit.limit:
            group.error = Overloaded(
                "As many calls are under way at the remote server as it answers in time.",
                hint="Try again after the time in Retry-After.",
                retry_after_s=1.0,
            )
            done(group)
            return
        task = self._loop.create_task(self._run(group, done))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def close(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        for wire in self._idle:
            wire.close()
        self._idle.clear()

    async def _run(self, group: Group, done: Callable[[Group], None]) -> None:
        began_s = monotonic()
        self._in_flight += 1
        self.waiting_rows += group.n_rows
        due_s = max((call.deadline_s for call in group.calls), default=began_s + self._options.timeout_s)
        limit_s = min(self._options.timeout_s, max(0.001, due_s - began_s))
        try:
            body = encode_rows(self._contract, group.inputs)
            request = b"%b%d\r\n\r\n%b" % (self._head, len(body), body)
            async with asyncio.timeout(limit_s):
                status, answer = await self._ask_hedged(request)
            if status != 200:
                raise refused(status)
            group.outputs = decode_rows(self._contract, answer, group.n_rows)
        except PredictorError as error:
            group.error = error
        except TimeoutError:
            group.error = DeadlineExceeded(
                "The remote server did not answer in time.", hint="Allow more time."
            )
        except (OSError, ValueError, httptools.HttpParserError) as error:
            group.error = unreachable(error)
        finally:
            took_s = monotonic() - began_s
            self._limit.observe(took_s, in_flight=self._in_flight, now_s=began_s + took_s)
            self._in_flight -= 1
            self.waiting_rows -= group.n_rows
        if group.error is None:
            self._durations.observe(took_s)
            group.predict_us = took_s * 1e6
            group.batch_rows = group.n_rows
        done(group)

    async def _ask_hedged(self, request: bytes) -> tuple[int, bytes]:
        """Ask once, and once more where the first ask takes longer than most; the first answer wins."""
        after_s = self._durations.hedge_after_s if self._hedges else None
        if after_s is None:
            return await self._ask(request)
        self._hedge_tokens = min(10.0, self._hedge_tokens + HEDGE_BUDGET)
        first = self._loop.create_task(self._ask(request))
        asked = {first}
        try:
            await asyncio.wait(asked, timeout=after_s)
            if not first.done() and self._hedge_tokens >= 1.0:
                self._hedge_tokens -= 1.0
                self.n_hedged += 1
                asked.add(self._loop.create_task(self._ask(request)))
            while True:
                finished, left = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
                good = next((one for one in finished if one.exception() is None), None)
                if good is not None or not left:
                    return (good or finished.pop()).result()
                asked = left
        finally:
            for task in asked:
                task.cancel()

    async def _ask(self, request: bytes) -> tuple[int, bytes]:
        while self._idle:
            wire = self._idle.pop()
            if not wire.is_open:
                continue
            try:
                return await self._ask_on(wire, request)
            except OSError:  # it was closed while it was idle: the server has not begun with this
                if not self._retries:
                    raise
        return await self._ask_on(await self._connect(), request)

    async def _ask_on(self, wire: _Wire, request: bytes) -> tuple[int, bytes]:
        try:
            answer = await wire.ask(request)
        except BaseException:
            wire.close()  # what comes on it later belongs to nobody
            raise
        if wire.is_open and len(self._idle) < MAX_IDLE:
            self._idle.append(wire)
        else:
            wire.close()
        return answer

    async def _connect(self) -> _Wire:
        if not self._addresses:
            await self.resolve()
        port = self._parts.port or (443 if self._context else 80)
        name = self._parts.hostname if self._context else None
        failure: OSError | None = None
        for address in self._addresses:
            try:
                _, wire = await self._loop.create_connection(
                    _Wire, address, port, ssl=self._context, server_hostname=name
                )
            except OSError as error:
                failure = error
            else:
                return wire
        raise failure or ConnectionRefusedError()
