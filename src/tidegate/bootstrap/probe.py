"""Servers of two versions, started as any server is but in homes of their own, and measured side by side.

Each has a supervisor, a worker, a journal and, if the version needs one, a runner: what is measured is
what will serve. Nothing of the real home is touched; its artifacts are read through a link.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import msgspec

from tidegate.bootstrap.connection import Load, free_ports
from tidegate.bootstrap.feature import STORE_VARIABLE
from tidegate.bootstrap.keeper import foreign_environment
from tidegate.bootstrap.local import Local
from tidegate.bootstrap.process import ServerSettings, command, told, worker_page
from tidegate.bootstrap.supervisor import Supervisor
from tidegate.core.clock import SystemClock
from tidegate.core.error import TidegateError
from tidegate.core.home import Home
from tidegate.core.principal import SYSTEM
from tidegate.gate.probe import Burst, CheckedInputs, ProbeFailed, Side
from tidegate.registry.version import Version
from tidegate.release.readiness import Cell
from tidegate.release.switch import first_deployment
from tidegate.route.status import StatusBoard
from tidegate.route.store import RouteStore
from tidegate.service.manifest import CheckInputs, Manifest
from tidegate.serving.metric import read_page

CONNECTIONS = 4
"""Requests under way at once: enough that a worker always has one waiting, few enough that the client,
which is one thread, does not become what is measured."""

_START_S = 120.0
_STOP_S = 30.0
_LOOK_S = 0.05
_MODEL_TIME = "tidegate_model_call_microseconds_total"
_SERVING = ("tidegate.bootstrap.worker", "tidegate.bootstrap.runner")
_HOST = "127.0.0.1"


class TrialServer:
    """One version, served by a server of its own."""

    def __init__(self, local: Local, version: Version, manifest: Manifest, bodies: Sequence[bytes]) -> None:
        """Prepare a home for it; `start` starts the server.

        Args:
            local: The home that holds the version.
            version: The version.
            manifest: Its manifest.
            bodies: Requests to send, JSON.
        """
        self._manifest = manifest
        self._version = version
        self._number = version.number
        self._bodies = bodies
        self._folder = Path(tempfile.mkdtemp(prefix="tidegate-gate-"))
        (self._folder / "artifacts").symlink_to(local.home.artifacts.absolute(), target_is_directory=True)
        features = local.home.features
        if features.exists():
            (self._folder / features.name).symlink_to(features.absolute())
        self._home = Home(self._folder)
        port, control_port = free_ports(2)
        self._settings = ServerSettings(
            home=str(self._folder),
            host=_HOST,
            port=port,
            control_port=control_port,
            n_workers=1,
            online_store_ms=local.settings.online_store_ms,
        )
        # Not the real database, nor whom it alerts: a second controller would act on them.
        store = local.settings.online_store
        self._environment = foreign_environment(**({STORE_VARIABLE: store} if store else {}))
        self._process: subprocess.Popen[bytes] | None = None
        self._load: Load | None = None
        self._pids: list[int] = []

    def start(self) -> None:
        """Start the server; does not wait for it."""
        cell = self._settings.cell
        routes = RouteStore(self._home.route(cell), cell=cell)
        workers = StatusBoard(self._home.workers(cell))
        self._cell = Cell(routes=routes, workers=workers, clock=SystemClock())
        first_deployment(
            self._cell,
            self._manifest.service,
            version=self._number,
            manifest=self._version.manifest,
            principal=SYSTEM,
            fallback=tuple(fallback.name for fallback in self._manifest.fallback),
        )
        with (self._folder / "server.log").open("wb") as log:
            self._process = subprocess.Popen(
                command("probe", self._settings),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment,
            )

    def wait_ready(self) -> None:
        """Wait until its worker answers with the version.

        Raises:
            ProbeFailed: It cannot; says why.
        """
        assert self._process is not None
        service, who = self._manifest.service, f"version {self._number}"
        give_up_s = time.monotonic() + _START_S
        while True:
            for status in self._cell.workers.live():
                has = status.of(service)
                if self._number in has.failed:
                    raise ProbeFailed(f"{who} cannot be served: {has.failed[self._number]}")
                if has.generation and self._number in has.ready:
                    self._pids = list(_serving(self._process.pid))
                    self._load = Load(
                        (_HOST, self._settings.port),
                        f"/services/{service}/predict",
                        self._bodies,
                        n_connections=CONNECTIONS,
                    )
                    return
            if self._process.poll() is not None or time.monotonic() > give_up_s:
                raise ProbeFailed(f"the server of {who} did not start: {self._last_words()}")
            time.sleep(_LOOK_S)

    def load(self, n_requests: int) -> Burst:
        """Send requests, several at a time.

        Raises:
            ProbeFailed: It does not answer any more.
        """
        assert self._load is not None
        before, waited = self._model_time_us(), self._waited_us()
        try:
            latencies, n_failed = self._load.send(n_requests)
        except OSError as error:
            raise ProbeFailed(
                f"the server of version {self._number} stopped answering under load: {error}. "
                f"{self._last_words()}"
            ) from error
        after, waited_after = self._model_time_us(), self._waited_us()
        return Burst(
            latencies,
            None if before is None or after is None else (after - before) / n_requests,
            n_failed,
            None if waited is None or waited_after is None else waited_after - waited,
        )

    def memory_bytes(self) -> int:
        """Return the memory of its worker and runner."""
        return sum(memory_of(pid) for pid in self._pids)

    def check(self) -> CheckedInputs | None:
        """Ask the version its check inputs."""
        checks = self._manifest.check_inputs
        if checks is None or self._load is None:
            return None
        if self._manifest.views:
            # The worker asked them with their features when it loaded the version, and is ready only if
            # all was right; callers cannot send features.
            return CheckedInputs(len(checks.rows))
        wrong: list[str] = []
        rows = self._manifest.request_rows(checks.rows)
        for number, (row, wanted) in enumerate(zip(rows, checks.outputs, strict=True)):
            status, body = self._load.ask(msgspec.json.encode(row))
            wrong += _differences(number, status, body, wanted, checks)
        return CheckedInputs(len(rows), tuple(wrong))

    def stop(self) -> None:
        """Stop the server, and remove its home."""
        if self._load is not None:
            self._load.close()
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _model_time_us(self) -> float | None:
        try:
            page = list(read_page(worker_page(self._settings, 0)))
        except (OSError, TidegateError):
            return None
        return float(sum(sample.value for sample in page if sample.name == _MODEL_TIME))

    def _waited_us(self) -> float | None:
        waits = [waited_of(pid) for pid in (os.getpid(), *self._pids)]
        return None if None in waits else sum(wait for wait in waits if wait is not None)

    def _last_words(self) -> str:
        with contextlib.suppress(OSError):
            lines = (self._folder / "server.log").read_text(errors="replace").strip().splitlines()
            return lines[-1] if lines else "it said nothing"
        return "it said nothing"


class ServerProbe:
    """A candidate's server and a champion's, both running."""

    def __init__(self, servers: Mapping[Side, TrialServer]) -> None:
        self._servers = servers

    def __enter__(self) -> Self:
        try:
            for server in self._servers.values():
                server.start()
            for server in self._servers.values():
                server.wait_ready()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    @property
    def sides(self) -> tuple[Side, ...]:
        return tuple(self._servers)

    def load(self, side: Side, n_requests: int) -> Burst:
        return self._servers[side].load(n_requests)

    def memory_bytes(self, side: Side) -> int:
        return self._servers[side].memory_bytes()

    def check(self) -> CheckedInputs | None:
        return self._servers["candidate"].check()

    def _stop(self) -> None:
        for server in self._servers.values():
            server.stop()


def memory_of(pid: int) -> int:
    """Return what a process holds, bytes; of memory that several share, its part. 0 if it is gone.

    Source: proc(5), /proc/pid/smaps_rollup, `Pss`; elsewhere the resident size that `ps` tells.
    """
    with contextlib.suppress(OSError, ValueError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    with contextlib.suppress(OSError, ValueError):
        return int(_listed("-o", "rss=", "-p", str(pid))) * 1024
    return 0


def waited_of(pid: int) -> float | None:
    """Return how long a process's main thread was ready to run without a processor, microseconds.

    Source: Linux, Documentation/scheduler/sched-stats.rst, /proc/pid/schedstat, second figure.
    """
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1000
    except (OSError, ValueError, IndexError):
        return None


def _serving(supervisor: int) -> Iterator[int]:
    """Yield the processes of a server that hold models."""
    for pid, parent, arguments in _processes():
        if parent == supervisor and any(module in arguments for module in _SERVING):
            yield pid


def _processes() -> Iterator[tuple[int, int, str]]:
    """Yield id, parent's id and arguments of every process."""
    places = list(Path("/proc").glob("[0-9]*"))
    for place in places:
        with contextlib.suppress(OSError, ValueError, IndexError):
            # the name, in brackets, may hold anything; behind it come state and parent
            parent = int((place / "stat").read_text(errors="replace").rpartition(")")[2].split()[1])
            yield int(place.name), parent, (place / "cmdline").read_text(errors="replace")
    if not places:
        for line in _listed("-A", "-o", "pid=,ppid=,args=").splitlines():
            pid, parent_pid, arguments = line.split(None, 2)
            yield int(pid), int(parent_pid), arguments


