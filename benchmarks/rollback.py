"""Rollback at ten times the capacity: from the command to the last answer of the version taken away.

A candidate has half of the keys of a service whose model burns 3 ms of a core a row, and ten times as
many requests come as both versions can answer. Another process asks beside them and notes when, and by
which version, it was answered. Each try gives the candidate its keys again, waits until it answers, and
rolls back: over the control port, from a process that is ready to (with the database killed, and with
the controller killed), and by the whole `tidegate rollback` with the start of its interpreter.
"""

from __future__ import annotations

import asyncio
import json
import mmap
import multiprocessing
import shutil
import statistics
import struct
import subprocess
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from benchmarks import load
from benchmarks.measure import Goal, Options, Report, Table
from benchmarks.process import program
from tests.system.model import add_version, deploy, write_function
from tests.system.postgresql import postgresql, serving_on
from tests.system.server import Server, wait_until
from tidegate.bootstrap.local import Local
from tidegate.operation.release import roll_back
from tidegate.route.route import CANDIDATE, ServiceRoute, resize
from tidegate.serving.metric import find_cells

SERVICE = "spin"
PATH = f"/services/{SERVICE}/predict"
ROW_S = 0.003
SPIN = f"""
end = time.perf_counter() + {ROW_S} * len(columns["a"])
while time.perf_counter() < end:
    pass
return {{"total": columns["a"] + columns["b"]}}
"""
OVERLOAD = 10.0
TIMEOUT_MS = 1000
OBSERVERS = 24
AFTER_S = 0.6
LOOK_S = 0.002
LIMIT_MS = 250.0
TRIES = 200
EXPECTED = frozenset({"overloaded", "deadline_exceeded"})
"""Errors that ten times the capacity makes with any version."""


class Seen(NamedTuple):
    """What the observer saw.

    Attributes:
        answers: How many answers it got.
        errors: How many of them by code, and connections that broke.
        n_candidate: Answers of the candidate to anybody, as the workers counted them, ever.
        last_s: When that count last grew, monotonic.
    """

    answers: int
    errors: dict[str, int]
    n_candidate: int
    last_s: float


class Try(msgspec.Struct, frozen=True):
    """One rollback.

    Attributes:
        last_ms: From the command to the last answer of the version taken away; 0 if none came after it.
        took_ms: From the command to its end.
        n_candidate: Answers that it gave before the command.
        seen: Answers that the observer got since.
        failed: Those of them that were neither good nor refused for the load.
    """

    last_ms: float
    took_ms: float
    n_candidate: int
    seen: int
    failed: dict[str, int]


def _nothing() -> None: ...


class Way(NamedTuple):
    """A way to roll back.

    Attributes:
        name: For the table.
        n_tries: How many.
        act: Rolls back.
        before: Done before each try, outside its time.
        first: Done once, before all tries.
    """

    name: str
    n_tries: int
    act: Callable[[], None]
    before: Callable[[], None] = _nothing
    first: Callable[[], None] = _nothing


# --- the observer, a process of its own ---


class _Counts:
    """The workers' counts of the candidate's answers."""

    def __init__(self, metrics: Path) -> None:
        self._metrics = metrics
        self._cells: list[tuple[mmap.mmap, int]] = []
        self.total = 0
        self.last_s = 0.0

    def find(self) -> None:
        """Look where the counts are; a worker makes them with its first answer."""
        found = []
        for path in self._metrics.glob("worker-*.page"):
            for labels, offset in find_cells(path, "tidegate_requests_total").items():
                if ("version", "2") in labels and ("result", "ok") in labels:
                    with path.open("rb") as file:
                        found.append((mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), offset))
        self._cells = found

    def look(self) -> None:
        total = sum(struct.unpack_from("=q", page, offset)[0] for page, offset in self._cells)
        if total != self.total:
            self.total, self.last_s = total, time.monotonic()


