"""The workers of one server: who accepts on which socket, and how they are replaced one by one.

The listening sockets belong to the supervisor. A worker inherits one and accepts from it, so that
what was connected to a worker that died, or that is being replaced, waits in the socket's queue for
the next one and is not refused.
"""

from __future__ import annotations

import logging
import signal
import socket
from collections.abc import Callable, Collection
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import msgspec

from tidegate.bootstrap.child import Child
from tidegate.bootstrap.placement import on_demand
from tidegate.bootstrap.process import LEAVE, ServerSettings, WorkerSettings, command
from tidegate.core.clock import Clock
from tidegate.core.home import Home
from tidegate.route.route import Route
from tidegate.route.status import StatusBoard, WorkerStatus

_log = logging.getLogger("tidegate.supervisor")

_HELD_S = 1.0
"""Connections wait for a worker that is back within this time. For one that stays away longer they are
refused, so that callers turn to another."""
_REPLACE_S = 60.0
"""A successor that does not serve by then never will: the one it was to replace stays."""
_MAX_STARTS = 3
_LEAVE_S = 30.0
"""A worker that was asked to leave has answered what it took well before this."""


class RestartState(StrEnum):
    """How far a restart has come."""

    RUNNING = "running"
    DONE = "done"
    GIVEN_UP = "given-up"


class RestartRecord(msgspec.Struct, frozen=True):
    """What the supervisor says about the last restart.

    Attributes:
        began_us: When it was asked for, microseconds UTC.
        state: How far it has come.
        replaced: Workers replaced so far.
        reason: Why it was given up, in words.
    """

    began_us: int
    state: RestartState
    replaced: int = 0
    reason: str = ""


def restart_path(home: Home) -> Path:
    """Return the file in which the supervisor keeps its `RestartRecord`."""
    return home.run / "restart.json"


def follows(worker: WorkerStatus, route: Route, *, but: Collection[str] = ()) -> bool:
    """Tell whether a worker serves every service by the generation in force, `but` some."""
    return all(
        worker.of(name).generation == service.generation
        for name, service in route.services.items()
        if name not in but
    )


