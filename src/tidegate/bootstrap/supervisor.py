"""The supervisor: keeps the processes of one server alive, and tries versions before workers load them.

It serves nothing and decides nothing about traffic; it needs neither the database nor the network.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import select
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import msgspec

from tidegate.bootstrap.child import Child
from tidegate.bootstrap.condition import Condition, ConditionBoard, raise_descriptors, resource_conditions
from tidegate.bootstrap.fleet import Fleet
from tidegate.bootstrap.keeper import VersionKeeper
from tidegate.bootstrap.process import (
    RESTART,
    SEEN_AT,
    ServerSettings,
    command,
    told,
    worker_page,
)
from tidegate.bootstrap.relay import Relay
from tidegate.bootstrap.stage import forget_failures
from tidegate.core.clock import Clock, SystemClock
from tidegate.core.error import SystemRefused, TidegateError
from tidegate.core.home import Home
from tidegate.route.follower import RouteFollower
from tidegate.route.status import StatusBoard
from tidegate.route.store import RouteStore
from tidegate.serving.metric import read_page

_log = logging.getLogger("tidegate.supervisor")

_TICK_S = 0.05
_STUCK_S = 20.0
"""A worker whose loop did not come round for so long answers nobody: it is replaced. Longer than a disk
stalls that recovers."""
_LOOK_S = 1.0
_SOCKETS = "tidegate-"
_STOP_S = 20.0
_TOLD = 20  # services that are named at the start
_ORPHANS_S = 20.0
"""How long the workers of a server that was killed may take to end: what they took is answered first."""
_CONTROL_AFTER_S = 1.0
"""The control plane starts once the workers serve, or at the latest then: its imports take a second of
a core, which the first answer would wait for on a small machine."""


class ServerRunning(TidegateError):
    """Another server has this home, or its port."""

    code = "server_running"

    @classmethod
    def of(cls, home: Home) -> ServerRunning:
        """Return the error of a home that has a server."""
        return cls(
            f"A server is running on the home {home.root}.",
            hint="Stop it first, or give this one another home with --home.",
            home=str(home.root),
        )


class ServerRecord(msgspec.Struct, frozen=True):
    """What a running server leaves in its home, for whoever wants to talk to it."""

    pid: int
    settings: ServerSettings
    sockets: str = ""


class Supervisor:
    """One running server."""

    def __init__(
        self,
        settings: ServerSettings,
        *,
        clock: Clock | None = None,
        tell: Callable[[str], None] = lambda line: None,
    ) -> None:
        """Take settings.

        Args:
            settings: What to run.
            clock: Time.
            tell: Told, in words, once every worker serves every service, or why one cannot.
        """
        self._tell = tell
        self._told: set[str] = set()
        self._is_ready = self._is_hindered = False
        self._settings = settings = msgspec.structs.replace(settings, supervisor=os.getpid())
        self._clock = clock or SystemClock()
        self._began_s = self._clock.monotonic_s()
        self._home: Home = settings.place
        self._sockets = tempfile.mkdtemp(prefix=_SOCKETS)  # short, as the names of sockets have to be
        self._follower = RouteFollower(RouteStore(self._home.route(settings.cell), cell=settings.cell))
        self._look_at_s = 0.0
        self._suspects: set[str] = set()
        self._versions = VersionKeeper(settings, sockets=self._sockets, clock=self._clock)
        self._board = ConditionBoard(self._home, tell=tell)
        self._lock: IO[str] | None = None
        self._stopping = False
        self._fleet = Fleet(settings, sockets=self._sockets, clock=self._clock, tell=tell)
        self._restart_asked = False
        self._control = Child("control", lambda _: command("tidegate.control", settings), self._clock)

    def run(self) -> None:
        """Supervise until SIGTERM or SIGINT, then stop everything in order.

        Raises:
            ServerRunning: Another server has this home or the ports.
        """
        try:
            self._claim()
        except BaseException:
            self._release()
            raise
        wake_in, wake_out = os.pipe()
        os.set_blocking(wake_out, False)
        signal.set_wakeup_fd(wake_out, warn_on_full_buffer=False)
        for signum in (signal.SIGTERM, signal.SIGINT, RESTART):
            signal.signal(signum, self._on_signal)
        signal.signal(signal.SIGCHLD, lambda signum, frame: None)  # only to wake the loop
        try:
            while not self._stopping:
                self._try_to_tend()
                if select.select([wake_in], [], [], _TICK_S)[0]:
                    os.read(wake_in, 4096)
        finally:
            self._stop()

    def _on_signal(self, signum: int, frame: object) -> None:
        if signum == RESTART:
            self._restart_asked = True
            return
        if self._stopping:
            os._exit(1)  # asked twice: whoever asks does not want to wait
        self._stopping = True

    def _claim(self) -> None:
        """Make sure that the home and the ports are ours."""
        record = self._home.run / "server.json"
        lock = (self._home.run / "server.lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            raise ServerRunning.of(self._home) from None
        self._lock = lock
        raise_descriptors()
        was_killed = record.exists()
        for host, port, option in (
            (self._settings.host, self._settings.port, "--port"),
            (self._settings.control_host, self._settings.control_port, "--control-port"),
        ):
            self._check_port(host, port, option, within_s=_ORPHANS_S if was_killed else 0.0)
        _sweep_sockets(record)
        StatusBoard(self._home.workers(self._settings.cell)).sweep()
        forget_failures(self._home)
        record.write_bytes(msgspec.json.encode(ServerRecord(os.getpid(), self._settings, self._sockets)))

    def _check_port(self, host: str, port: int, option: str, *, within_s: float) -> None:
        """Pass if we can have a port, now or within a while."""
        give_up_s = self._clock.monotonic_s() + within_s
        while (error := _refusal(host, port)) is not None:
            if self._clock.monotonic_s() >= give_up_s:
                raise ServerRunning(
                    f"The address {host}:{port} cannot be used: {error.strerror}.",
                    hint=f"Choose another with {option}.",
                    host=host,
                    port=port,
                ) from None
            time.sleep(_TICK_S)

    def _try_to_tend(self) -> None:
        """Look after everything; what the system refuses meanwhile ends nothing that runs."""
        try:
            self._tend()
        except OSError as error:  # no descriptors, no room, no processes: it is tried again at once
            if not self._is_hindered:
                self._tell(f"The server cannot be looked after: {error}. It is tried again.")
            self._is_hindered = True
        else:
            self._is_hindered = False

    def _tend(self) -> None:
        self._follower.poll()
        self._versions.tend(self._follower.route)  # trials first: workers wait for them
        if self._clock.monotonic_s() >= self._look_at_s:
            self._look_at_s = self._clock.monotonic_s() + _LOOK_S
            self._check_hangs()
            resources = resource_conditions(self._settings)
            self._board.show([*resources, *self._refusals(), *self._versions.conditions()])
        if self._restart_asked:
            self._restart_asked = False
            self._fleet.restart()
            self._control.signal(signal.SIGTERM)
        self._fleet.tend(self._follower.route)
        if self._is_ready or self._clock.monotonic_s() - self._began_s > _CONTROL_AFTER_S:
            self._control.tend()
        if not self._is_ready:
            self._look_for_ready()

    def _refusals(self) -> Iterator[Condition]:
        """Yield which processes, beside the runners, the system does not let us start."""
        for child in (*self._fleet.workers.values(), self._control, self._versions.nursery):
            if child.refused:
                words = f"The process {child.name} cannot be started: {child.refused}. It is tried again."
                yield Condition(child.name, "restarting", words)

    def _look_for_ready(self) -> None:
        """Tell when every worker serves every service, and until then what keeps one from it."""
        live = StatusBoard(self._home.workers(self._settings.cell)).live()
        services = self._follower.route.services
        for worker in live:
            for name, status in worker.services.items():
                for number, why in status.failed.items():
                    line = f"Version {number} of {name} cannot be served: {why}"
                    if line not in self._told:
                        self._told.add(line)
                        self._tell(line)
        if self._fleet.is_ready(self._follower.route):
            self._is_ready = True
            took_s = self._clock.monotonic_s() - self._began_s
            told = list(services.items())[:_TOLD]
            served = ", ".join(f"{name} version {route.stable}" for name, route in told)
            if len(services) > _TOLD:
                served += f" and {len(services) - _TOLD} more"
            self._tell(f"Ready after {took_s:.1f} s: {served or 'no service yet'}. Ctrl-C stops.")

    def _check_hangs(self) -> None:
        for slot, worker in self._fleet.workers.items():
            self._check_hang(worker, worker_page(self._settings, slot), SEEN_AT, _STUCK_S)

    def _check_hang(self, child: Child, page: Path, gauge: str, limit_s: float) -> None:
        """Kill a process that at two looks had not moved for longer than it may.

        Two, because after a stop of the whole server (Ctrl-Z) nobody has moved at the first.
        """
        try:
            since_s = next((sample.value for sample in read_page(page) if sample.name == gauge), 0) / 1000
        except (OSError, TidegateError):
            return
        stood_s = self._clock.monotonic_s() - since_s
        if since_s < child.started_s or stood_s < limit_s:  # an earlier process's stamp tells nothing
            self._suspects.discard(child.name)
        elif child.name not in self._suspects:
            self._suspects.add(child.name)
        else:
            self._suspects.discard(child.name)
            _log.error("process.hung name=%s stood_s=%.0f", child.name, stood_s)
            child.signal(signal.SIGKILL)

    def _stop(self) -> None:
        give_up_s = self._clock.monotonic_s() + _STOP_S
        self._fleet.stop(give_up_s)
        for child in (*self._versions.children, self._control):
            child.signal(signal.SIGTERM)
        self._versions.stop()
        self._control.stop(give_up_s - self._clock.monotonic_s())
        self._board.clear()
        (self._home.run / "server.json").unlink(missing_ok=True)
        self._release()

    def _release(self) -> None:
        shutil.rmtree(self._sockets, ignore_errors=True)
        if self._lock is not None:
            self._lock.close()
            self._lock = None


def _sweep_sockets(record: Path) -> None:
    """Remove the sockets' folder of a server of this home that was killed."""
    with contextlib.suppress(OSError, msgspec.MsgspecError):
        left = msgspec.json.decode(record.read_bytes(), type=ServerRecord).sockets
        if left and Path(left).name.startswith(_SOCKETS):
            shutil.rmtree(left, ignore_errors=True)


