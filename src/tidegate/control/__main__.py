"""The control process: `python -m tidegate.control`, started by the supervisor."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import uvicorn

from tidegate.bootstrap.controller import Controller
from tidegate.bootstrap.delta import DeltaCopy, make_copy
from tidegate.bootstrap.feature import STORE_VARIABLE
from tidegate.bootstrap.local import Local
from tidegate.bootstrap.overview import Overview, overview
from tidegate.bootstrap.process import ServerSettings, told
from tidegate.bootstrap.push import Pusher
from tidegate.bootstrap.setting import Settings
from tidegate.bootstrap.watcher import Watcher, make_watcher
from tidegate.control.app import make_app
from tidegate.control.journal import JournalCollector
from tidegate.control.lane import Lane
from tidegate.control.metric import WatchCollector, exposition
from tidegate.control.traffic import RollBack, SafeMode, Word
from tidegate.core.error import NotFound
from tidegate.core.principal import SYSTEM, Principal, local_principal
from tidegate.core.struct import learn_structs
from tidegate.feature.online import Pushed
from tidegate.journal.retention import RetentionPolicy
from tidegate.operation.release import Moved, change_safe_mode
from tidegate.operation.rollback import MovedBack, roll_back_meant
from tidegate.operation.rollout import (
    abort_release,
    approve_release,
    pause_release,
    promote_now,
    resume_release,
)
from tidegate.operation.state import ListedVersion, list_states
from tidegate.operation.version import list_services
from tidegate.operation.watching import ReleaseView, watch_release
from tidegate.release.machine import State
from tidegate.route.route import ServiceRoute

DATABASE_VARIABLE = "TIDEGATE_DATABASE_URL"


class LocalPlane:
    """What the control plane shows, read from the home and the database."""

    def __init__(
        self,
        local: Local,
        n_workers: int,
        controller: Controller,
        watcher: Watcher,
        copier: DeltaCopy | None = None,
    ) -> None:
        self._local = local
        self._copier = copier
        self.controller = controller
        self.watcher = watcher
        self._n_workers = n_workers
        # the port is the machine's own: who reaches it is taken for the user who runs the server
        self._person = local_principal()
        self._pusher = Pusher(local)

    def overview(self) -> Overview:
        return overview(self._local)

    def n_workers(self) -> int:
        return self._n_workers

    def services(self) -> list[str]:
        return list_services(self._local.unit)

    def versions(self, service: str) -> list[ListedVersion]:
        return list_states(self._local.unit, service)

    def route(self, service: str) -> ServiceRoute:
        found = self._local.routes.read().services.get(service)
        if found is None:
            raise NotFound(f"Service {service!r} has no route.", service=service)
        return found

    def push(self, view: str, rows: Sequence[Mapping[str, Any]]) -> Pushed:
        return self._pusher.push(view, rows)

    def roll_back(self, service: str, request: RollBack, *, by: Principal | None = None) -> MovedBack:
        local = self._local
        return roll_back_meant(
            lambda: local.unit,
            local.cells,
            service or None,
            own=local.settings.cell,
            principal=by or self._person,
            clock=local.clock,
            to=request.to,
            latch=not request.keep,
            reason=request.reason,
            key=request.key,
        )

    def change_safe_mode(self, service: str, request: SafeMode) -> Moved:
        local = self._local
        return change_safe_mode(
            lambda: local.unit,
            local.cell,
            service,
            on=request.on,
            principal=self._person,
            clock=local.clock,
            reason=request.reason,
            key=request.key,
        )

    def release(self, service: str) -> ReleaseView:
        local = self._local
        return watch_release(local.unit, local.home.ledger, service, clock=local.clock, cells=local.cells)

    def steer(self, service: str, word: str, request: Word) -> State | None:
        local = self._local
        if word == "abort":
            return abort_release(
                lambda: local.unit,
                local.cells,
                service,
                principal=self._person,
                clock=local.clock,
                reason=request.reason,
                key=request.key,
            )
        return _SAY[word](
            local.unit,
            service,
            principal=self._person,
            clock=local.clock,
            reason=request.reason,
            key=request.key,
        )

    def metrics(self) -> bytes:
        controller = self.controller
        watched = WatchCollector(controller.behind_bytes, controller.failures, self.watcher.open_signals)
        home = self._local.home
        waiting = None if self._copier is None else self._copier.waiting
        journal = JournalCollector(home.journal, home.ledger, clock=self._local.clock, waiting=waiting)
        return exposition(home.metrics, watched, journal)


_SAY = {
    "pause": pause_release,
    "resume": resume_release,
    "approve": approve_release,
    "promote": promote_now,
}


def main() -> None:
    """Serve the control port until SIGTERM."""
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(name)s %(levelname)s %(message)s"
    )
    server = told(ServerSettings)
    # the URL may hold a password, so it is not on the command line, where every user can read it
    database_url = os.environ.get(DATABASE_VARIABLE, server.database_url)
    settings = Settings(
        home=server.home,
        cell=server.cell,
        database_url=database_url,
        online_store=os.environ.get(STORE_VARIABLE, ""),
        trace_url=server.trace_url,
        trace_share=server.trace_share,
    )
    learn_structs()  # before the controller, the watcher and requests decode the same in threads of their own
    local = Local(settings, principal=SYSTEM)
    threading.Thread(target=_end_with_supervisor, args=(server,), daemon=True).start()
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        # of a terminal that hangs up the supervisor decides; of the others
        # uvicorn raises the signal again when it has ended; the controller still has to end after it
        signal.signal(signum, lambda *_: None)
    watcher = make_watcher(Local(settings, principal=SYSTEM))  # a thread of its own, stores of its own
    copier = make_copy(local.home.records, server.records_delta)

    def lead() -> None:
        watcher.start()
        if copier is not None:
            copier.start()

    controller = Controller(
        local.home,
        settings=settings,
        records_keep_days=server.records_keep_days,
        policy=RetentionPolicy(server.journal_keep_days, server.journal_max_mb * 1_000_000),
        copy_to=server.records_delta,
        on_lead=lead,
    )
    plane = LocalPlane(local, server.n_workers, controller, watcher, copier)
    lane = Lane(local.home.run, plane)
    lane.start()
    controller.start()
    uvicorn.run(
        make_app(plane),
        host=server.control_host,
        port=server.control_port,
        ssl_certfile=server.tls_certificate or None,
        ssl_keyfile=server.tls_key or None,
        access_log=False,
        log_level="warning",
    )
    lane.stop()
    watcher.stop()
    controller.stop()
    if copier is not None:
        copier.stop()


def _end_with_supervisor(server: ServerSettings) -> None:
    """End this process when the supervisor is gone: nobody would stop it otherwise."""
    while not server.is_orphaned:
        time.sleep(1.0)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
