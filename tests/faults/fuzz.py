"""Bytes against the HTTP protocol without a network: many thousand connections a second.

    python -m tests.faults.fuzz --inputs 10000000 --seed 1 --processes 2

Each input is one connection: valid requests with pieces cut out, put in, doubled or flipped, fed in
pieces. Whatever comes, every answer is whole HTTP, none is a 5xx, and after its end nothing is owed.
A failing input is printed with its seed and can be run again by itself (`--only N`).
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import multiprocessing
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec
import uvloop

from tests.serving.http.test_connection_fuzz import TOKENS, VALID, services
from tidegate.core.clock import SystemClock
from tidegate.core.identifier import uuid7_factory
from tidegate.journal.segment import JournalWriter, SystemFiles
from tidegate.serving.dataplane import DataPlane
from tidegate.serving.http.connection import Connection
from tidegate.serving.http.face import resources
from tidegate.serving.http.site import Site
from tidegate.serving.metric import MetricPage

_TOGETHER = 64
"""Connections that are open at once."""
_TURNS = 400
"""Turns of the loop after which an answer that is owed will not come."""


class Nowhere(SystemFiles):
    """A disk that keeps nothing: ten million inputs would fill a real one."""

    def write(self, descriptor: int, data: bytes | memoryview) -> int:
        return len(data)


class Wire:
    """A transport that keeps what is written; it stands in for a socket."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.closed = False

    def write(self, data: bytes) -> None:
        if not self.closed:
            self.written.append(data)

    def close(self) -> None:
        self.closed = True

    abort = close

    def is_closing(self) -> bool:
        return self.closed

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None: ...

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 1) if name == "peername" else default


class Fault(Exception):
    """The server did what it must not."""


def mutate(draw: random.Random) -> list[bytes]:
    """Return one connection's bytes, in the pieces in which they arrive."""
    data = bytearray(b"".join(draw.choices(VALID, k=draw.choice((1, 1, 2, 3)))))
    for _ in range(draw.choice((0, 1, 1, 2, 3, 6))):
        at = draw.randrange(len(data) + 1)
        until = min(len(data), at + int(draw.expovariate(0.1)))
        how = draw.randrange(6)
        if how == 0:
            data[at:until] = draw.choice(TOKENS)
        elif how == 1:
            data[at:until] = draw.randbytes(draw.randrange(9))
        elif how == 2:
            data[at:until] = bytes(data[at:until]) * 2
        elif how == 3:
            data[at:until] = b""
        elif how == 4 and at < len(data):
            data[at] ^= 1 << draw.randrange(8)
        else:
            data[at:at] = data[until : until + 20]
    cuts = sorted(draw.randrange(len(data) + 1) for _ in range(draw.choice((0, 0, 0, 1, 2))))
    edges = [0, *cuts, len(data)]
    return [bytes(data[start:stop]) for start, stop in itertools.pairwise(edges) if start < stop]


def check(written: bytes, *, hasty: bool = False) -> int:
    """Return how many answers `written` holds, after seeing that each is whole and is no 5xx.

    Args:
        written: What the server wrote.
        hasty: Whether the client allowed so little time that 503 and 504 are true.

    Raises:
        Fault: One is not.
    """
    n_answers = 0
    while written:
        head, gap, written = written.partition(b"\r\n\r\n")
        if not gap or not head.startswith(b"HTTP/1.1 "):
            raise Fault(f"no whole answer: {head[:200]!r}")
        status = int(head[9:12])
        if status >= 500 and not (hasty and status in (503, 504)):
            raise Fault(f"status {status}: {head[:80]!r} {written[:300]!r}")
        if status < 200:
            continue
        n_answers += 1
        lines = head.lower().split(b"\r\n")[1:]
        length = next((int(line[16:]) for line in lines if line.startswith(b"content-length: ")), None)
        if length is None or len(written) < length:
            raise Fault(f"an answer without its body: {head[:200]!r}")
        body, written = written[:length], written[length:]
        if b"content-type: application/json" in lines and not any(
            b"content-encoding" in line for line in lines
        ):
            json.loads(body)
    return n_answers


