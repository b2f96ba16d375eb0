"""The worker process: follows the route, loads its versions, serves the data port."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import random
import signal
import socket
import sys

import numpy as np
import uvloop

from tidegate.bootstrap.process import LEAVE, RETIRE_S, SEEN_AT, WorkerSettings, told, worker_page
from tidegate.bootstrap.stage import read_stage
from tidegate.bootstrap.version import VersionLoader
from tidegate.core.clock import SystemClock
from tidegate.core.error import TidegateError
from tidegate.core.identifier import uuid7_factory
from tidegate.journal.record import Event
from tidegate.journal.segment import JournalWriter
from tidegate.route.follower import POLL_INTERVAL_S, RouteFollower
from tidegate.route.route import Route, ServiceRoute
from tidegate.route.status import ServiceStatus, StatusFile, WorkerStatus, process_start
from tidegate.route.store import RouteStore
from tidegate.serving.dataplane import DataPlane
from tidegate.serving.endpoint import Endpoint, LoadedVersion
from tidegate.serving.http.connection import Connection
from tidegate.serving.http.face import resources
from tidegate.serving.http.site import Site
from tidegate.serving.metric import MetricPage

_log = logging.getLogger("tidegate.worker")

_BACKLOG = 4096
_DRAIN_S = 15.0
_LEAVE_IDLE_S = 3.0
"""How long a worker that is replaced waits for the next request of a quiet connection, to close it with
the answer: one that is closed while its client begins to send costs that client a request."""


class Worker:
    """One data-plane worker."""

    def __init__(self, settings: WorkerSettings, loop: asyncio.AbstractEventLoop) -> None:
        self._settings = settings
        self._loop = loop
        home, cell = settings.server.place, settings.server.cell
        self._home = home
        self._clock = SystemClock()
        self._journal = JournalWriter(
            home.journal, cell=cell, node=socket.gethostname(), worker=settings.slot, clock=self._clock
        )
        metrics = MetricPage(worker_page(settings.server, settings.slot))
        self._seen_at = metrics.counter(SEEN_AT, gauge=True)
        self._plane = DataPlane(
            loop,
            self._journal,
            clock=self._clock,
            metrics=metrics,
            new_id=uuid7_factory(self._clock, random.Random(int.from_bytes(os.urandom(16), "big"))),
        )
        self._site = Site()
        self._follower = RouteFollower(RouteStore(home.route(cell), cell=cell), clock=self._clock)
        self._status_file = StatusFile(home.workers(cell), slot=settings.slot)
        self._loader = VersionLoader(settings, loop)
        self._secret = home.secret_key()
        self._loaded: dict[tuple[str, int], LoadedVersion] = {}
        self._failed: dict[tuple[str, int], str] = {}
        self._loading: dict[tuple[str, int], asyncio.Task[None]] = {}
        self._generations: dict[str, int] = {}
        self._server: asyncio.Server | None = None
        self._stopping = asyncio.Event()
        self._due_at_s = 0.0
        self._patience_s = 0.0
        self._has_ended = False

    async def run(self) -> None:
        """Serve until SIGTERM, then finish what is under way."""
        for signum in (signal.SIGTERM, signal.SIGINT, LEAVE):
            self._loop.add_signal_handler(signum, self._on_signal, signum)
        house = self._loop.create_task(self._site.keep_house())
        self._event("worker.started", pid=os.getpid(), incarnation=self._settings.incarnation)
        self._follower.poll()
        self._apply(self._follower.route)
        # the port is opened with everything loaded, so that no request meets a worker that is not ready
        while self._loading:
            await asyncio.wait(self._loading.values())
        await self._listen()
        self._write_status()
        self._follow()
        await self._stopping.wait()
        await self._drain()
        self._has_ended = True
        house.cancel()
        for version in self._loaded.values():
            version.close()
        self._event("worker.stopped", pid=os.getpid())
        self._journal.close()
        self._status_file.remove()

    def _on_signal(self, signum: int) -> None:
        # Ctrl-C reaches every process of the terminal's group; the supervisor says when to stop.
        if signum == LEAVE:
            self._patience_s = _LEAVE_IDLE_S
        if signum in (signal.SIGTERM, LEAVE):
            self._stopping.set()

    async def _listen(self) -> None:
        listener = socket.socket(fileno=self._settings.listener)
        listener.setblocking(False)
        self._server = await self._loop.create_server(
            lambda: Connection(self._site), sock=listener, backlog=_BACKLOG
        )

    def _follow(self) -> None:
        """Look for a new route, and do what is due; called every few milliseconds by the loop itself.

        A plain callback: as a task that sleeps this would cost as much as a thousand requests a second.
        """
        if self._has_ended:
            return
        self._loop.call_later(POLL_INTERVAL_S, self._follow)
        route = self._follower.poll()
        if route is not None:
            self._apply(route)
        now_s = self._loop.time()
        if now_s >= self._due_at_s:
            self._due_at_s = now_s + 1.0
            self._seen_at.set(int(self._clock.monotonic_s() * 1000))
            self._plane.journal_refusals()
            if self._settings.server.is_orphaned:  # the supervisor is gone, and with it who would restart us
                self._stopping.set()

    # --- following the route ---

    def _apply(self, route: Route) -> None:
        """Load what the route names and is not here; serve what is complete."""
        for service in route.services.values():
            for number in service.versions:
                key = (service.service, number)
                if key not in self._loaded and key not in self._loading and key not in self._failed:
                    task = self._loop.create_task(self._load(service, number))
                    self._loading[key] = task
        self._publish(route)
        self._retire(route)

    def _publish(self, route: Route) -> None:
        """Serve each service by its newest generation for which all arms are loaded."""
        changed = False
        for service in route.services.values():
            versions = self._versions(service.service)
            complete = all(arm.version in versions for arm in service.arms)
            known = self._plane.endpoints.get(service.service)
            if known and (not complete or service.generation == self._generations.get(service.service)):
                continue
            if known:
                self._forget(known)
            self._plane.endpoints[service.service] = Endpoint(service, versions, secret=self._secret)
            self._generations[service.service] = service.generation if complete else 0
            changed = True
        for gone in self._plane.endpoints.keys() - route.services.keys():
            self._forget(self._plane.endpoints.pop(gone))
            changed = True
        if changed:
            self._site.publish(resources(self._plane, metrics=self._home.metrics))
            self._event("route.followed", sequence=route.sequence)
        self._write_status()

    def _forget(self, endpoint: Endpoint) -> None:
        """Let go of an old generation, and by it of its versions, once its last answers have left."""
        self._loop.call_later(RETIRE_S, self._plane.forget, endpoint.every_arm)

    def _versions(self, service: str) -> dict[int, LoadedVersion]:
        return {number: version for (name, number), version in self._loaded.items() if name == service}

    async def _load(self, service: ServiceRoute, number: int) -> None:
        key = (service.service, number)
        digest = service.manifests[number]
        is_new = service.preparing is not None and service.preparing.version == number
        try:
            while (stage := read_stage(self._home, digest)) is None:  # noqa: ASYNC110 - another process writes it
                await asyncio.sleep(0.01)
            if stage.error:
                self._failed[key] = stage.error
            else:
                self._loaded[key] = await self._loader.load(number, digest, stage, is_new=is_new)
        except (TidegateError, OSError) as error:
            self._failed[key] = str(error)
        except Exception as error:  # noqa: BLE001 - a version that cannot load must not stop the others
            _log.exception("version.load_failed")
            self._failed[key] = f"{type(error).__name__} while loading; the worker's log has the details."
        finally:
            del self._loading[key]
        if key in self._failed:
            _log.error("version.load_failed service=%s version=%d: %s", *key, self._failed[key])
        # a new endpoint even for the same generation: it now has one more version
        self._generations.pop(service.service, None)
        self._publish(self._follower.route)

    def _retire(self, route: Route) -> None:
        """Close, after a while, what neither the route nor an endpoint in force names any more."""
        named = {(name, number) for name, service in route.services.items() for number in service.versions}
        named |= {
            (name, arm.version.number) for name, end in self._plane.endpoints.items() for arm in end.arms
        }
        for key in self._loaded.keys() - named:
            self._loop.call_later(RETIRE_S, self._loaded.pop(key).close)
        for key in self._failed.keys() - named:
            del self._failed[key]  # put on standby once more, it is tried once more

    def _write_status(self) -> None:
        route = self._follower.route
        services = {
            name: ServiceStatus(
                generation=self._generations.get(name, 0),
                ready=tuple(sorted(self._versions(name))),
                failed={number: why for (service, number), why in self._failed.items() if service == name},
            )
            for name in route.services
        }
        status = WorkerStatus(
            slot=self._settings.slot,
            pid=os.getpid(),
            started=process_start(os.getpid()) or "",
            incarnation=self._settings.incarnation,
            sequence=route.sequence,
            services=services,
            draining=self._site.draining or self._server is None,
            updated_us=self._clock.wall_us(),
        )
        try:
            self._status_file.write(status)
        except OSError as error:  # a full disk must not stop serving; whoever waits for us says so
            _log.error("status.write_failed: %s", error)

    def _event(self, name: str, **detail: object) -> None:
        self._plane.record_event(Event(name, self._clock.wall_us(), detail=dict(detail)))

    async def _drain(self) -> None:
        assert self._server is not None
        self._server.close()
        self._site.drain(self._patience_s)
        self._write_status()
        give_up_s = self._clock.monotonic_s() + _DRAIN_S
        while (self._site.connections or self._plane.busy) and self._clock.monotonic_s() < give_up_s:
            self._site.drain(self._patience_s)
            await asyncio.sleep(0.01)
        self._plane.journal_refusals()


def main() -> None:
    """Run the worker that the command line describes."""
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(name)s %(levelname)s %(message)s"
    )
    settings = told(WorkerSettings)
    np.seterr(over="ignore", invalid="ignore")  # infinities are found by the contract's checks, not on stderr
    gc.freeze()  # what is imported stays; collections need not look at it
    gc.set_threshold(50_000, 20, 20)  # requests leave no cycles behind, so there is little to collect
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:

        async def serve() -> None:
            await Worker(settings, asyncio.get_running_loop()).run()

        runner.run(serve())


if __name__ == "__main__":
    main()
