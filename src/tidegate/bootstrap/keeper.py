"""Trials and runners: every version that the route names is tried once, and runs where its trial said.

A runner is another's code as often as not. It is killed when a call of it hangs, replaced when it leaks,
and kept away for longer and longer when it does nothing but crash.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from tidegate.bootstrap.child import Child, describe_exit, end_group
from tidegate.bootstrap.condition import Condition
from tidegate.bootstrap.placement import on_demand
from tidegate.bootstrap.process import (
    BUSY_SINCE,
    DUE_AT,
    RETIRE_S,
    RUNNER_SEEN_AT,
    NurserySettings,
    RunnerSettings,
    ServerSettings,
    TrialSettings,
    command,
    frames_path,
    runner_page,
    socket_path,
)
from tidegate.bootstrap.stage import Stage, read_stage, stage_path, write_stage
from tidegate.core.clock import Clock
from tidegate.core.error import TidegateError
from tidegate.route.route import Route
from tidegate.serving.metric import read_page

_log = logging.getLogger("tidegate.supervisor")

TRIAL_LIMIT_S = 600.0
_TRY_AGAIN_S = 1.0
"""Pause after the system has refused a trial what it needs: a process, a descriptor, room for its result."""
HANG_S = 30.0
"""A call of a model that nobody's deadline bounds, such as that of check inputs, may take so long."""
STILL_S = 10.0
"""A runner whose loop did not come round for so long between calls answers nobody."""
CONFIRM_S = 1.0
"""A call that is over its time is looked at for so long before its runner is killed: after a stop of the
whole server (Ctrl-Z) everything is late, and a call that ends meanwhile needs no new process."""
LOOK_S = 0.25
HARD_SHARE = 1.5
"""A runner at so many times its bound is killed: it grows faster than its successor starts."""
LOOP_DEATHS = 5
"""So many deaths in a row, none after a steady life, are a crash loop."""
LINGER_S = 60.0
"""A runner that hands over to its successor is ended after this, whatever it still owes."""
STOP_S = 1.0  # it has nothing left to do; the supervisor has
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Named(NamedTuple):
    """A version that has to be there."""

    service: str
    number: int
    since_us: int


class RunnerSeat:
    """The runner of one version, and its successor while it is replaced."""

    def __init__(self, child: Child, *, socket: Path, stage: Stage) -> None:
        self.child = child
        self.socket = socket
        self.stage = stage
        self.successor: Child | None = None
        self.leaving: list[tuple[Child, float]] = []
        self.n_recycled = 0
        self.late_since_s = 0.0
        self._inode = 0

    def begin_handover(self, successor: Child) -> None:
        """Start the next runner; the present one serves until that listens."""
        self.successor = successor
        self._inode = _inode(self.socket)
        successor.tend()

    def tend(self, now_s: float) -> None:
        """Keep it running; end who has handed over."""
        if self.successor is None:
            self.child.tend()
        elif self.child.has_ended or _inode(self.socket) not in (0, self._inode):
            self.child.signal(signal.SIGTERM)
            self.leaving.append((self.child, now_s))
            self.child, self.successor = self.successor, None
            self.n_recycled += 1
        elif self.successor.has_ended:  # it could not start: the present one goes on, and is seen to again
            self.successor = None
        for child, since_s in list(self.leaving):
            if child.has_ended or now_s - since_s > LINGER_S:
                child.stop(0.0)
                self.leaving.remove((child, since_s))

    @property
    def all(self) -> list[Child]:
        found = [self.child, *(child for child, _ in self.leaving)]
        return found if self.successor is None else [*found, self.successor]


