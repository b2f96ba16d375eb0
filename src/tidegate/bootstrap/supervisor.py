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
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import IO

import msgspec

from tidegate.bootstrap.process import (
    BUSY_SINCE,
    RETIRE_S,
    SEEN_AT,
    RunnerSettings,
    ServerSettings,
    TrialSettings,
    WorkerSettings,
    command,
    runner_page,
    told,
    worker_page,
)
from tidegate.bootstrap.stage import Stage, forget_failures, read_stage, stage_path, write_stage
from tidegate.core.clock import Clock, SystemClock
from tidegate.core.error import TidegateError
from tidegate.core.home import Home
from tidegate.route.follower import RouteFollower
from tidegate.route.status import StatusBoard
from tidegate.route.store import RouteStore
from tidegate.serving.metric import read_page

_log = logging.getLogger("tidegate.supervisor")

_TICK_S = 0.05
_FIRST_BACKOFF_S = 0.05
_MAX_BACKOFF_S = 30.0
_STEADY_S = 10.0
"""A process that lived this long starts anew without backoff when it dies."""
_TRIAL_LIMIT_S = 600.0
_HANG_S = 30.0
"""A single call of a model that takes longer than any caller waits: its runner is replaced."""
_STUCK_S = 20.0
"""A worker whose loop did not come round for so long answers nobody: it is replaced. Longer than a disk
stalls that recovers."""
_LOOK_S = 1.0
_STOP_S = 20.0
_ORPHANS_S = 20.0
"""How long the workers of a server that was killed may take to end: what they took is answered first."""
_CONTROL_AFTER_S = 1.0
"""The control plane starts once the workers serve, or at the latest then: its imports take a second of
a core, which the first answer would wait for on a small machine."""
_RUNNER_STOP_S = 1.0  # it has nothing left to do; the supervisor has


class ServerRunning(TidegateError):
    """Another server has this home, or its port."""

    code = "server_running"


class ServerRecord(msgspec.Struct, frozen=True):
    """What a running server leaves in its home, for whoever wants to talk to it."""

    pid: int
    settings: ServerSettings


