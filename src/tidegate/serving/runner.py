"""A runner: one process, one model, used by all workers of a machine.

One thread, no timer. While the model runs, requests gather in the sockets; when it is done, what
gathered is read and becomes the next batch. A lone request waits for nothing.
"""

from __future__ import annotations

import selectors
import socket
from collections import deque
from collections.abc import Callable
from math import inf
from time import perf_counter

from tidegate.contract.batch import Batch
from tidegate.core.clock import Clock
from tidegate.predictor.protocol import Predictor, PredictorError
from tidegate.serving.duration import DurationModel
from tidegate.serving.frame import Answer, Ask, FrameBuffer, encode, pack, unpack
from tidegate.serving.inline import predict_checked

_RECEIVE_BYTES = 1 << 20


class Peer:
    """One worker's connection."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self.connection = connection
        self.buffer = FrameBuffer()
        self.unsent = bytearray()
        self.gone = False


class Runner:
    """Gathers rows from all workers into batches and answers each with its own."""

    def __init__(
        self,
        listener: socket.socket,
        predictor: Predictor,
        *,
        clock: Clock,
        max_batch_rows: int,
        duration: DurationModel | None = None,
        on_busy: Callable[[bool], None] = lambda busy: None,
    ) -> None:
        """Take a listening socket and a loaded predictor.

        Args:
            listener: Unix socket on which workers connect.
            predictor: The model.
            clock: Time, for deadlines.
            max_batch_rows: Rows of one call of the model; 1 where it takes no batches.
            duration: How long calls take; learns on. None if nothing is known yet.
            on_busy: Told when a call of the model begins and ends, for the supervisor's eye.
        """
        self._listener = listener
        self._predictor = predictor
        self._clock = clock
        self._max_batch_rows = max_batch_rows
        self._on_busy = on_busy
        self._selector = selectors.DefaultSelector()
        self._waiting: deque[tuple[Peer, Ask]] = deque()
        self._duration = duration or DurationModel({})
        listener.setblocking(False)
        self._selector.register(listener, selectors.EVENT_READ)

    def serve(self, stop: Callable[[], bool]) -> None:
        """Serve until `stop` says so; it is asked at least once a second."""
        while not stop():
            self._receive(0.0 if self._waiting else 1.0)
            if self._waiting:
                self._run_batch()
        for key in list(self._selector.get_map().values()):
            if isinstance(key.data, Peer):
                key.data.connection.close()
        self._selector.close()

    def _receive(self, timeout_s: float) -> None:
        for key, mask in self._selector.select(timeout_s):
            if key.data is None:
                self._accept()
                continue
            peer: Peer = key.data
            if mask & selectors.EVENT_WRITE:
                self._send(peer, b"")
            if mask & selectors.EVENT_READ:
                self._read(peer)

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:  # it went away between the event and the call
            return
        self._selector.register(connection, selectors.EVENT_READ, Peer(connection))

    def _read(self, peer: Peer) -> None:
        try:
            data = peer.connection.recv(_RECEIVE_BYTES)
            messages = peer.buffer.feed(data)
        except BlockingIOError:
            return
        except (OSError, ValueError):  # the worker died, or does not speak our frames
            data, messages = b"", []
        if not data:
            self._drop(peer)
            return
        self._waiting.extend((peer, message) for message in messages if isinstance(message, Ask))

    def _drop(self, peer: Peer) -> None:
        if not peer.gone:
            peer.gone = True
            self._selector.unregister(peer.connection)
            peer.connection.close()

    def _run_batch(self) -> None:
        """Take what waits, up to the largest batch that is done before the first of its deadlines.

        What could not be answered in time is left out before the batch is formed, so that it takes
        no time from what still can be. If that is everything, one is tried all the same: else a
        pessimistic estimate would never be corrected.
        """
        now_s = self._clock.monotonic_s()
        members: list[tuple[Peer, Ask]] = []
        hopeless: tuple[Peer, Ask] | None = None
        n_rows, due_s = 0, inf
        while self._waiting:
            peer, ask = self._waiting[0]
            done_s = now_s + self._call_s(ask.n_rows)
            if peer.gone or ask.deadline_s <= done_s:
                self._waiting.popleft()
                if not peer.gone and ask.deadline_s > now_s:
                    hopeless = self._give_up(hopeless, (peer, ask))
                else:
                    self._give_up((peer, ask), None)
                continue
            total = n_rows + ask.n_rows
            due_s = min(due_s, ask.deadline_s)
            if members and (total > self._max_batch_rows or now_s + self._call_s(total) > due_s):
                break
            self._waiting.popleft()
            members.append((peer, ask))
            n_rows = total
        if hopeless is not None and not members:
            members.append(hopeless)
        else:
            self._give_up(hopeless, None)
        if members:
            self._on_busy(True)
            self._run(members)
            self._on_busy(False)

    def _call_s(self, n_rows: int) -> float:
        return self._duration.wait_s(n_rows - 1, max_batch_rows=self._max_batch_rows)

    def _give_up(
        self, late: tuple[Peer, Ask] | None, instead: tuple[Peer, Ask] | None
    ) -> tuple[Peer, Ask] | None:
        """Answer `late` that its time was over, and return the other."""
        if late is not None and not late[0].gone:
            message = "There was not enough time left for the model."
            self._answer(late[0], Answer(late[1].id, error="deadline_exceeded", message=message))
        return instead

    def _run(self, members: list[tuple[Peer, Ask]]) -> None:
        inputs = Batch.concat([unpack(ask.parts, ask.n_rows) for _, ask in members])
        started_s = perf_counter()
        try:
            outputs = self._predict(inputs)
        except PredictorError as error:
            if len(members) > 1:  # one worker's rows must not fail another's
                for member in members:
                    self._run([member])
                return
            peer, ask = members[0]
            self._answer(peer, Answer(ask.id, error=error.code, message=error.message))
            return
        n_calls = -(-inputs.n_rows // self._max_batch_rows)
        took_s = (perf_counter() - started_s) / n_calls
        took_us = took_s * 1e6
        self._receive(0.0)  # what came meanwhile waits too: callers are told the whole queue
        batch_rows = -(-inputs.n_rows // n_calls)
        self._duration.observe(batch_rows, took_s)
        waiting_rows = sum(ask.n_rows for _, ask in self._waiting)
        start = 0
        for peer, ask in members:
            part = outputs if len(members) == 1 else outputs.rows(start, start + ask.n_rows)
            start += ask.n_rows
            self._answer(peer, Answer(ask.id, pack(part), took_us, batch_rows, waiting_rows))

    def _predict(self, inputs: Batch) -> Batch:
        limit = self._max_batch_rows
        if inputs.n_rows <= limit:
            return predict_checked(self._predictor, inputs)
        starts = range(0, inputs.n_rows, limit)
        return Batch.concat(
            [
                predict_checked(self._predictor, inputs.rows(at, min(at + limit, inputs.n_rows)))
                for at in starts
            ]
        )

    def _answer(self, peer: Peer, answer: Answer) -> None:
        if not peer.gone:
            self._send(peer, encode(answer))

    def _send(self, peer: Peer, data: bytes) -> None:
        """Send without ever waiting: a worker that does not read must not stop the others."""
        peer.unsent += data
        try:
            while peer.unsent:
                sent = peer.connection.send(peer.unsent)
                del peer.unsent[:sent]
        except BlockingIOError:
            pass
        except OSError:
            self._drop(peer)
            return
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if peer.unsent else 0)
        if self._selector.get_key(peer.connection).events != wanted:
            self._selector.modify(peer.connection, wanted, peer)