class VersionKeeper:
    """Keeps the trials and runners of one server."""

    def __init__(self, settings: ServerSettings, *, sockets: str, clock: Clock) -> None:
        """Take settings.

        Args:
            settings: The server.
            sockets: Folder of the runners' sockets.
            clock: Time.
        """
        self._settings = settings
        self._home = settings.place
        self._sockets = sockets
        self._clock = clock
        self._seats: dict[str, RunnerSeat] = {}
        self._stages: dict[str, Stage] = {}
        self._trials: dict[str, tuple[subprocess.Popen[bytes], float]] = {}
        self._try_at_s = 0.0
        self._refused = ""  # why no trial can be made
        self._unnamed_since_s: dict[str, float] = {}
        self._look_at_s = 0.0
        self._n_runners = 0
        self._sequence = -1
        self._named: dict[str, Named] = {}
        self._idle: dict[str, Named] = {}  # versions that are loaded on demand
        self.nursery = Child(
            "nursery",
            lambda _: command("nursery", NurserySettings(settings, sockets)),
            clock,
            environment=foreign_environment(OPENBLAS_NUM_THREADS="1", OMP_NUM_THREADS="1"),
            is_foreign=True,
        )

    def tend(self, route: Route) -> None:
        """Try what has to be tried, start what is missing, end what is not named any more."""
        if route.sequence != self._sequence:
            self._sequence = route.sequence
            self._read(route)
        named = self._named
        if self._idle:
            self.nursery.tend()
            wanted = self._wanted()
            named = {**named, **{digest: self._idle[digest] for digest in wanted & self._idle.keys()}}
        self._settle_all(named)
        for digest, who in named.items():
            stage = self._stages.get(digest)
            if stage is None:
                continue
            if stage.runner and not stage.error and digest not in self._seats:
                self._seats[digest] = RunnerSeat(
                    self._runner(digest, who), socket=Path(frames_path(self._sockets, digest)), stage=stage
                )
        for digest in self._stages.keys() - named.keys():
            if self._stages.pop(digest).error:
                stage_path(self._home, digest).unlink(missing_ok=True)  # asked for again, it is tried again
        self._retire(named)
        now_s = self._clock.monotonic_s()
        if now_s >= self._look_at_s:
            self._look_at_s = now_s + LOOK_S
            for digest, seat in self._seats.items():
                self._check_hang(digest, seat)
                self._check_memory(digest, seat, named.get(digest))
        for seat in self._seats.values():
            seat.tend(now_s)

    def conditions(self) -> Iterator[Condition]:
        """Yield what an operator should know of the runners."""
        if self._refused:
            words = f"Versions cannot be tried on this machine: {self._refused}. It is tried again."
            yield Condition("trials", "restarting", words)
        for seat in self._seats.values():
            child = seat.child
            if child.n_deaths >= LOOP_DEATHS and not child.is_steady:
                words = (
                    f"The {child.name} has died {child.n_deaths} times in a row, last {child.last_exit}; "
                    f"it is started again in {child.waits_s:.0f} s. Until then its fallback answers, or "
                    "nobody."
                )
                yield Condition(child.name, "quarantined", words)
            elif child.waits_s > 0:
                yield Condition(
                    child.name, "restarting", f"The {child.name} died {child.last_exit} and is started again."
                )
            if seat.n_recycled:
                yield Condition(
                    child.name,
                    "recycled",
                    f"The {child.name} was replaced {seat.n_recycled} times because it grew beyond "
                    f"{seat.stage.memory_bytes / 1e6:.0f} MB.",
                )

    @property
    def children(self) -> list[Child]:
        """All processes that are to be ended with the server."""
        return [self.nursery, *(child for seat in self._seats.values() for child in seat.all)]

    def stop(self) -> None:
        """End all processes, which were told to end; nobody waits for their answers any more."""
        give_up_s = self._clock.monotonic_s() + STOP_S
        for child in self.children:
            child.stop(give_up_s - self._clock.monotonic_s())
        for process, _ in self._trials.values():
            process.kill()
            process.wait()
            end_group(process.pid)

    # --- which versions ---

    def _read(self, route: Route) -> None:
        hidden = on_demand(route, above=self._settings.on_demand_above)
        self._named, self._idle = {}, {}
        for name, service in route.services.items():
            target = self._idle if name in hidden else self._named
            for number in service.versions:
                asked = service.preparing
                since_us = asked.since_us if asked is not None and asked.version == number else 0
                target[service.manifests[number]] = Named(name, number, since_us)
        for digest, who in self._named.items():
            stage = self._stages.get(digest)
            if stage is not None and stage.error and stage.tried_us < who.since_us:
                del self._stages[digest]  # it is asked for anew, so it is tried anew
                stage_path(self._home, digest).unlink(missing_ok=True)

    def _wanted(self) -> set[str]:
        """Return the manifests whose runners workers ask for."""
        found = {entry.name.partition(".")[0] for entry in Path(self._sockets).glob("*.wanted")}
        if not found:
            return set()
        return {digest for digest in self._idle if Path(socket_path("", digest)).name in found}

    def _settle_all(self, named: Mapping[str, Named]) -> None:
        """Learn what trials found, and have those that are missing."""
        if self._clock.monotonic_s() < self._try_at_s:
            return
        try:
            self._tend_trials(named)
            for digest, who in named.items():
                if digest not in self._stages:
                    self._settle(digest, who)
        except OSError as error:  # what runs must not end with it
            if not self._refused:
                _log.error("trial.not_made: %s", error)
            self._refused = error.strerror or str(error)
            self._try_at_s = self._clock.monotonic_s() + _TRY_AGAIN_S
        else:
            self._refused = ""

    def _settle(self, digest: str, who: Named) -> None:
        """Learn what a version's trial found, or have one."""
        stage = read_stage(self._home, digest)
        if stage is not None and stage.error and stage.tried_us < who.since_us:
            stage_path(self._home, digest).unlink(missing_ok=True)
            stage = None
        if stage is None:
            if digest not in self._trials:
                line = command("trial", TrialSettings(self._settings, digest))
                process = subprocess.Popen(
                    line, stdin=subprocess.DEVNULL, env=foreign_environment(), process_group=0
                )
                self._trials[digest] = (process, self._clock.monotonic_s())
            return
        self._stages[digest] = stage

    def _tend_trials(self, named: Mapping[str, Named]) -> None:
        """Notice trials that ended, and end those that take too long or that no route asks for any more."""
        for digest, (process, began_s) in list(self._trials.items()):
            code = process.poll()
            if code is None:
                if digest in named and self._clock.monotonic_s() - began_s < TRIAL_LIMIT_S:
                    continue
                process.kill()
                code = process.wait()
            end_group(process.pid)
            del self._trials[digest]
            stage = read_stage(self._home, digest)
            if stage is None and digest in named:
                who = f"{named[digest].service} version {named[digest].number}"
                how = describe_exit(code)
                stage = write_stage(
                    self._home, digest, Stage(error=f"The trial of {who} on this machine ended {how}.")
                )
            if stage is not None:
                self._stages[digest] = stage

    # --- runners ---

    def _runner(self, digest: str, who: Named) -> Child:
        self._n_runners += 1  # what was noted by one is for its own successors, and for no other
        notes = f"{socket_path(self._sockets, digest)}.{self._n_runners}.notes"
        settings = RunnerSettings(self._settings, digest, who.number, self._sockets, notes)
        line = command("runner", settings)
        name = f"runner of {who.service} version {who.number}"

        def start(_: int) -> list[str]:
            Path(self._sockets).mkdir(mode=0o700, exist_ok=True)  # what cleans /tmp may have removed it
            return line

        return Child(name, start, self._clock, environment=foreign_environment(), is_foreign=True)

    def _retire(self, named: Mapping[str, Named]) -> None:
        """End runners that no route has named for a while: their last answers are out by then."""
        now_s = self._clock.monotonic_s()
        for digest in list(self._seats):
            if digest in named:
                self._unnamed_since_s.pop(digest, None)
            elif now_s - self._unnamed_since_s.setdefault(digest, now_s) > RETIRE_S:
                del self._unnamed_since_s[digest]
                for child in self._seats.pop(digest).all:
                    child.signal(signal.SIGTERM)
                    child.stop(STOP_S)

    def _check_hang(self, digest: str, seat: RunnerSeat) -> None:
        """Kill a runner whose call is past the last deadline that anybody in it had, or that stands still."""
        gauges = {BUSY_SINCE: 0.0, DUE_AT: 0.0, RUNNER_SEEN_AT: 0.0}
        try:
            for sample in read_page(runner_page(self._settings, digest)):
                if sample.name in gauges:
                    gauges[sample.name] = sample.value / 1000
        except (OSError, TidegateError):
            return
        now_s, since_s = self._clock.monotonic_s(), gauges[BUSY_SINCE]
        due_s = gauges[DUE_AT] or since_s + HANG_S
        if not since_s:
            since_s = gauges[RUNNER_SEEN_AT]
            due_s = since_s + STILL_S
        if since_s < seat.child.started_s or now_s < due_s:  # an earlier process's stamp tells nothing
            seat.late_since_s = 0.0
        elif not seat.late_since_s:
            seat.late_since_s = now_s
        elif now_s - seat.late_since_s > max(CONFIRM_S, 2 * seat.stage.longest_call_s):
            seat.late_since_s = 0.0
            _log.error("process.hung name=%s stood_s=%.1f", seat.child.name, now_s - since_s)
            seat.child.signal(signal.SIGKILL)

    def _check_memory(self, digest: str, seat: RunnerSeat, who: Named | None) -> None:
        """Replace a runner that has grown beyond its bound; its successor stands by before it goes."""
        limit_bytes = seat.stage.memory_bytes
        size_bytes = _resident_bytes(seat.child.pid)
        if not limit_bytes or size_bytes <= limit_bytes:
            return
        if size_bytes > HARD_SHARE * limit_bytes:
            _log.error("process.too_large name=%s size_mb=%.0f", seat.child.name, size_bytes / 1e6)
            seat.child.signal(signal.SIGKILL)
        elif seat.successor is None and who is not None:
            _log.warning("process.recycled name=%s size_mb=%.0f", seat.child.name, size_bytes / 1e6)
            seat.begin_handover(self._runner(digest, who))


def foreign_environment(**more: str) -> dict[str, str]:
    """Return the environment of a process that runs code of others: without our secrets."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("TIDEGATE_")}
    return {**ours, **more}


def _inode(path: Path) -> int:
    try:
        return path.stat().st_ino
    except OSError:
        return 0


def _resident_bytes(pid: int | None) -> int:
    with suppress(OSError, ValueError, IndexError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_BYTES
    return 0