def _refusal(host: str, port: int) -> OSError | None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return error
    return None


def read_record(home: Home) -> ServerRecord | None:
    """Return what a server that runs on `home` says of itself, or None if none runs."""
    try:
        record = msgspec.json.decode((home.run / "server.json").read_bytes(), type=ServerRecord)
        with (home.run / "server.lock").open("r") as lock, contextlib.suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return None  # nobody holds the lock: it died without cleaning up
    except (OSError, msgspec.MsgspecError):
        return None
    return record


def _run(settings: ServerSettings, tell: Callable[[str], None]) -> None:
    try:
        Supervisor(settings, tell=tell).run()
    except OSError as error:  # a home that may not be written, a disk that is full
        if error.errno is None:
            raise
        raise SystemRefused.of(error) from error


def main() -> None:
    """Run the server that the command line describes."""
    logging.basicConfig(
        level=logging.WARNING, stream=sys.stderr, format="%(asctime)s %(name)s %(levelname)s %(message)s"
    )

    def tell(line: str) -> None:
        # nobody reads any more (`up | head`), the terminal is gone, the disk is full: serving goes on
        with contextlib.suppress(OSError):
            os.write(1, f"{line}\n".encode())

    try:
        with Relay():
            _run(told(ServerSettings), tell)
            tell("Stopped.")
    except TidegateError as error:
        sys.exit(f"Error ({error.code}): {error.message}\n{error.hint}".rstrip())


if __name__ == "__main__":
    main()