def _listed(*options: str) -> str:
    line = [shutil.which("ps") or "ps", *options]
    return subprocess.run(line, capture_output=True, text=True, check=False).stdout


def _differences(
    number: int, status: int, body: bytes, wanted: Mapping[str, Any], checks: CheckInputs
) -> Iterator[str]:
    try:
        answer = msgspec.json.decode(body)
    except msgspec.DecodeError:
        answer = {}
    if status != 200 or answer.get("answered_by"):
        why = answer.get("reason") or answer.get("error", {}).get("message", "")
        yield f"check input {number} got status {status} and no answer of the model: {why}"
        return
    for field, value in wanted.items():
        got = answer.get("output", {}).get(field)
        if not _close(got, value, checks.tolerance):
            yield f"check input {number} gave {field}={got!r}, expected {value!r}"


def _close(got: Any, wanted: Any, tolerance: float) -> bool:
    if isinstance(wanted, list):
        return (
            isinstance(got, list)
            and len(got) == len(wanted)
            and all(_close(one, other, tolerance) for one, other in zip(got, wanted, strict=True))
        )
    if isinstance(wanted, float | int) and isinstance(got, float | int):
        return math.isclose(got, wanted, rel_tol=tolerance, abs_tol=tolerance)
    return bool(got == wanted)


def main() -> None:
    """Run a server that ends with whoever measures it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG, <linux/prctl.h>
    settings = told(ServerSettings)
    if os.getppid() == 1:
        return  # whoever measures has died already
    try:
        Supervisor(settings).run()
    except TidegateError as error:
        sys.exit(error.message)


if __name__ == "__main__":
    main()