async def _ask(port: int, seen: Counter[str], slot: int) -> None:
    body = b'{"a":1,"b":2}'
    ask = (
        f"POST {PATH} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n"
        f"tidegate-timeout-ms: {TIMEOUT_MS}\r\n\r\n"
    ).encode() + body
    await asyncio.sleep(0.01 * slot)
    while True:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            while True:
                writer.write(ask)
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
                answer = json.loads(await reader.readexactly(length))
                error = answer["error"]["code"] if "error" in answer else ""
                seen[error] += 1
                if error:
                    await asyncio.sleep(0.02)
        except (OSError, asyncio.IncompleteReadError, ValueError) as broken:
            seen[type(broken).__name__] += 1
            await asyncio.sleep(0.02)


async def _observe(port: int, metrics: Path, pipe: Connection) -> None:
    seen: Counter[str] = Counter()
    counts = _Counts(metrics)
    tasks = [asyncio.create_task(_ask(port, seen, slot)) for slot in range(OBSERVERS)]
    while True:
        await asyncio.sleep(LOOK_S)
        counts.look()
        if pipe.poll():
            asked = pipe.recv()
            if asked == "stop":
                break
            if asked == "find":
                counts.find()
                counts.look()
            errors = {code: count for code, count in seen.items() if code}
            pipe.send((seen.total(), errors, counts.total, counts.last_s))
            seen.clear()
    for task in tasks:
        task.cancel()


def _run_observer(port: int, metrics: Path, pipe: Connection) -> None:
    asyncio.run(_observe(port, metrics, pipe))


class Observer:
    """Counts who answers, and asks for answers itself."""

    def __init__(self, port: int, metrics: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_run_observer, args=(port, metrics, theirs), daemon=True)
        self._process.start()

    def take(self, *, find: bool = False) -> Seen:
        """Return what was seen since the last call, after looking for new counts if `find`."""
        self._pipe.send("find" if find else "take")
        return Seen(*self._pipe.recv())

    def stop(self) -> None:
        self._pipe.send("stop")
        self._process.join(5)
        self._process.kill()


# --- one try ---


def _give_half(local: Local, manifest: Any) -> None:
    """Give the candidate half of the keys again, as a person would after clearing its latch."""

    def stand_by(old: ServiceRoute | None) -> ServiceRoute:
        assert old is not None
        return msgspec.structs.replace(
            old, latched=(), standby=(2,), manifests={**old.manifests, 2: manifest}, history=()
        )

    def widen(old: ServiceRoute | None) -> ServiceRoute:
        assert old is not None
        return resize(old, CANDIDATE, share=0.5, version=2)

    local.routes.change(SERVICE, stand_by)
    workers = local.cell.workers
    wait_until(
        lambda: all(2 in each.of(SERVICE).ready for each in workers.live()), what="the candidate is ready"
    )
    local.routes.change(SERVICE, widen)


def _try(local: Local, observer: Observer, way: Way, manifest: Any) -> Try:
    _give_half(local, manifest)
    n_before = observer.take(find=True).n_candidate
    give_up_s = time.monotonic() + 20.0
    while (before := observer.take(find=True)).n_candidate < n_before + 20 and time.monotonic() < give_up_s:
        time.sleep(0.1)
    way.before()
    began_s = time.monotonic()
    way.act()
    took_s = time.monotonic() - began_s
    time.sleep(max(0.1, AFTER_S - took_s))
    after = observer.take()
    failed = {code: count for code, count in after.errors.items() if code not in EXPECTED}
    return Try(
        last_ms=max(0.0, after.last_s - began_s) * 1e3,
        took_ms=took_s * 1e3,
        n_candidate=before.n_candidate - n_before,
        seen=after.answers,
        failed=failed,
    )


