"""What a shadow costs those who are answered: invariant I7.

One server with one worker answers Poisson arrivals at a quarter of its capacity, again and again: without a
shadow, with one as quick as the model, with one ten times slower, and with one whose process is stopped.
Within a round the four are measured one after the other; figures are ratios to the one without a shadow.
"""

from __future__ import annotations

import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import psutil  # type: ignore[import-untyped]  # no stubs

from benchmarks import load
from benchmarks.measure import Goal, Options, Report, Table, interleave, paired, summarise
from tests.system.model import add_version, deploy, write_function, write_sum
from tests.system.server import Server, running, wait_until
from tidegate.route.route import ServiceRoute, Shadow

SERVICE = "sum"
ROWS = {"a": [1.0], "b": [2.0]}
SLOW_S = 0.002
"""Ten times what an answer takes here."""
LIMIT = 1.25
"""Of the 99th percentile: on two cores that the generator shares, less than this is the machine's own."""
CONNECTIONS = 16
PART_OF_CAPACITY = 0.25


def _slow(path: Path) -> Path:
    body = f"""
    end = time.perf_counter() + {SLOW_S} * len(columns["a"])
    while time.perf_counter() < end:
        pass
    return {{"total": columns["a"] + columns["b"]}}
    """
    return write_function(path, body)


class Bench:
    """A server and what shadows it."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.target = load.Target(server.port, f"/services/{SERVICE}/predict", (b'{"a":1,"b":2}',))
        self._manifests = {}
        models = (
            write_sum(server.folder / "v1.onnx", 0.0),
            write_sum(server.folder / "v2.onnx", 1.0),
            _slow(server.folder / "slow.py"),
        )
        for number, model in enumerate(models, start=1):
            self._manifests[number] = add_version(server, SERVICE, model, sample=ROWS).manifest
        deploy(server, SERVICE, version=1)
        server.start()
        capacity = load.closed(self.target, seconds=1.0, connections=CONNECTIONS)
        self._rate_per_s = PART_OF_CAPACITY * capacity.ok_per_s

    def _ask(self, seconds: float) -> load.Load:
        arrivals = load.Arrivals(self.target, seconds, CONNECTIONS, rate_per_s=self._rate_per_s)
        with load.start(arrivals) as asked:
            return asked.result()

    def shadowed_by(self, version: int | None) -> None:
        def change(old: ServiceRoute | None) -> ServiceRoute:
            assert old is not None
            shadows = () if version is None else (Shadow(version),)
            return msgspec.structs.replace(
                old, shadows=shadows, manifests={**old.manifests, **self._manifests}
            )

        local = self.server.local()
        generation = local.routes.change(SERVICE, change).services[SERVICE].generation

        def is_there() -> bool:
            return all(
                each.of(SERVICE).generation == generation and version in (None, *each.of(SERVICE).ready)
                for each in self.server.workers()
            )

        wait_until(is_there, what=f"shadow {version}")
        time.sleep(0.2)

    def runner(self) -> psutil.Process:
        """The process that runs the slow shadow."""
        (found,) = self.server.child("tidegate.bootstrap.runner")
        return found

    def measure(self, version: int | None, seconds: float) -> load.Load:
        self.shadowed_by(version)
        return self._ask(seconds)

    def measure_stopped(self, seconds: float) -> load.Load:
        self.shadowed_by(3)
        runner = self.runner()
        runner.send_signal(signal.SIGSTOP)
        try:
            return self._ask(seconds)
        finally:
            runner.send_signal(signal.SIGCONT)


def run(options: Options) -> Iterator[Report]:
    """Measure all four, round by round."""
    folder = Path(tempfile.mkdtemp(prefix="tidegate-shadow-"))
    try:
        with running(folder, n_workers=1) as server:
            bench = Bench(server)
            ways: dict[str, Callable[[], load.Load]] = {
                "no shadow": lambda: bench.measure(None, options.seconds),
                "as quick": lambda: bench.measure(2, options.seconds),
                "ten times slower": lambda: bench.measure(3, options.seconds),
                "stopped": lambda: bench.measure_stopped(options.seconds),
            }
            rounds = interleave(ways, rounds=options.rounds)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    report = Report("shadow", raw=dict(rounds))
    alone = [each.latency_us.p99 for each in rounds["no shadow"]]
    rows = []
    for name, found in rounds.items():
        p99 = [each.latency_us.p99 for each in found]
        ratio = paired(p99, alone)
        failed = sum(each.answered - each.ok for each in found)
        rows.append(
            [
                name,
                summarise(each.ok_per_s for each in found).show(0),
                summarise(each.latency_us.p50 for each in found).show(0),
                summarise(p99).show(0),
                ratio.show(2),
                str(failed),
            ]
        )
        if name != "no shadow":
            report.goals.append(Goal(f"shadow {name}: p99 to that without one", ratio.median, LIMIT, False))
            report.goals.append(Goal(f"shadow {name}: failed answers", float(failed), 0.0, False))
    columns = ["shadow", "answers/s", "p50 us", "p99 us", "p99 ratio", "failed"]
    report.tables.append(Table("Answers beside a shadow, at a quarter of the capacity", columns, rows))
    yield report