class Seat:
    """A listening socket, and the worker that accepts from it."""

    def __init__(self, settings: ServerSettings) -> None:
        self._settings = settings
        self._listener: socket.socket | None = None
        self.worker: Child
        self.slot: int

    def descriptor(self) -> int:
        """Return the socket's file descriptor; it listens once a worker says so."""
        if self._listener is None:
            server = self._settings
            family = socket.AF_INET6 if ":" in server.host else socket.AF_INET
            listener = socket.socket(family, socket.SOCK_STREAM)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            # each worker has a queue of its own: a shared one gives one worker most connections
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            listener.bind((server.host, server.port))
            self._listener = listener
        return self._listener.fileno()

    def close(self) -> None:
        """Refuse who connects; the worker, if one still accepts here, has the socket too."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None


@dataclass
class _Successor:
    seat: Seat
    slot: int
    worker: Child
    give_up_s: float


class Fleet:
    """All workers of one server."""

    def __init__(
        self,
        settings: ServerSettings,
        *,
        sockets: str,
        clock: Clock,
        tell: Callable[[str], None],
    ) -> None:
        """Take settings; `tend` starts the workers.

        Args:
            settings: What to run.
            sockets: Folder of the runners' sockets.
            clock: Time.
            tell: Told, in words, how a restart went.
        """
        self._settings = settings
        self._sockets = sockets
        self._clock = clock
        self._tell = tell
        self._board = StatusBoard(settings.place.workers(settings.cell))
        self._incarnations: dict[int, int] = {}
        self._due: list[Seat] = []
        self._successor: _Successor | None = None
        self._leaving: dict[int, tuple[Child, float]] = {}
        self._restart: RestartRecord | None = None
        self._seats: list[Seat] = []
        for slot in range(settings.n_workers):
            seat = Seat(settings)
            seat.slot, seat.worker = slot, self._worker(seat, slot)
            self._seats.append(seat)

    @property
    def workers(self) -> dict[int, Child]:
        """Every worker that should be running, by slot."""
        found = {seat.slot: seat.worker for seat in self._seats}
        if self._successor is not None:
            found[self._successor.slot] = self._successor.worker
        return found | {slot: child for slot, (child, _) in self._leaving.items()}

    def tend(self, route: Route) -> None:
        """Start what is due, and take a restart one step further.

        Args:
            route: What a worker has to follow before it counts as there.
        """
        for seat in self._seats:
            seat.worker.tend()
            if seat.worker.waits_s > _HELD_S:
                seat.close()
        self._tend_leaving()
        if self._restart is not None and self._restart.state is RestartState.RUNNING:
            self._tend_restart(route)

    def is_ready(self, route: Route) -> bool:
        """Tell whether every worker serves every service."""
        live = self._board.live()
        return len(live) >= len(self._seats) and all(
            follows(worker, route, but=self._hidden(route)) for worker in live
        )

    def _hidden(self, route: Route) -> frozenset[str]:
        """Return the services that no worker loads before they are asked for."""
        return on_demand(route, above=self._settings.on_demand_above)

    # --- replacing workers one by one ---

    def restart(self) -> None:
        """Replace every worker by a new process, one at a time; nothing happens if that is under way."""
        if self._restart is not None and self._restart.state is RestartState.RUNNING:
            return
        self._due = list(self._seats)
        self._note(RestartRecord(self._clock.wall_us(), RestartState.RUNNING))

    def _tend_restart(self, route: Route) -> None:
        assert self._restart is not None
        if self._successor is None:
            if not self._due:
                self._note(msgspec.structs.replace(self._restart, state=RestartState.DONE))
                self._tell(f"Restarted: {self._restart.replaced} workers were replaced.")
                return
            seat = self._due.pop(0)
            slot = next(slot for slot in range(2 * len(self._seats) + 1) if slot not in self.workers)
            give_up_s = self._clock.monotonic_s() + _REPLACE_S
            self._successor = _Successor(seat, slot, self._worker(seat, slot), give_up_s)
        step = self._successor
        step.worker.tend()
        live = {worker.pid: worker for worker in self._board.live()}
        status = live.get(step.worker.pid or 0)
        if status is not None and follows(status, route, but=self._hidden(route)):
            self._hand_over(step)
        elif step.worker.n_started > _MAX_STARTS or self._clock.monotonic_s() > step.give_up_s:
            self._give_up(step, status)

    def _hand_over(self, step: _Successor) -> None:
        assert self._restart is not None
        self._successor = None
        leaving, slot = step.seat.worker, step.seat.slot
        step.seat.worker, step.seat.slot = step.worker, step.slot
        leaving.signal(LEAVE)
        self._leaving[slot] = (leaving, self._clock.monotonic_s() + _LEAVE_S)
        self._note(msgspec.structs.replace(self._restart, replaced=self._restart.replaced + 1))

    def _give_up(self, step: _Successor, status: WorkerStatus | None) -> None:
        """Leave the present workers as they are: a release that does not start must not stop this one."""
        assert self._restart is not None
        self._successor = None
        self._due.clear()
        step.worker.signal(signal.SIGKILL)
        step.worker.stop(1.0)
        reasons = (
            []
            if status is None
            else [why for each in status.services.values() for why in each.failed.values()]
        )
        why = (
            " ".join(reasons)
            or ("It ended each time it was started." if step.worker.n_started > _MAX_STARTS else "")
            or f"It did not serve within {_REPLACE_S:.0f} s."
        )
        reason = f"A new worker could not take over. {why} The workers before it go on."
        self._note(msgspec.structs.replace(self._restart, state=RestartState.GIVEN_UP, reason=reason))
        self._tell(f"Restart given up: {reason}")

    def _tend_leaving(self) -> None:
        for slot, (child, give_up_s) in list(self._leaving.items()):
            if child.has_ended:
                del self._leaving[slot]
            elif self._clock.monotonic_s() > give_up_s:
                _log.error("worker.not_left name=%s", child.name)
                child.signal(signal.SIGKILL)

    def _note(self, record: RestartRecord) -> None:
        self._restart = record
        path = restart_path(self._settings.place)
        draft = path.with_suffix(".draft")
        try:
            draft.write_bytes(msgspec.json.encode(record))
            draft.replace(path)
        except OSError as error:  # a full disk keeps nobody from restarting
            _log.error("restart.not_noted: %s", error)

    # ---

    def stop(self, give_up_s: float) -> None:
        """End all workers, each after it has answered what it took.

        Args:
            give_up_s: When to kill those that have not ended, by the monotonic clock.
        """
        for seat in self._seats:
            seat.close()
        workers = list(self.workers.values())
        for worker in workers:
            worker.signal(signal.SIGTERM)
        for worker in workers:
            worker.stop(give_up_s - self._clock.monotonic_s())

    def _worker(self, seat: Seat, slot: int) -> Child:
        def line(_: int) -> list[str]:
            incarnation = self._incarnations.get(slot, 0)
            self._incarnations[slot] = incarnation + 1
            step = self._successor
            settings = WorkerSettings(
                self._settings,
                slot,
                incarnation,
                self._sockets,
                seat.descriptor(),
                is_successor=step is not None and step.slot == slot,
            )
            return command("worker", settings)

        return Child(f"worker-{slot}", line, self._clock, keep=lambda: (seat.descriptor(),))