class Child:
    """A process that is started again when it dies."""

    def __init__(self, name: str, make_command: Callable[[int], list[str]], clock: Clock) -> None:
        """Name a process.

        Args:
            name: For the log.
            make_command: Gives the command line, told how often it was started before.
            clock: Time.
        """
        self.name = name
        self._make_command = make_command
        self._clock = clock
        self._process: subprocess.Popen[bytes] | None = None
        self.started_s = 0.0  # monotonic
        self._start_at_s = 0.0
        self._backoff_s = _FIRST_BACKOFF_S
        self.n_started = 0

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    def tend(self) -> None:
        """Start it if it is time to; notice that it died."""
        now_s = self._clock.monotonic_s()
        if self._process is not None:
            code = self._process.poll()
            if code is None:
                return
            lived_s = now_s - self.started_s
            self._backoff_s = (
                _FIRST_BACKOFF_S if lived_s > _STEADY_S else min(2 * self._backoff_s, _MAX_BACKOFF_S)
            )
            _log.warning("process.died name=%s pid=%d %s", self.name, self._process.pid, describe_exit(code))
            self._process = None
            self._start_at_s = now_s + self._backoff_s
        if now_s >= self._start_at_s:
            self._process = subprocess.Popen(self._make_command(self.n_started), stdin=subprocess.DEVNULL)
            self.started_s = now_s
            self.n_started += 1

    def signal(self, signum: int) -> None:
        """Send a signal, if it lives."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signum)

    def stop(self, within_s: float) -> None:
        """Wait until it ended after a signal; kill it if it does not."""
        if self._process is None:
            return
        try:
            self._process.wait(max(0.0, within_s))
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None


def describe_exit(code: int) -> str:
    """Return in words how a process ended, from its return code."""
    return f"by {signal.Signals(-code).name}" if code < 0 else f"with exit status {code}"


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
        self._is_ready = False
        self._settings = settings = msgspec.structs.replace(settings, supervisor=os.getpid())
        self._clock = clock or SystemClock()
        self._began_s = self._clock.monotonic_s()
        self._home: Home = settings.place
        self._sockets = tempfile.mkdtemp(prefix="tidegate-")  # short, as the names of sockets have to be
        self._follower = RouteFollower(RouteStore(self._home.route(settings.cell), cell=settings.cell))
        self._runners: dict[str, Child] = {}
        self._look_at_s = 0.0
        self._suspects: set[str] = set()
        self._unnamed_since_s: dict[str, float] = {}
        self._stages: dict[str, Stage] = {}
        self._trials: dict[str, tuple[subprocess.Popen[bytes], float]] = {}
        self._lock: IO[str] | None = None
        self._stopping = False
        self._workers = [
            Child(f"worker-{slot}", self._worker_command(slot), self._clock)
            for slot in range(settings.n_workers)
        ]
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
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, self._on_signal)
        signal.signal(signal.SIGCHLD, lambda signum, frame: None)  # only to wake the loop
        try:
            while not self._stopping:
                self._tend()
                if select.select([wake_in], [], [], _TICK_S)[0]:
                    os.read(wake_in, 4096)
        finally:
            self._stop()

    def _worker_command(self, slot: int) -> Callable[[int], list[str]]:
        return lambda n: command("worker", WorkerSettings(self._settings, slot, n, self._sockets))

    def _on_signal(self, signum: int, frame: object) -> None:
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
            raise ServerRunning(
                f"A server is running on the home {self._home.root}.",
                hint="Stop it first, or give this one another home with --home.",
                home=str(self._home.root),
            ) from None
        self._lock = lock
        was_killed = record.exists()
        for host, port, option in (
            (self._settings.host, self._settings.port, "--port"),
            (self._settings.control_host, self._settings.control_port, "--control-port"),
        ):
            self._check_port(host, port, option, within_s=_ORPHANS_S if was_killed else 0.0)
        StatusBoard(self._home.workers(self._settings.cell)).sweep()
        forget_failures(self._home)
        record.write_bytes(msgspec.json.encode(ServerRecord(os.getpid(), self._settings)))

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

    def _tend(self) -> None:
        self._follower.poll()
        self._tend_versions()  # trials first: workers wait for them
        for worker in self._workers:
            worker.tend()
        if self._is_ready or self._clock.monotonic_s() - self._began_s > _CONTROL_AFTER_S:
            self._control.tend()
        if not self._is_ready:
            self._look_for_ready()

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
        if len(live) == self._settings.n_workers and all(
            worker.of(name).generation == route.generation
            for worker in live
            for name, route in services.items()
        ):
            self._is_ready = True
            took_s = self._clock.monotonic_s() - self._began_s
            served = ", ".join(f"{name} version {route.stable}" for name, route in services.items())
            self._tell(f"Ready after {took_s:.1f} s: {served or 'no service yet'}. Ctrl-C stops.")

    def _tend_versions(self) -> None:
        named: dict[str, tuple[str, int]] = {
            digest: (service, number)
            for service, route in self._follower.route.services.items()
            for number, digest in route.manifests.items()
            if number in route.versions
        }
        self._tend_trials(named)
        for digest, (service, number) in named.items():
            stage = self._stages.get(digest) or read_stage(self._home, digest)
            if stage is None:
                if digest not in self._trials:
                    self._start_trial(digest)
                continue
            self._stages[digest] = stage
            if stage.runner and not stage.error and digest not in self._runners:
                self._runners[digest] = self._runner(digest, service, number)
        for digest in self._stages.keys() - named.keys():
            if self._stages.pop(digest).error:
                stage_path(self._home, digest).unlink(missing_ok=True)  # asked for again, it is tried again
        self._retire_runners(named)
        look = self._clock.monotonic_s() >= self._look_at_s
        if look:
            self._look_at_s = self._clock.monotonic_s() + _LOOK_S
            self._check_hangs()
        for runner in self._runners.values():
            runner.tend()

    def _runner(self, digest: str, service: str, number: int) -> Child:
        line = command("runner", RunnerSettings(self._settings, digest, number, self._sockets))
        return Child(f"runner of {service} version {number}", lambda _: line, self._clock)

    def _retire_runners(self, named: Collection[str]) -> None:
        """End runners that no route has named for a while: their last answers are out by then."""
        now_s = self._clock.monotonic_s()
        for digest in list(self._runners):
            if digest in named:
                self._unnamed_since_s.pop(digest, None)
            elif now_s - self._unnamed_since_s.setdefault(digest, now_s) > RETIRE_S:
                del self._unnamed_since_s[digest]
                runner = self._runners.pop(digest)
                runner.signal(signal.SIGTERM)
                runner.stop(_RUNNER_STOP_S)

    def _start_trial(self, digest: str) -> None:
        line = command("trial", TrialSettings(self._settings, digest))
        process = subprocess.Popen(line, stdin=subprocess.DEVNULL)
        self._trials[digest] = (process, self._clock.monotonic_s())

    def _tend_trials(self, named: Mapping[str, tuple[str, int]]) -> None:
        """Notice trials that ended, and end those that take too long or that no route asks for any more."""
        for digest, (process, began_s) in list(self._trials.items()):
            code = process.poll()
            if code is None:
                if digest in named and self._clock.monotonic_s() - began_s < _TRIAL_LIMIT_S:
                    continue
                process.kill()
                code = process.wait()
            del self._trials[digest]
            stage = read_stage(self._home, digest)
            if stage is None and digest in named:
                service, number = named[digest]
                who, how = f"{service} version {number}", describe_exit(code)
                stage = Stage(error=f"The trial of {who} on this machine ended {how}.")
                write_stage(self._home, digest, stage)
            if stage is not None:
                self._stages[digest] = stage

    def _check_hangs(self) -> None:
        for digest, runner in self._runners.items():
            self._check_hang(runner, runner_page(self._settings, digest), BUSY_SINCE, _HANG_S)
        for slot, worker in enumerate(self._workers):
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
        for group in (self._workers, [*self._runners.values(), self._control]):
            for child in group:
                child.signal(signal.SIGTERM)
            for child in group:
                child.stop(give_up_s - self._clock.monotonic_s())
        for process, _ in self._trials.values():
            process.kill()
        (self._home.run / "server.json").unlink(missing_ok=True)
        self._release()

    def _release(self) -> None:
        shutil.rmtree(self._sockets, ignore_errors=True)
        if self._lock is not None:
            self._lock.close()
            self._lock = None


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


def main() -> None:
    """Run the server that the command line describes."""
    logging.basicConfig(
        level=logging.WARNING, stream=sys.stderr, format="%(asctime)s %(name)s %(levelname)s %(message)s"
    )

    def tell(line: str) -> None:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()

    try:
        Supervisor(told(ServerSettings), tell=tell).run()
    except TidegateError as error:
        sys.exit(f"Error ({error.code}): {error.message}\n{error.hint}".rstrip())
    tell("Stopped.")


if __name__ == "__main__":
    main()
