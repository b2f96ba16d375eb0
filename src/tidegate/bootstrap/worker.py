"""The worker process: follows the route, loads its versions, serves the data port."""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import os
import random
import signal
import socket
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np
import uvloop

from tidegate.bootstrap.on_demand import OnDemand, try_in_nursery
from tidegate.bootstrap.placement import on_demand
from tidegate.bootstrap.process import (
    LEAVE,
    RETIRE_S,
    SEEN_AT,
    WorkerSettings,
    nursery_socket,
    told,
    wanted_path,
    worker_page,
)
from tidegate.bootstrap.pulse import Pulse
from tidegate.bootstrap.stage import Stage, read_stage
from tidegate.bootstrap.tls import tls_context
from tidegate.bootstrap.version import VersionLoader
from tidegate.contract.objective import Limits
from tidegate.core.clock import SystemClock
from tidegate.core.error import TidegateError
from tidegate.core.identifier import uuid7_factory
from tidegate.core.struct import learn_structs
from tidegate.journal.record import Event
from tidegate.journal.segment import JournalWriter
from tidegate.route.follower import NOTICED_INTERVAL_S, POLL_INTERVAL_S, RouteFollower
from tidegate.route.notice import open_notice
from tidegate.route.route import Route, ServiceRoute
from tidegate.route.status import ServiceStatus, StatusFile, WorkerStatus, process_start
from tidegate.route.store import RouteStore
from tidegate.serving.call import NotReady
from tidegate.serving.courtesy import yield_on_linux
from tidegate.serving.dataplane import DataPlane
from tidegate.serving.endpoint import Endpoint, LoadedVersion, UnknownService
from tidegate.serving.http.cold import ColdHandler, Waiting
from tidegate.serving.http.connection import Connection
from tidegate.serving.http.exchange import Handler
from tidegate.serving.http.face import common_resources, service_resources
from tidegate.serving.http.site import Site
from tidegate.serving.metric import MetricPage

_log = logging.getLogger("tidegate.worker")

_BACKLOG = 4096
_DRAIN_S = 15.0
_LEAVE_IDLE_S = 3.0
"""How long a worker that is replaced waits for the next request of a quiet connection, to close it with
the answer: one that is closed while its client begins to send costs that client a request."""

_MAX_HANDLERS = 4096
_OTHERS_S = 10.0
"""How long a worker that can serve something keeps its port closed for what still loads."""
_RETRY_S = 5.0
"""How long a version that could not be loaded is not tried again."""


