"""What a server on this machine is doing, read from the files it keeps in its home."""

from __future__ import annotations

from contextlib import suppress

import msgspec

from tidegate.bootstrap.condition import Condition, read_conditions
from tidegate.bootstrap.local import Local
from tidegate.bootstrap.placement import on_demand
from tidegate.bootstrap.supervisor import read_record
from tidegate.core.error import NotFound, TidegateError
from tidegate.route.route import ServiceRoute
from tidegate.route.status import WorkerStatus


class ServerView(msgspec.Struct, frozen=True):
    """A running server: process id of its supervisor, addresses of its ports."""

    pid: int
    data: str
    control: str


class ArmView(msgspec.Struct, frozen=True):
    """A version and its share of the keys, in [0, 1]."""

    name: str
    version: int
    share: float


class ServiceView(msgspec.Struct, frozen=True):
    """Who answers the requests of a service.

    Attributes:
        service: Name of the service.
        generation: Of its route.
        arms: Versions with traffic.
        standby: Versions kept ready.
        latched: Versions that were rolled back.
        fallback: Names of the fallback chain.
        safe_mode: Every request goes to the fallback.
        n_following: Workers that serve this generation.
    """

    service: str
    generation: int
    arms: list[ArmView]
    standby: list[int]
    latched: list[int]
    fallback: list[str]
    safe_mode: bool
    n_following: int


class WorkerView(msgspec.Struct, frozen=True):
    """A living worker.

    Attributes:
        slot: Its place, from 0.
        pid: Its process id.
        sequence: Of the route that it follows.
        ready: Service -> versions it could serve at once.
        failed: Service -> version -> why it cannot be served.
    """

    slot: int
    pid: int
    sequence: int
    ready: dict[str, list[int]]
    failed: dict[str, dict[int, str]]


class Overview(msgspec.Struct, frozen=True):
    """Everything at one look.

    Attributes:
        server: None where none runs.
        sequence: Of the route in force.
        services: By name.
        workers: By slot.
        conditions: What the operator should know: processes that do not stay up, resources that run short.
    """

    server: ServerView | None
    sequence: int
    services: list[ServiceView]
    workers: list[WorkerView]
    conditions: list[Condition] = []


def _not_routed(local: Local, service: str, routed: list[str]) -> NotFound:
    there = []
    with suppress(OSError):  # of a home that has no route at all
        for name, cell in local.cells.items():
            with suppress(TidegateError):  # another cell's damage is not what was asked about
                there += [name] if service in cell.routes.read().services else []
    if there:
        return NotFound(
            f"Service {service!r} has no route in cell {local.settings.cell}. Served in: {', '.join(there)}.",
            hint=f"Name the cell: TIDEGATE_CELL={there[0]}",
            service=service,
        )
    return NotFound(
        f"Service {service!r} has no route.",
        hint=f"Routed services: {', '.join(routed) or 'none'}.",
        service=service,
    )


def overview(local: Local, *, service: str | None = None) -> Overview:
    """Return what the server of a home is doing, of one service or of all.

    Raises:
        NotFound: `service` has no route.
        Corrupt: No route file is intact.
    """
    route = local.routes.read()
    if service is not None and service not in route.services:
        raise _not_routed(local, service, sorted(route.services))
    live = local.cell.workers.live()
    hidden = on_demand(route, above=local.settings.on_demand_above)
    services = [
        _service(each, live, is_hidden=name in hidden, sequence=route.sequence)
        for name, each in sorted(route.services.items())
        if service is None or name == service
    ]
    workers = [_worker(status) for status in live]
    server = _server(local)
    conditions = read_conditions(local.home) if server is not None else []
    return Overview(server, route.sequence, services, workers, conditions)


def running_server(local: Local) -> ServerView:
    """Return the server that runs on a home.

    Raises:
        NotFound: None does.
    """
    server = _server(local)
    if server is None:
        raise NotFound(
            f"No server runs on {local.home.root}.",
            hint="Start one with `tidegate up`, or name one with --url.",
            home=str(local.home.root),
        )
    return server


def _server(local: Local) -> ServerView | None:
    record = read_record(local.home)
    if record is None:
        return None
    settings = record.settings
    return ServerView(
        record.pid,
        port_url(settings.scheme, settings.host, settings.port),
        port_url(settings.scheme, settings.control_host, settings.control_port),
    )


def port_url(scheme: str, host: str, port: int) -> str:
    """Return the address of a port, with an IPv6 host in brackets (RFC 3986, section 3.2.2)."""
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def _service(route: ServiceRoute, live: list[WorkerStatus], *, is_hidden: bool, sequence: int) -> ServiceView:
    return ServiceView(
        service=route.service,
        generation=route.generation,
        arms=[ArmView(arm.name, arm.version, arm.share) for arm in route.arms],
        standby=list(route.standby),
        latched=[latch.version for latch in route.latched],
        fallback=list(route.fallback),
        safe_mode=route.safe_mode,
        n_following=sum(
            # of a service that nobody has asked for a worker says nothing; it goes by the route it follows
            status.sequence >= sequence
            if is_hidden and route.service not in status.services
            else status.of(route.service).generation == route.generation
            for status in live
        ),
    )


def _worker(status: WorkerStatus) -> WorkerView:
    return WorkerView(
        slot=status.slot,
        pid=status.pid,
        sequence=status.sequence,
        ready={name: list(has.ready) for name, has in status.services.items()},
        failed={name: has.failed for name, has in status.services.items() if has.failed},
    )