class Bench:
    """A server under overload, and ways to roll back."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.local = server.local()
        self.manifest: Any = None

    def by_control(self) -> None:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.server.control_port}/services/{SERVICE}/rollback",
            data=b"{}",
            headers={"content-type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            assert json.load(answer)["decision"]["outcome"] == "committed"

    def here(self) -> None:
        moved = roll_back(
            lambda: self.local.unit,
            self.local.cell,
            SERVICE,
            principal=self.local.principal,
            clock=self.local.clock,
        )
        assert moved.decision.outcome == "committed", moved

    def kill_controller(self) -> None:
        for process in self.server.child("tidegate.control"):
            process.kill()

    def by_command(self) -> None:
        typed = [program("tidegate"), "rollback", SERVICE]
        home = ["--home", str(self.server.home.root)]
        done = subprocess.run([*typed, *home], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def _prepare(server: Server) -> Bench:
    bench = Bench(server)
    for number in (1, 2):
        model = write_function(server.folder / f"spin{number}.py", SPIN)
        version = add_version(server, SERVICE, model, sample={"a": [1.0], "b": [2.0]})
        bench.manifest = version.manifest
    deploy(server, SERVICE, version=1)
    server.start()
    return bench


def _row(name: str, tries: list[Try]) -> list[str]:
    last = sorted(each.last_ms for each in tries)
    took = sorted(each.took_ms for each in tries)
    failed: Counter[str] = Counter()
    for each in tries:
        failed.update(each.failed)

    def at(values: list[float], share: float) -> str:
        return f"{values[min(len(values) - 1, int(share * len(values)))]:,.0f}"

    return [
        name,
        str(len(tries)),
        at(last, 0.5),
        at(last, 0.99),
        f"{last[-1]:,.0f}",
        at(took, 0.5),
        at(took, 0.99),
        f"{statistics.median(each.seen for each in tries):,.0f}",
        ", ".join(f"{count} {code}" for code, count in failed.items()) or "none",
    ]


def run(options: Options) -> Iterator[Report]:
    """Roll back again and again under overload, each way, the database killed for the last two."""
    n_tries = 4 if options.short else TRIES
    folder = Path(tempfile.mkdtemp(prefix="tidegate-rollback-"))
    try:
        with postgresql() as database, serving_on(database, folder) as server:
            yield _measure(_prepare(server), database.kill, n_tries)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _measure(bench: Bench, kill_database: Callable[[], None], n_tries: int) -> Report:
    target = load.Target(
        bench.server.port, PATH, (b'{"a":1,"b":2}',), {"tidegate-timeout-ms": str(TIMEOUT_MS)}
    )
    _give_half(bench.local, bench.manifest)
    capacity = load.closed(target, seconds=2.0, connections=16).ok_per_s
    bench.here()
    overload = load.Arrivals(target, 1.0, 64, rate_per_s=OVERLOAD * capacity, tick_us=1000.0)
    ways = [
        Way("control port", n_tries, bench.by_control),
        Way("command, from nothing", n_tries, bench.by_command),
        Way("ready process, database killed", n_tries, bench.here, first=kill_database),
        Way("the same, controller killed", n_tries, bench.here, before=bench.kill_controller),
    ]
    results: dict[str, list[Try]] = {}
    observer = Observer(bench.server.port, bench.server.home.metrics)
    try:
        for way in ways:
            way.first()
            results[way.name] = _under_load(bench, overload, observer, way)
    finally:
        observer.stop()
    report = Report("rollback", raw=results)
    columns = ["rolled back by", "tries", "last answer p50 ms", "p99 ms", "most ms", "command p50 ms"]
    report.tables.append(
        Table(
            f"Rollback at {OVERLOAD:g}x of {capacity:,.0f}/s: from the command to the last answer of the "
            f"version taken away, {ROW_S * 1e3:g} ms a row, timeout {TIMEOUT_MS} ms",
            [*columns, "p99 ms", "answers seen after", "failed because of it"],
            [_row(name, tries) for name, tries in results.items()],
        )
    )
    for name, tries in results.items():
        last = sorted(each.last_ms for each in tries)
        p99 = last[min(len(last) - 1, int(0.99 * len(last)))]
        report.goals.append(Goal(f"rollback, {name}: last answer p99", p99, LIMIT_MS, False, "ms"))
        n_failed = float(sum(sum(each.failed.values()) for each in tries))
        report.goals.append(Goal(f"rollback, {name}: failed requests", n_failed, 0.0, False))
    return report


def _under_load(bench: Bench, overload: load.Arrivals, observer: Observer, way: Way) -> list[Try]:
    arrivals = msgspec.structs.replace(overload, seconds=6.0 + 8.0 * way.n_tries)
    with load.start(arrivals):  # it is ended with the block, however much time it has left
        time.sleep(1.0)
        return [_try(bench.local, observer, way, bench.manifest) for _ in range(way.n_tries)]