class Target:
    """A data plane in the running loop."""

    def __init__(self, folder: Path) -> None:
        self._loop = asyncio.get_running_loop()
        clock = SystemClock()
        self.defects: list[BaseException] = []
        metrics = folder / "metrics"
        metrics.mkdir()
        journal = JournalWriter(
            folder / "journal", cell="local", node="here", worker=0, clock=clock, files=Nowhere()
        )
        new_id = uuid7_factory(clock, random.Random(7))
        self.plane = DataPlane(
            self._loop, journal, clock=clock, metrics=MetricPage(metrics / "worker-0.page"), new_id=new_id
        )
        self.site = Site(on_defect=self.defects.append)
        for service in services():
            assert service.limits is not None
            # a busy machine is not what is looked for: only a client's own limit may run out
            service.limits = msgspec.structs.replace(service.limits, deadline_ms=600_000.0)
            self.plane.endpoints[service.name] = service.endpoint(self._loop)
        self.site.publish(resources(self.plane, metrics=metrics))

    async def run(self, inputs: list[list[bytes]]) -> int:
        """Take connections together, and return how many answers they got.

        Raises:
            Fault: With the number of the input.
        """
        opened = [self._feed(pieces) for pieces in inputs]
        await self._settle()
        for wire, connection in opened:
            if not wire.closed:
                connection.eof_received()
        await self._settle()
        n_answers = 0
        for number, (wire, connection) in enumerate(opened):
            hasty = b"timeout" in b"".join(inputs[number]).lower()
            try:
                n_answers += check(b"".join(wire.written), hasty=hasty)
                if connection.owes:
                    raise Fault("an answer is owed and does not come")
            except (Fault, ValueError) as fault:
                raise Fault(f"input {number}: {fault}") from fault
            connection.connection_lost(None)
        if self.defects:
            raise Fault(f"a defect: {self.defects[0]!r}")
        if self.site.connections:
            raise Fault(f"{len(self.site.connections)} connections are left behind")
        return n_answers

    def _feed(self, pieces: list[bytes]) -> tuple[Wire, Connection]:
        wire, connection = Wire(), Connection(self.site)
        connection.connection_made(wire)  # type: ignore[arg-type]  # has what a connection uses of one
        for piece in pieces:
            if wire.closed:
                break
            connection.data_received(piece)
        return wire, connection

    async def _settle(self) -> None:
        """Let the plane answer what it has; whoever has not sent a whole body is still owed an answer."""
        for turn in range(_TURNS):
            await asyncio.sleep(0 if turn < _TURNS // 2 else 0.01)  # a slow write is done beside the loop
            if turn > 1 and not self.plane.busy:
                return


async def fuzz(n_inputs: int, seed: int, *, first: int = 0) -> tuple[int, int]:
    """Try inputs `first` to `first + n_inputs` of a seed.

    Returns:
        Inputs and answers.

    Raises:
        Fault: With what to say to see it again.
    """
    n_answers = 0
    with tempfile.TemporaryDirectory() as folder:
        target = Target(Path(folder))
        for start in range(first, first + n_inputs, _TOGETHER):
            numbers = range(start, min(start + _TOGETHER, first + n_inputs))
            inputs = [mutate(random.Random(f"{seed}/{number}")) for number in numbers]
            try:
                n_answers += await target.run(inputs)
            except Exception as fault:
                raise Fault(
                    f"--seed {seed}, inputs {numbers.start} to {numbers.stop - 1}: {fault}"
                ) from fault
    return n_inputs, n_answers


def _share(arguments: tuple[int, int, int]) -> tuple[int, int]:
    n_inputs, seed, first = arguments
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(fuzz(n_inputs, seed, first=first))


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--only", type=int, help="run one input by itself")
    told = parser.parse_args()
    if told.only is not None:
        sys.stdout.write(
            f"{mutate(random.Random(f'{told.seed}/{told.only}'))}\n{_share((1, told.seed, told.only))}\n"
        )
        return
    began_s = time.monotonic()
    part = 20_000
    shares = [(min(part, told.inputs - first), told.seed, first) for first in range(0, told.inputs, part)]
    n_inputs = n_answers = 0
    with multiprocessing.get_context("spawn").Pool(told.processes) as pool:
        for done, answered in pool.imap_unordered(_share, shares):
            n_inputs, n_answers = n_inputs + done, n_answers + answered
            took_s = time.monotonic() - began_s
            sys.stdout.write(
                f"\r{n_inputs:,} inputs, {n_answers:,} answers, {n_inputs / took_s:,.0f} a second"
            )
            sys.stdout.flush()
    sys.stdout.write("\nno fault\n")


if __name__ == "__main__":
    main()
