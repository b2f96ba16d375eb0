"""Releases of one home: the controller of `release`, wired to the database, the ledger and the cell."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable, Mapping

from tidegate.bootstrap.local import Local
from tidegate.bootstrap.setting import Settings
from tidegate.core.error import TidegateError
from tidegate.core.principal import SYSTEM
from tidegate.journal.experiment import ExperimentCounts, ExperimentWatch
from tidegate.journal.ledger import Ledger
from tidegate.journal.matured import MaturedCounts
from tidegate.operation.book import DatabaseBook
from tidegate.operation.experiment import running
from tidegate.operation.pending import PendingMoves, reconcile
from tidegate.release.controller import ReleaseController
from tidegate.release.declaration import Experiment
from tidegate.release.experiment import experiment_arms
from tidegate.release.readiness import Cell
from tidegate.release.source import LedgerSource
from tidegate.route.status import process_start

_log = logging.getLogger("tidegate.release")

_BUSY_S = 0.25
_IDLE_S = 1.0
"""Between two looks while a release is under way, and while none is."""
_RETRY_S = 5.0
_MOVES_S = 5.0
"""Between two looks for decisions that wait in files: the folder is read each time."""


class Releases:
    """Looks at releases when it is time; nothing that happens there ends the counting beside it.

    Args:
        settings: Where the database and the cell are.
        ledger: The tailer's, in whose thread this runs.
        is_behind: Whether the tailer has much left to count.
    """

    def __init__(
        self, settings: Settings, ledger: Ledger, *, is_behind: Callable[[], bool] = lambda: False
    ) -> None:
        self._local = Local(settings, principal=SYSTEM)
        self._ledger = ledger
        self._is_behind = is_behind
        self._controller: ReleaseController | None = None
        self._counts = ExperimentCounts(
            ledger, self._local.home.journal, clock=self._local.clock, is_behind=is_behind
        )
        self._experiments: dict[tuple[str, str, int], tuple[ExperimentWatch, Experiment]] = {}
        self._next_s = self._moves_s = 0.0

    def tick(self) -> None:
        """Look, if it is time."""
        if time.monotonic() < self._next_s:
            return
        pause_s = _RETRY_S
        try:
            if self._controller is None:
                self._controller = self._open()
            cells = self._local.cells
            self._controller.follow(cells)
            self._keep_moves(cells)
            self._count_experiments(cells)
            pause_s = _BUSY_S if self._controller.tick() else _IDLE_S
        except TidegateError as error:
            _log.warning("release.delayed: %s", error)
        except Exception:  # noqa: BLE001 - a fault here must be seen, and must not end the counting
            _log.exception("release.failed")
        self._next_s = time.monotonic() + pause_s

    def _keep_moves(self, cells: Mapping[str, Cell]) -> None:
        """Put the decisions of what was moved while the database was away into it."""
        if time.monotonic() < self._moves_s:
            return
        self._moves_s = time.monotonic() + _MOVES_S
        for cell in cells.values():
            if cell.pending is None:
                continue
            pending = PendingMoves(cell.pending, files=cell.files)
            try:
                reconcile(self._local.unit, pending, cell.routes, clock=self._local.clock)
            except (TidegateError, OSError) as error:  # releases go on; they say what they miss
                _log.warning("moves.waiting cell=%s: %s", cell.routes.cell, error)

    def _count_experiments(self, cells: Mapping[str, Cell]) -> None:
        """Count what experiments measure; what each is, is looked up once."""
        known, self._experiments = self._experiments, {}
        for cell in cells.values():
            for name, route in cell.routes.read().services.items():
                if not experiment_arms(route):
                    continue
                place = (cell.routes.cell, name, route.generation)
                found = known[place] if place in known else running(self._local.unit, route)
                if found is not None and found[0].since_us:  # else its decision is not kept yet
                    self._experiments[place] = found
                    self._counts.advance(found[0])

    def _open(self) -> ReleaseController:
        local = self._local
        pid = os.getpid()
        matured = MaturedCounts(
            self._ledger, local.home.journal, clock=local.clock, is_behind=self._is_behind
        )
        return ReleaseController(
            book=DatabaseBook(local.unit, clock=local.clock),
            source=LedgerSource(self._ledger, matured),
            cells=local.cells,
            clock=local.clock,
            holder=f"{socket.gethostname()}:{pid}:{process_start(pid)}",
            is_dead=_is_dead,
        )

    def close(self) -> None:
        """Give the lease and the database back."""
        if self._controller is not None:
            self._controller.resign()
        self._local.close()


def _is_dead(holder: str) -> bool:
    """Tell whether a holder ran on this machine and does no more."""
    node, _, process = holder.partition(":")
    pid, _, started = process.partition(":")
    return node == socket.gethostname() and pid.isdigit() and process_start(int(pid)) != started