class Failure(NamedTuple):
    """Why a version could not be loaded.

    Attributes:
        why: In words.
        asked_us: When the switch that asked for it began, microseconds UTC; 0 if none did.
        at_s: When it failed, monotonic.
    """

    why: str
    asked_us: int
    at_s: float


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
            yields=yield_on_linux,
        )
        self._site = Site()
        self._plane.outbox.is_alone = lambda: len(self._site.connections) < 2
        self._follower = RouteFollower(RouteStore(home.route(cell), cell=cell), clock=self._clock)
        self._notice = open_notice(home.route(cell))
        self._status_file = StatusFile(home.workers(cell), slot=settings.slot)
        self._loader = VersionLoader(settings, loop, unwell=self._plane.unwell)
        self._secret = home.secret_key()
        self._loaded: dict[str, dict[int, LoadedVersion]] = {}
        self._failed: dict[tuple[str, int], Failure] = {}
        self._applied: dict[str, int] = {}  # generation of each service that was looked at
        self._moved: set[str] = set()  # services that have changed since this process began
        self._resources = common_resources(self._plane, metrics=home.metrics)
        self._paths: dict[str, tuple[bytes, ...]] = {}
        self._waiting = Waiting()
        self._trying: set[asyncio.Task[None]] = set()
        self._handlers: dict[tuple[str, bool], ColdHandler] = {}
        self._site.on_demand = self._find_on_demand
        self._cold = OnDemand(
            limit_bytes=settings.server.worker_bytes,
            load=self._load_service,
            close=self._close_service,
            is_busy=self._is_busy,
            asked=self._asked,
            clock=self._clock,
        )
        self._pulse = Pulse(self._loader, self._every_version, unwell=self._plane.unwell)
        self._status_due = False
        self._status_writing: asyncio.Task[None] | None = None
        self._loading: dict[tuple[str, int], asyncio.Task[None]] = {}
        self._generations: dict[str, int] = {}
        self._server: asyncio.Server | None = None
        self._stopping = asyncio.Event()
        self._due_at_s = 0.0
        self._patience_s = 0.0
        self._has_ended = False

    async def run(self) -> None:
        """Serve until SIGTERM, then finish what is under way."""
        for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, LEAVE):
            self._loop.add_signal_handler(signum, self._on_signal, signum)
        house = self._loop.create_task(self._site.keep_house())
        self._event("worker.started", pid=os.getpid(), incarnation=self._settings.incarnation)
        self._site.publish(self._resources)
        self._follower.poll()
        self._apply(self._follower.route)
        await self._load_first()
        await self._listen()
        self._write_status()
        if self._notice is not None:
            self._loop.add_reader(self._notice.fileno(), self._hear)
        self._follow()
        await self._stopping.wait()
        await self._drain()
        self._has_ended = True
        if self._notice is not None:
            self._loop.remove_reader(self._notice.fileno())
            self._notice.close()
        house.cancel()
        for versions in self._loaded.values():
            for version in versions.values():
                version.close()
        self._event("worker.stopped", pid=os.getpid())
        self._plane.close_journal()
        if self._status_writing is not None:
            await self._status_writing
        self._status_file.remove()

    async def _load_first(self) -> None:
        """Load everything, so that no request meets a worker that is not ready.

        Some models may never load: once there is one that can be served, the others get a while, unless
        somebody else serves them all meanwhile.
        """
        give_up_s = math.inf
        while self._loading and (now_s := self._loop.time()) < give_up_s:
            if self._loaded and give_up_s == math.inf and not self._settings.is_successor:
                give_up_s = now_s + _OTHERS_S
            await asyncio.wait(
                self._loading.values(),
                timeout=None if give_up_s == math.inf else give_up_s - now_s,
                return_when=asyncio.FIRST_COMPLETED,
            )
        for service, number in self._loading:
            _log.warning("version.not_waited_for service=%s version=%d", service, number)

    def _on_signal(self, signum: int) -> None:
        # Ctrl-C, or a terminal that hangs up, reaches every process of its group; the supervisor says when.
        if signum == LEAVE:
            self._patience_s = _LEAVE_IDLE_S
        if signum in (signal.SIGTERM, LEAVE):
            self._stopping.set()

    async def _listen(self) -> None:
        listener = socket.socket(fileno=self._settings.listener)
        listener.setblocking(False)
        self._server = await self._loop.create_server(
            lambda: Connection(self._site),
            sock=listener,
            backlog=_BACKLOG,
            ssl=tls_context(self._settings.server),
        )

    def _follow(self) -> None:
        """Look for a new route, and do what is due; called several times a second by the loop itself.

        A plain callback: as a task that sleeps this would cost several times as much.
        """
        if self._has_ended:
            return
        interval_s = POLL_INTERVAL_S if self._notice is None else NOTICED_INTERVAL_S
        self._loop.call_later(interval_s, self._follow)
        self._look()
        now_s = self._loop.time()
        if now_s >= self._due_at_s:
            self._due_at_s = now_s + 1.0
            self._seen_at.set(int(self._clock.monotonic_s() * 1000))
            self._plane.journal_refusals()
            self._cold.check()
            self._pulse.tick()
            self._retry()
            if self._settings.server.is_orphaned:  # the supervisor is gone, and with it who would restart us
                self._stopping.set()

    # --- following the route ---

    def _hear(self) -> None:
        assert self._notice is not None
        self._notice.clear()
        self._look()

    def _look(self) -> None:
        route = self._follower.poll()
        if route is not None:
            self._apply(route)

    def _apply(self, route: Route) -> None:
        """Load what the route names and is not here; serve what is complete."""
        chosen = on_demand(route, above=self._settings.server.on_demand_above)
        if chosen != self._plane.on_demand:
            for name in self._plane.on_demand - chosen:
                self._applied.pop(name, None)  # kept from now on, so it has to be loaded
            self._plane.on_demand = chosen
        changed = [
            service
            for name, service in route.services.items()
            if self._applied.get(name) != service.generation
        ]
        for service in changed:
            is_first = service.service not in self._applied
            self._applied[service.service] = service.generation
            if not is_first:
                self._moved.add(service.service)
            self._forgive(service)
            if service.preparing is not None and service.service in chosen:
                self._try(service.service)
            elif self._is_kept(service):
                self._begin_loads(service)
        self._publish([service for service in changed if self._is_kept(service)])
        for gone in self._applied.keys() - route.services.keys():
            del self._applied[gone]
            self._withdraw(gone)
        self._retire(route, changed)
        if changed:
            self._event("route.followed", sequence=route.sequence)
        self._write_status()

    def _is_kept(self, service: ServiceRoute) -> bool:
        """Tell whether a service is to be loaded now."""
        name = service.service
        return name not in self._plane.on_demand or name in self._cold or service.preparing is not None

    def _begin_loads(self, service: ServiceRoute) -> None:
        for number in service.versions:
            key = (service.service, number)
            if not (self._is_loaded(key) or key in self._loading or key in self._failed):
                self._loading[key] = self._loop.create_task(self._load(service, number))

    def _retry(self) -> None:
        """Try once more what could not be loaded a while ago: what it needs may be back."""
        now_s = self._clock.monotonic_s()
        for key, failure in self._failed.items():
            service = self._follower.route.services.get(key[0])
            if service is None or key[1] not in service.versions or now_s - failure.at_s < _RETRY_S:
                continue
            # who prepares a version is told once that it failed; on demand it is tried when it is asked for
            if service.preparing is None and key[0] not in self._plane.on_demand and key not in self._loading:
                self._loading[key] = self._loop.create_task(self._load(service, key[1]))

    def _forgive(self, service: ServiceRoute) -> None:
        """Forget that a version could not be loaded, when it is asked for anew."""
        asked = service.preparing
        if asked is not None:
            failure = self._failed.get((service.service, asked.version))
            if failure is not None and failure.asked_us < asked.since_us:
                del self._failed[service.service, asked.version]

    def _publish(self, services: Iterable[ServiceRoute]) -> None:
        """Serve each service by its newest generation for which all arms are loaded."""
        changed = False
        for service in services:
            name = service.service
            versions = self._loaded.get(name, {})
            complete = all(arm.version in versions for arm in service.arms)
            known = self._plane.endpoints.get(name)
            if known and (not complete or service.generation == self._generations.get(name)):
                continue
            if not complete and name in self._plane.on_demand:
                continue  # whoever asks for it waits until it is
            if known:
                self._forget(known)
            self._plane.endpoints[name] = endpoint = Endpoint(service, versions, secret=self._secret)
            if known:
                self._plane.reroute(endpoint)
            self._generations[name] = service.generation if complete else 0
            self._offer(name, service_resources(self._plane, name, metrics=self._home.metrics))
            changed = True
        if changed:
            self._site.publish(self._resources)

    def _offer(self, name: str, resources: dict[bytes, Mapping[bytes, Handler]]) -> None:
        for path in self._paths.pop(name, ()):
            del self._resources[path]
        if resources:
            self._paths[name] = tuple(resources)
            self._resources.update(resources)

    def _withdraw(self, name: str) -> None:
        """Serve a service no more."""
        self._cold.drop(name)
        known = self._plane.endpoints.pop(name, None)
        self._generations.pop(name, None)
        if known is not None:
            self._forget(known)
            self._offer(name, {})
            self._site.publish(self._resources)

    def _forget(self, endpoint: Endpoint) -> None:
        """Let go of an old generation, and by it of its versions, once its last answers have left."""
        self._loop.call_later(RETIRE_S, self._plane.forget, endpoint.every_arm)

    def _is_loaded(self, key: tuple[str, int]) -> bool:
        return key[1] in self._loaded.get(key[0], ())

    async def _load(self, service: ServiceRoute, number: int) -> None:
        key = (service.service, number)
        asked = service.preparing
        is_new = asked is not None and asked.version == number
        since_us = asked.since_us if asked is not None and is_new else 0
        why = ""
        try:
            stage = await self._stage(service, number, since_us)
            if stage.error:
                why = stage.error
            else:
                version = await self._loader.load(number, service.manifests[number], stage, is_new=is_new)
                version.is_on_demand = service.service in self._plane.on_demand
                self._loaded.setdefault(service.service, {})[number] = version
                self._failed.pop(key, None)
        except (TidegateError, OSError) as error:
            why = str(error)
        except Exception as error:  # noqa: BLE001 - a version that cannot load must not stop the others
            _log.exception("version.load_failed")
            why = f"{type(error).__name__} while loading; the worker's log has the details."
        finally:
            del self._loading[key]
        if why:
            before = self._failed.get(key)
            self._failed[key] = Failure(why, since_us, self._clock.monotonic_s())
            if before is not None and before.why == why:
                return  # tried once more, and all is as it was
            _log.error("version.load_failed service=%s version=%d: %s", *key, why)
        # a new endpoint even for the same generation: it now has one more version
        self._generations.pop(service.service, None)
        present = self._follower.route.services.get(service.service)
        if present is not None:
            self._publish([present])
        if service.service not in self._plane.on_demand or is_new or why:
            self._write_status()

    async def _stage(self, service: ServiceRoute, number: int, since_us: int) -> Stage:
        """Wait until a version has been tried on this machine, since it was asked for if it failed."""
        digest = service.manifests[number]
        is_on_demand = service.service in self._plane.on_demand
        while True:
            stage = read_stage(self._home, digest)
            if stage is not None and not (stage.error and (is_on_demand or stage.tried_us < since_us)):
                break
            if is_on_demand:
                await try_in_nursery(nursery_socket(self._settings.sockets), digest)
                stage = read_stage(self._home, digest) or Stage(error="Its trial left nothing.")
                break
            await asyncio.sleep(0.01)
        if is_on_demand and stage.runner and not stage.error:
            wanted_path(self._settings.sockets, digest, self._settings.slot).touch()
        return stage

    def _retire(self, route: Route, changed: Iterable[ServiceRoute]) -> None:
        """Close, after a while, what neither the route nor an endpoint in force names any more."""
        names = {service.service for service in changed} | (self._loaded.keys() - route.services.keys())
        for name in names:
            service, end = route.services.get(name), self._plane.endpoints.get(name)
            named = set(service.versions) if service is not None else set()
            named |= {arm.version.number for arm in end.arms} if end is not None else set()
            loaded = self._loaded.get(name, {})
            for number in loaded.keys() - named:
                self._loop.call_later(RETIRE_S, loaded.pop(number).close)
            if not loaded:
                self._loaded.pop(name, None)
            for key in [key for key in self._failed if key[0] == name and key[1] not in named]:
                del self._failed[key]  # put on standby once more, it is tried once more

    # --- services that are loaded on demand ---

    def _try(self, name: str) -> None:
        """Load a service because a version of it is to be shown ready."""
        if name in self._cold:
            self._begin_loads(self._follower.route.services[name])
            return
        task = self._loop.create_task(self._cold.demand(name))
        self._trying.add(task)
        task.add_done_callback(self._tried)

    def _tried(self, task: asyncio.Task[None]) -> None:
        self._trying.discard(task)
        if not task.cancelled():
            task.exception()  # the status says why a version could not be loaded

    def _find_on_demand(self, method: bytes, path: bytes) -> Handler | None:
        """Return who answers a request for a service that is not loaded."""
        parts = path.split(b"/")
        is_protocol = parts[1:3] == [b"v2", b"models"]
        if not is_protocol and parts[1:2] != [b"services"]:
            return None
        name = b"".join(parts[3:4] if is_protocol else parts[2:3]).decode("ascii", errors="replace")
        if name not in self._plane.on_demand or name in self._plane.endpoints:
            return None
        handler = self._handlers.get((name, is_protocol))
        if handler is None:
            if len(self._handlers) > _MAX_HANDLERS:
                self._handlers.clear()
            handler = self._handlers[name, is_protocol] = ColdHandler(
                name,
                load=self._cold.demand,
                find=self._site.find,
                limits=self._limits,
                waiting=self._waiting,
                is_protocol=is_protocol,
                loop=self._loop,
            )
        return handler

    def _limits(self, name: str) -> Limits:
        """Return the widest bounds of a service's versions, of one that is not loaded too."""
        service = self._follower.route.services.get(name)
        manifests = [service.manifests[number] for number in service.versions] if service is not None else []
        each = [self._loader.limits(digest) for digest in manifests] or [Limits()]
        return Limits(
            max_body_bytes=max(limits.max_body_bytes for limits in each),
            deadline_ms=max(limits.deadline_ms for limits in each),
        )

    async def _load_service(self, name: str) -> None:
        """Load a service that somebody asks for, and serve it.

        Raises:
            TidegateError: It cannot be loaded now.
        """
        service = self._follower.route.services.get(name)
        if service is None:
            raise UnknownService(f"There is no service {name!r} here.", service=name)
        now_s = self._clock.monotonic_s()
        for number in service.versions:  # not for every request: a version that is broken stays so a while
            failure = self._failed.get((name, number))
            if failure is not None and now_s - failure.at_s > _RETRY_S:
                del self._failed[name, number]
        self._begin_loads(service)
        loads = [task for key, task in self._loading.items() if key[0] == name]
        if loads:
            await asyncio.wait(loads)
        if name not in self._plane.endpoints:
            reasons = [failure.why for key, failure in self._failed.items() if key[0] == name]
            raise NotReady(
                f"Service {name!r} cannot be loaded. {' '.join(reasons)}".rstrip(),
                hint="`tidegate status` shows what it waits for.",
                service=name,
                retry_after_s=_RETRY_S,
            )

    def _close_service(self, name: str) -> None:
        """Let go of a service's models; the next request for it loads them again."""
        endpoint = self._plane.endpoints.pop(name, None)
        self._generations.pop(name, None)
        if endpoint is not None:
            self._plane.forget(endpoint.every_arm)
            self._offer(name, {})
            self._site.publish(self._resources)
        service = self._follower.route.services.get(name)
        for number, version in self._loaded.pop(name, {}).items():
            version.close()
            if service is not None and number in service.manifests:
                digest = service.manifests[number]
                wanted_path(self._settings.sockets, digest, self._settings.slot).unlink(missing_ok=True)

    def _is_busy(self, name: str) -> bool:
        service = self._follower.route.services.get(name)
        if service is not None and service.preparing is not None:
            return True
        return any(version.executor.waiting_rows for version in self._loaded.get(name, {}).values())

    def _every_version(self) -> list[LoadedVersion]:
        return [version for versions in self._loaded.values() for version in versions.values()]

    def _asked(self, name: str) -> Callable[[], int]:
        versions = tuple(self._loaded.get(name, {}).values())
        return lambda: sum(version.n_asked for version in versions)

    # --- what it says of itself ---

    def _write_status(self) -> None:
        """Write the status, beside the loop: the disk may stand."""
        self._status_due = True
        if self._status_writing is None:
            self._status_writing = self._loop.create_task(self._write_statuses())

    async def _write_statuses(self) -> None:
        while self._status_due:
            self._status_due = False
            try:
                await self._loop.run_in_executor(None, self._status_file.write, self._status())
            except OSError as error:  # a full disk must not stop serving; whoever waits for us says so
                _log.error("status.write_failed: %s", error)
        self._status_writing = None

    def _status(self) -> WorkerStatus:
        route, hidden = self._follower.route, self._plane.on_demand
        told = set(route.services) - hidden
        told |= (self._moved | {name for name, _ in self._failed}) & hidden
        services = {
            name: ServiceStatus(
                generation=self._generations.get(name, self._applied.get(name, 0) if name in hidden else 0),
                ready=tuple(sorted(self._loaded.get(name, ()))),
                failed={key[1]: failure.why for key, failure in self._failed.items() if key[0] == name},
            )
            for name in told
        }
        return WorkerStatus(
            slot=self._settings.slot,
            pid=os.getpid(),
            started=process_start(os.getpid()) or "",
            incarnation=self._settings.incarnation,
            sequence=route.sequence,
            services=services,
            draining=self._site.draining or self._server is None,
            updated_us=self._clock.wall_us(),
        )

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
    learn_structs()  # before threads read manifests and artifacts
    gc.freeze()  # what is imported stays; collections need not look at it
    gc.set_threshold(50_000, 20, 20)  # requests leave no cycles behind, so there is little to collect
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:

        async def serve() -> None:
            await Worker(settings, asyncio.get_running_loop()).run()

        runner.run(serve())


if __name__ == "__main__":
    main()
