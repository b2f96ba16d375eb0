"""A runner: one process, one model, used by all workers of a machine.

One thread, no timer. While the model runs, requests gather in the sockets; when it is done, what
gathered is read and becomes the next batch. A lone request waits for nothing.
"""

from __future__ import annotations

import selectors
import socket
from collections.abc import Callable, Iterator
from itertools import groupby
from math import inf
from time import perf_counter

from tidegate.contract.batch import Batch
from tidegate.core.clock import Clock
from tidegate.predictor.protocol import Predictor, PredictorError
from tidegate.serving.duration import DurationModel
from tidegate.serving.frame import MOVING, Answer, Ask, Cancel, FrameBuffer, encode, pack, unpack
from tidegate.serving.inline import predict_checked
from tidegate.serving.quarantine import UNKNOWN, Fingerprint, QuarantinedInput, RowGuard
from tidegate.serving.queue import CallQueue, Waiting

_RECEIVE_BYTES = 1 << 20
_HAND_OVER_S = 20.0
"""After this a worker that still holds on to a runner that hands over is left."""


class Peer:
    """One worker's connection."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self.connection = connection
        self.buffer = FrameBuffer()
        self.unsent = bytearray()
        self.waiting: dict[int, Waiting[tuple[Peer, Ask]]] = {}
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
        on_call: Callable[[float | None], None] = lambda due_s: None,
        guard: RowGuard | None = None,
    ) -> None:
        """Take a listening socket and a loaded predictor.

        Args:
            listener: Unix socket on which workers connect.
            predictor: The model.
            clock: Time, for deadlines.
            max_batch_rows: Rows of one call of the model; 1 where it takes no batches.
            duration: How long calls take; learns on. None if nothing is known yet.
            on_call: Told when a call of the model begins, with the last deadline of those who wait for
                it, and, with None, when it ends: for the supervisor's eye.
            guard: Knows the rows that the model does not survive; None where that need not be known.
        """
        self._listener = listener
        self._predictor = predictor
        self._clock = clock
        self._max_batch_rows = max_batch_rows
        self._on_call = on_call
        self._guard = guard
        # one space for all: to allocate so much for each message takes eight times as long as to receive it
        self._space = memoryview(bytearray(_RECEIVE_BYTES))
        self._selector = selectors.DefaultSelector()
        self._duration = duration or DurationModel({})
        self._queue: CallQueue[tuple[Peer, Ask]] = CallQueue(
            max_batch_rows=max_batch_rows, call_s=self._call_s
        )
        self._told: set[Peer] = set()
        listener.setblocking(False)
        self._selector.register(listener, selectors.EVENT_READ)

    def serve(self, stop: Callable[[], bool]) -> None:
        """Serve until `stop` says so; it is asked at least once a second."""
        while not stop():
            self._receive(0.0 if len(self._queue) else 1.0)
            if len(self._queue):
                self._run_batch()
        self._hand_over()
        for peer in self._peers():
            peer.connection.close()
        self._selector.close()

    def let_go(self) -> None:
        """Close everything, in a process that the model has forked: else workers go on asking it.

        Nobody is told, and nothing is taken out of the selector, which is the runner's own as well.
        """
        self._listener.close()
        for peer in self._peers():
            peer.connection.close()
        self._selector.close()

    def _hand_over(self) -> None:
        """Tell the workers to turn to whoever listens now, and answer what they have asked until they do."""
        self._selector.unregister(self._listener)
        for peer in self._peers():
            self._answer(peer, Answer([], [], error=MOVING))
        self._flush()
        give_up_s = self._clock.monotonic_s() + _HAND_OVER_S
        while self._peers() and self._clock.monotonic_s() < give_up_s:
            self._receive(0.0 if len(self._queue) else 0.1)
            if len(self._queue):
                self._run_batch()

    def _peers(self) -> list[Peer]:
        return [key.data for key in self._selector.get_map().values() if key.data is not None]

    def _receive(self, timeout_s: float) -> None:
        for key, mask in self._selector.select(timeout_s):
            if key.data is None:
                self._accept()
                continue
            peer: Peer = key.data
            if mask & selectors.EVENT_WRITE:
                self._send(peer)
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
            n_bytes = peer.connection.recv_into(self._space)
            messages = peer.buffer.feed(self._space[:n_bytes])
        except BlockingIOError:
            return
        except (OSError, ValueError):  # the worker died, or does not speak our frames
            n_bytes, messages = 0, []
        if not n_bytes:
            self._drop(peer)
            return
        for message in messages:
            if isinstance(message, Ask):
                self._put(peer, message)
            elif isinstance(message, Cancel) and (entry := peer.waiting.pop(message.id, None)) is not None:
                self._queue.cancel(entry)

    def _put(self, peer: Peer, ask: Ask) -> None:
        peer.waiting[ask.id] = self._queue.put(
            (peer, ask),
            n_rows=ask.n_rows,
            deadline_s=ask.deadline_s,
            now_s=self._clock.monotonic_s(),
            criticality=ask.criticality,
        )

    def _drop(self, peer: Peer) -> None:
        if not peer.gone:
            peer.gone = True
            self._selector.unregister(peer.connection)
            peer.connection.close()
            for entry in peer.waiting.values():
                self._queue.cancel(entry)
            peer.waiting.clear()

    def _run_batch(self) -> None:
        """Run what the queue gives next, and tell at once whom it gives up."""
        batch, late, shed = self._queue.take(self._clock.monotonic_s())
        for peer, ask in late:
            message = "There was not enough time left for the model."
            self._answer(peer, Answer([ask.id], [ask.n_rows], error="deadline_exceeded", message=message))
        for peer, ask in shed:
            message = "Newer or more critical requests were served instead."
            self._answer(peer, Answer([ask.id], [ask.n_rows], error="overloaded", message=message))
        self._flush()
        if batch:
            self._on_call(max(ask.deadline_s for _, ask in batch))
            self._run(batch)
            self._on_call(None)

    def _call_s(self, n_rows: int) -> float:
        return self._duration.wait_s(n_rows - 1, max_batch_rows=self._max_batch_rows)

    def _run(self, members: list[tuple[Peer, Ask]]) -> None:
        members.sort(key=lambda member: id(member[0]))  # each worker's rows together, in their order
        inputs = Batch.concat([unpack(ask.parts, ask.n_rows) for _, ask in members])
        rows: list[Fingerprint] = []
        if self._guard is not None:
            rows = self._fingerprints(self._guard, members, inputs)
            if self._refuse(members, rows):
                return
        started_s = perf_counter()
        try:
            outputs = self._predict(inputs, rows)
        except PredictorError as error:
            half = len(members) // 2
            if half:  # one caller's rows must not fail another's
                self._run(members[:half])
                self._run(members[half:])
                return
            if self._guard is not None and len(rows) == 1:
                self._guard.quarantine.failed_alone(rows[0])
            peer, ask = members[0]
            self._answer(peer, Answer([ask.id], [ask.n_rows], error=error.code, message=error.message))
            self._flush()
            return
        n_calls = -(-inputs.n_rows // self._max_batch_rows)
        took_s = (perf_counter() - started_s) / n_calls
        took_us = took_s * 1e6
        self._receive(0.0)  # what came meanwhile waits too: callers are told the whole queue
        batch_rows = -(-inputs.n_rows // n_calls)
        self._duration.observe(batch_rows, took_s)
        waiting_rows = self._queue.rows
        standing = self._queue.is_standing(self._clock.monotonic_s())
        peers = len(self._selector.get_map()) - 1  # beside the listener
        start = 0
        for peer, asks in _by_peer(members):
            sizes = [ask.n_rows for ask in asks]
            stop = start + sum(sizes)
            part = outputs if stop - start == outputs.n_rows else outputs.rows(start, stop)
            start = stop
            answer = Answer(
                [ask.id for ask in asks],
                sizes,
                pack(part),
                took_us,
                batch_rows,
                waiting_rows,
                standing=standing,
                peers=peers,
            )
            self._answer(peer, answer)
        self._flush()

    def _fingerprints(
        self, guard: RowGuard, members: list[tuple[Peer, Ask]], inputs: Batch
    ) -> list[Fingerprint]:
        rows = guard.fingerprints(inputs)
        start = 0
        for _, ask in members:
            if ask.deadline_s == inf:  # check inputs: the model has answered them, so they are not at fault
                rows[start : start + ask.n_rows] = [UNKNOWN] * ask.n_rows
            start += ask.n_rows
        return rows

    def _refuse(self, members: list[tuple[Peer, Ask]], rows: list[Fingerprint]) -> bool:
        """Answer those whose rows the model does not survive, run the others; False if there are none."""
        assert self._guard is not None
        quarantine = self._guard.quarantine
        refused = set(quarantine.refused(rows))
        if not refused:
            return False
        rest = []
        start = 0
        for peer, ask in members:
            bad = [row - start for row in range(start, start + ask.n_rows) if row in refused]
            if bad:
                is_shared = quarantine.is_shared(rows[start + row] for row in bad)
                message = "The model is not asked: it did not survive this input before."
                self._answer(
                    peer,
                    Answer(
                        [ask.id],
                        [ask.n_rows],
                        error=QuarantinedInput.code,
                        message=message,
                        bad_rows=bad,
                        is_shared=is_shared,
                    ),
                )
            else:
                rest.append((peer, ask))
            start += ask.n_rows
        self._flush()
        if rest:
            self._run(rest)
        return True

    def _predict(self, inputs: Batch, rows: list[Fingerprint]) -> Batch:
        limit = self._max_batch_rows
        if self._guard is not None:
            calls = self._guard.quarantine.calls(rows)
            if len(calls) > 1:
                return self._predict_apart(inputs, rows, calls)
        if inputs.n_rows <= limit:
            return self._call(inputs, rows)
        starts = range(0, inputs.n_rows, limit)
        return Batch.concat(
            [
                self._call(inputs.rows(at, min(at + limit, inputs.n_rows)), rows[at : at + limit])
                for at in starts
            ]
        )

    def _predict_apart(self, inputs: Batch, rows: list[Fingerprint], calls: list[list[int]]) -> Batch:
        """Run suspects apart from the others, and put the answers back in order."""
        limit = self._max_batch_rows
        pieces = [call[at : at + limit] for call in calls for at in range(0, len(call), limit)]
        parts = [self._call(inputs.take(piece), [rows[row] for row in piece]) for piece in pieces]
        order = [row for piece in pieces for row in piece]
        places = sorted(range(len(order)), key=order.__getitem__)
        return Batch.concat(parts).take(places)

    def _call(self, inputs: Batch, rows: list[Fingerprint]) -> Batch:
        if self._guard is None:
            return predict_checked(self._predictor, inputs)
        self._guard.notes.begin(rows)
        try:
            outputs = predict_checked(self._predictor, inputs)
        finally:
            self._guard.notes.end()
        self._guard.quarantine.worked(rows)
        return outputs

    def _answer(self, peer: Peer, answer: Answer) -> None:
        for ask_id in answer.ids:
            peer.waiting.pop(ask_id, None)
        if not peer.gone:
            peer.unsent += encode(answer)
            self._told.add(peer)

    def _flush(self) -> None:
        """Send what there is to tell: all that a worker is told at once wakes it once."""
        for peer in self._told:
            if not peer.gone:
                self._send(peer)
        self._told.clear()

    def _send(self, peer: Peer) -> None:
        """Send without ever waiting: a worker that does not read must not stop the others."""
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


def _by_peer(members: list[tuple[Peer, Ask]]) -> Iterator[tuple[Peer, list[Ask]]]:
    """Return each worker's asks; its members stand together."""
    for _, run in groupby(members, key=lambda member: id(member[0])):
        of_one = list(run)
        yield of_one[0][0], [ask for _, ask in of_one]
