"""A server under traffic and random faults for a while, and what must hold all that time.

    python -m tests.faults.soak --minutes 30 --seed 1

Workers, runners and the control process are killed or stopped, connections are cut, workers replaced,
versions switched and rolled back, bad requests sent. Every request ends; every acknowledged prediction is
in the journal exactly once; in the quiet at the end no process grows.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psutil

from tests.faults.proxy import FaultProxy
from tests.system.model import add_version, deploy, write_function, write_sum
from tests.system.server import Client, Server, request, running, wait_until
from tidegate.operation.journal import prediction_ids

_log = logging.getLogger(__name__)

FAST, SLOW = "fast", "slow"
_STUCK_S = 60.0
"""A request without an answer or an end for so long is stuck: a worker that stands is replaced within 30."""
_QUIET_SHARE = 0.25
_GROWTH_BYTES = 12 << 20
"""What a process may grow by in the quiet part: caches and the allocator, not a leak a request."""
_HELD_BYTES = 64 << 20
"""The same of the control process, which holds up to a minute's records before it writes them."""

_BODY = """
if columns["a"][0] == 13:
    raise ValueError("unlucky")
if columns["a"][0] == 66:
    os._exit(3)
return {"total": columns["a"] + columns["b"]}
"""


class Callers:
    """Threads that ask one service each, over connections that they open anew whenever one ends."""

    def __init__(self, server: Server, port_of: Callable[[], int]) -> None:
        self.acknowledged: list[tuple[str, str]] = []
        self.statuses: Counter[int] = Counter()
        self.n_lost = 0
        self.faults: list[str] = []
        self._server, self._port_of = server, port_of
        self._stopping = threading.Event()
        shapes = [(FAST, False), (FAST, False), (SLOW, False), (FAST, True)]
        self._threads = [
            threading.Thread(target=self._run, args=(service, cut, number), daemon=True)
            for number, (service, cut) in enumerate(shapes)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join(_STUCK_S + 10)
            if thread.is_alive():
                self.faults.append("a caller hangs")

    def _run(self, service: str, cut: bool, seed: int) -> None:
        draw = random.Random(seed)
        while not self._stopping.is_set():
            port = self._port_of() if cut else self._server.port
            try:
                with Client(port, timeout_s=_STUCK_S) as client:
                    self._converse(client, service, draw)
            except TimeoutError:
                self.faults.append(f"a request to {service} was neither answered nor ended")
                return
            except OSError:
                self.n_lost += 1
                time.sleep(0.02)

    def _converse(self, client: Client, service: str, draw: random.Random) -> None:
        while not self._stopping.is_set():
            body = draw.choices((b'{"a":1,"b":2}', b'{"a":13,"b":0}', b'{"a":"x"}', b"{"), (94, 2, 2, 2))[0]
            client.send(request(f"/services/{service}/predict", body))
            answer = client.receive()
            self.statuses[answer.status] += 1
            if answer.status == 200:
                self.acknowledged.append((service, answer.json()["prediction_id"]))
            if b"connection: close" in answer.head.lower():
                return
            self._stopping.wait(0.004)


class Faults:
    """What is done to a server, one thing after the other."""

    def __init__(self, server: Server, draw: random.Random) -> None:
        self.counts: Counter[str] = Counter()
        self._server, self._draw = server, draw
        self._kinds = [
            self.kill_worker,
            self.stop_worker,
            self.kill_runner,
            self.kill_control,
            self.restart,
            self.switch,
            self.poison,
        ]

    def one(self) -> None:
        """Do one of them."""
        kind = self._draw.choice(self._kinds)
        self.counts[kind.__name__] += 1
        with contextlib.suppress(psutil.NoSuchProcess, OSError):
            kind()

    def kill_worker(self) -> None:
        psutil.Process(self._draw.choice(self._server.workers()).pid).kill()

    def stop_worker(self) -> None:
        process = psutil.Process(self._draw.choice(self._server.workers()).pid)
        process.suspend()
        time.sleep(self._draw.random())
        process.resume()

    def kill_runner(self) -> None:
        for process in self._server.child("tidegate.bootstrap.runner"):
            process.send_signal(signal.SIGKILL)

    def kill_control(self) -> None:
        for process in self._server.child("tidegate.control"):
            process.kill()

    def restart(self) -> None:
        self._server.command("restart")

    def switch(self) -> None:
        route = self._server.local().routes.read().services[FAST]
        self._server.command("switch", FAST, "2" if route.stable == 1 else "1")

    def poison(self) -> None:
        with Client(self._server.port) as client:
            client.post(f"/services/{SLOW}/predict", b'{"a":66,"b":0}')


def soak(folder: Path, *, seconds: float, seed: int) -> dict[str, object]:
    """Run, check, and return what happened.

    Raises:
        AssertionError: Something that must hold did not.
    """
    draw = random.Random(seed)
    with running(folder) as server:
        for constant in (0.0, 1000.0):
            add_version(server, FAST, write_sum(folder / f"{constant}.onnx", constant))
        add_version(server, SLOW, write_function(folder / "slow.py", _BODY))
        deploy(server, FAST, version=1)
        deploy(server, SLOW, version=1)
        server.start()
        with FaultProxy(server.port, seed=seed, most=5_000) as proxy:
            callers, faults = Callers(server, lambda: proxy.port), Faults(server, draw)
            callers.start()
            until_s = time.monotonic() + seconds * (1 - _QUIET_SHARE)
            while time.monotonic() < until_s:
                time.sleep(draw.expovariate(0.5))
                faults.one()
            server.wait_ready()
            growth = _growth(server, seconds * _QUIET_SHARE)
            callers.stop()
        assert callers.faults == []
        journalled = {
            service: wait_until(lambda service=service: _counted(server, service), what="the tailer")
            for service in (FAST, SLOW)
        }
    lost = [each for service, each in callers.acknowledged if journalled[service][each] != 1]
    assert lost == [], f"{len(lost)} acknowledged predictions are not in the journal once"
    assert all(max(counts.values()) == 1 for counts in journalled.values())
    assert not callers.statuses.keys() - {200, 400, 422, 500, 503, 504}, callers.statuses
    grown = {
        name: size
        for name, size in growth.items()
        if size > (_HELD_BYTES if name.startswith("tidegate.control") else _GROWTH_BYTES)
    }
    assert not grown, f"grew in the quiet: {grown}"
    return {
        "acknowledged": len(callers.acknowledged),
        "statuses": dict(callers.statuses),
        "connections lost": callers.n_lost,
        "faults": dict(faults.counts),
        "growth": growth,
    }


def _counted(server: Server, service: str) -> Counter[str] | None:
    """Return the journal's ids once the tailer has counted as many."""
    journalled = Counter(prediction_ids(server.home.journal, service))
    return journalled if server.tally(service).rows == sum(journalled.values()) else None


def _answers(port: int) -> bool:
    with contextlib.suppress(OSError), Client(port) as client:
        return client.get("/healthz").status == 200
    return False


def _growth(server: Server, seconds: float) -> dict[str, int]:
    """Return each process's growth: its least size in the second half of a while less that in the first."""
    wait_until(lambda: _answers(server.control_port), what="the control port")
    time.sleep(seconds / 4)  # what was started last imports what it uses
    processes = [psutil.Process(server.pid), *psutil.Process(server.pid).children(recursive=True)]
    sizes: dict[psutil.Process, list[int]] = {process: [] for process in processes}
    until_s = time.monotonic() + seconds * 3 / 4
    while time.monotonic() < until_s:
        for process, seen in sizes.items():
            with contextlib.suppress(psutil.NoSuchProcess):
                seen.append(process.memory_info().rss)
        time.sleep(0.5)
    grown = {}
    for process, seen in sizes.items():
        with contextlib.suppress(psutil.NoSuchProcess):
            module = next((word for word in process.cmdline() if word.startswith("tidegate.")), "supervisor")
            half = len(seen) // 2
            grown[f"{module} {process.pid}"] = min(seen[half:]) - min(seen[:half])
    return grown


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=1)
    told = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = soak(Path(folder), seconds=told.minutes * 60, seed=told.seed)
    for name, value in found.items():
        sys.stdout.write(f"{name}: {value}\n")


if __name__ == "__main__":
    main()
