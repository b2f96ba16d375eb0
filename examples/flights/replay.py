"""October 2013 as traffic: concurrent clients over HTTP, one flight a request, outcomes sent later."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
import polars as pl

OUTCOMES_PER_REQUEST = 500
ANSWER_S = 30.0
"""Far beyond any deadline of the server: an answer that takes longer will not come."""
_HOUR = np.timedelta64(1, "h")
_STEP = 200
"""Answers between two movements of the progress bar: drawing it takes longer than asking."""


class Answer(msgspec.Struct):
    """What came back for one flight.

    Attributes:
        prediction_id: The prediction's public id.
        version: Number of the version that answered.
        p_late: The probability.
        latency_s: From the request's first byte out to the answer's last byte in, seconds.
        answered_by: Name of the fallback, if one answered.
    """

    prediction_id: str
    version: int
    p_late: float
    latency_s: float
    answered_by: str


class _Output(msgspec.Struct):
    p_late: float


class _Body(msgspec.Struct):
    prediction_id: str
    version: int
    output: _Output
    answered_by: str = ""


_body = msgspec.json.Decoder(_Body)


class Client:
    """One kept-alive connection."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def post(self, path: str, body: bytes) -> tuple[int, bytes]:
        """Send one request and return status and body of the answer.

        Raises:
            OSError: The connection broke.
            EOFError: The server closed it.
            TimeoutError: There was no answer within `ANSWER_S`.
        """
        if self._reader is None or self._writer is None:
            self._reader, self._writer = await asyncio.open_connection(self._host, self._port)
        self._writer.write(
            f"POST {path} HTTP/1.1\r\nhost: {self._host}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\n\r\n".encode()
            + body
        )
        async with asyncio.timeout(ANSWER_S):
            return await self._answer(self._reader)

    async def _answer(self, reader: asyncio.StreamReader) -> tuple[int, bytes]:
        head = await reader.readuntil(b"\r\n\r\n")
        status = int(head[9:12])
        length = next(
            int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")
        )
        return status, await reader.readexactly(length)

    def close(self) -> None:
        """Close the connection."""
        if self._writer is not None:
            self._writer.close()


def requests_of(flights: pl.DataFrame, fields: Sequence[str]) -> list[bytes]:
    """Return the body of one request a flight; what is not known is null."""
    return [msgspec.json.encode(row) for row in _aware(flights.select(fields)).iter_rows(named=True)]


class Hour(NamedTuple):
    """An hour of traffic.

    Attributes:
        stop: Number of flights up to its end.
        events: What became known in it: view -> body of a request that says so.
    """

    stop: int
    events: dict[str, bytes]


def hours_of(flights: pl.DataFrame, events: Mapping[str, tuple[pl.DataFrame, str]]) -> list[Hour]:
    """Cut flights, in order of scheduled departure, into hours with what became known in each.

    Args:
        flights: The flights.
        events: View -> its table, and the column of the time at which a row is known.
    """
    hour = flights["sched_dep_at"].dt.truncate("1h")
    moments = pl.datetime_range(hour[0], hour[-1], "1h", eager=True)
    stops = np.searchsorted(hour.to_numpy(), moments.to_numpy(), "right").tolist()
    known = {
        name: (_aware(table.sort(column)), table[column].sort().to_numpy())
        for name, (table, column) in events.items()
    }
    hours = []
    for moment, stop in zip(moments, stops, strict=True):
        sent = {}
        for name, (table, times) in known.items():
            first, end = np.searchsorted(
                times, [np.datetime64(moment), np.datetime64(moment) + _HOUR]
            ).tolist()
            if end > first:
                rows = table.slice(first, end - first).to_dicts()
                sent[name] = msgspec.json.encode({"events": rows})
        hours.append(Hour(stop, sent))
    return hours


def _aware(table: pl.DataFrame) -> pl.DataFrame:
    """Return a table whose times say that they are UTC."""
    return table.with_columns(pl.selectors.datetime(time_zone=None).dt.replace_time_zone("UTC"))


async def ask(
    address: tuple[str, int],
    path: str,
    bodies: Sequence[bytes],
    *,
    control: tuple[str, int],
    hours: Sequence[Hour],
    n_clients: int,
    on_progress: Callable[[int], Any],
) -> list[Answer]:
    """Ask about every flight, in order, each client for the next one as soon as it has its answer.

    Before the flights of an hour, the events of that hour are put into the online store: what is read
    is as of a flight's own departure, so what lies behind it in the hour is not seen. `on_progress` is
    told from time to time how many were asked about.

    Raises:
        RuntimeError: A request was not answered with 200.
    """
    answers: list[Answer | None] = [None] * len(bodies)

    async def work(client: Client, queue: Iterator[int]) -> None:
        for position in queue:  # shared: an iterator hands each flight to one client
            began_s = time.perf_counter()
            status, text = await client.post(path, bodies[position])
            latency_s = time.perf_counter() - began_s
            if status != 200:
                raise RuntimeError(f"{path} answered {status}: {text.decode()}")
            got = _body.decode(text)
            answers[position] = Answer(
                got.prediction_id, got.version, got.output.p_late, latency_s, got.answered_by
            )
            if position % _STEP == 0:
                on_progress(position)

    clients, start = [Client(*address) for _ in range(n_clients)], 0
    controller = Client(*control)
    for hour in hours:
        for view, body in hour.events.items():
            status, text = await controller.post(f"/features/{view}/events", body)
            if status != 200:
                raise RuntimeError(f"View {view} answered {status}: {text.decode()}")
        queue = iter(range(start, hour.stop))
        start = hour.stop
        async with asyncio.TaskGroup() as group:
            for client in clients:
                group.create_task(work(client, queue))
    for client in (*clients, controller):
        client.close()
    on_progress(len(bodies))
    return [answer for answer in answers if answer is not None]


async def tell(
    address: tuple[str, int],
    path: str,
    outcomes: Sequence[tuple[str, bool]],
    *,
    on_told: Callable[[int], Any],
) -> int:
    """Report what became of predictions: (prediction id, late or not). Returns how many were accepted.

    Raises:
        RuntimeError: A report was not accepted.
    """
    client, accepted = Client(*address), 0
    for chunk in _chunks(outcomes, OUTCOMES_PER_REQUEST):
        # the same id again, after a lost answer, would change nothing
        reports = [{"prediction_id": name, "value": late, "id": f"arrival-{name}"} for name, late in chunk]
        status, text = await client.post(path, msgspec.json.encode({"outcomes": reports}))
        if status != 202:
            raise RuntimeError(f"{path} answered {status}: {text.decode()}")
        accepted += int(msgspec.json.decode(text)["accepted"])
        on_told(len(chunk))
    client.close()
    return accepted


def _chunks(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
