"""The workers' side of a release: waiting until they have a version ready, or follow a route."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import msgspec

from tidegate.core.clock import Clock, SystemClock
from tidegate.core.decision import Evidence, Verdict
from tidegate.route.file import Files
from tidegate.route.route import Route
from tidegate.route.status import WorkerStatus
from tidegate.route.store import RouteStore


class Workers(Protocol):
    """Who serves."""

    def live(self) -> list[WorkerStatus]:
        """Return the status of each living worker that takes requests."""
        ...


class Patience(msgspec.Struct, frozen=True):
    """How long a release waits for workers.

    Attributes:
        ready_s: For every worker to load, warm up and check a version, in seconds. Long, since
            nothing is at stake: the present version serves meanwhile.
        follow_s: For every worker to follow a change, in seconds. A worker polls every 20 ms; one
            that takes seconds is stuck, and waiting longer tells nothing new.
        poll_s: Between two looks at the workers, in seconds.
    """

    ready_s: float = 120.0
    follow_s: float = 5.0
    poll_s: float = 0.01


DEFAULT_PATIENCE = Patience()

READY_RULE = "workers-ready"
"""Rule of the evidence that says who has a version ready."""


@dataclass(frozen=True)
class Cell:
    """What a release works on.

    Attributes:
        routes: The cell's route.
        workers: The cell's workers.
        clock: Tells the time.
        sleep: Waits for so many seconds.
        pending: Folder where decisions wait while the database is down; None keeps none.
        files: File operations there; the local file system if None.
    """

    routes: RouteStore
    workers: Workers
    clock: Clock = field(default_factory=SystemClock)
    sleep: Callable[[float], None] = time.sleep
    pending: Path | None = None
    files: Files | None = None


@dataclass(frozen=True)
class Wait:
    """How a wait for the workers ended.

    Attributes:
        waiting: What was still missing, a phrase a worker.
        failed: Why workers cannot, a phrase a worker.
        waited_s: How long it took, in seconds.
        workers: What the workers said at the end.
    """

    waiting: tuple[str, ...]
    failed: tuple[str, ...]
    waited_s: float
    workers: tuple[dict[str, Any], ...]

    @property
    def is_good(self) -> bool:
        return not self.waiting and not self.failed

    @property
    def why(self) -> str:
        """Why it is not good, in words."""
        if self.failed:
            return "; ".join(self.failed)
        missing = "; ".join(self.waiting)
        return f"after {self.waited_s:.1f} s: {missing}" if self.waited_s else missing


def wait_ready(
    cell: Cell, service: str, *, version: int, route: Route, patience: Patience
) -> tuple[Wait, Evidence]:
    """Wait until every living worker has `version` ready, one cannot, or patience ends.

    Args:
        cell: Whose workers.
        service: Name of the service.
        version: The version.
        route: The route that lists it: what a worker said before it followed that one may be from
            an earlier attempt.
        patience: How long.

    Raises:
        Conflict: Someone else has changed the service's route meanwhile.
        TidegateError: As `RouteStore.read`.
    """
    test = partial(_test_ready, service=service, version=version, sequence=route.sequence)
    guard = partial(_check_unchanged, cell, service, route)
    wait = _wait(cell, service, test, limit_s=patience.ready_s, poll_s=patience.poll_s, guard=guard)
    verdict = Verdict.REGRESSED if wait.failed else Verdict.UNDECIDED if wait.waiting else Verdict.SAFE
    evidence = Evidence(
        rule=READY_RULE,
        verdict=verdict,
        reason=f"{len(wait.workers)} workers have version {version} ready" if wait.is_good else wait.why,
        parameters={"version": version, "limit_s": patience.ready_s},
        observed={"workers": list(wait.workers)},
        statistic=wait.waited_s,
    )
    return wait, evidence


def look_ready(cell: Cell, service: str, *, version: int, sequence: int) -> Wait:
    """Say which living workers have `version` ready, without waiting.

    Args:
        cell: Whose workers.
        service: Name of the service.
        version: The version.
        sequence: Number of the route that lists it.
    """
    statuses = cell.workers.live()
    said = [_test_ready(each, service=service, version=version, sequence=sequence) for each in statuses]
    waiting = tuple(missing for missing, _ in said if missing) if statuses else ("no worker is running",)
    failed = tuple(why for _, why in said if why)
    return Wait(waiting, failed, 0.0, tuple(_describe(each, service) for each in statuses))


class Prepared(NamedTuple):
    """What cells say of a version that a release wants to give traffic.

    Attributes:
        evidence: Safe where every worker of every cell has it ready.
        failed: Why workers cannot have it, in words; empty where none says so.
    """

    evidence: Evidence
    failed: str

    @property
    def is_good(self) -> bool:
        return self.evidence.verdict is Verdict.SAFE


def look_prepared(cells: Mapping[str, Cell], service: str, *, version: int, named: bool) -> Prepared:
    """Say what is missing until the workers of some cells have `version` ready, without waiting.

    Args:
        cells: The cells, by name.
        service: Name of the service.
        version: The version.
        named: Whether to say of which cell it is missing.

    Raises:
        TidegateError: As `RouteStore.read`.
    """
    waits = {
        name: look_ready(cell, service, version=version, sequence=cell.routes.read().sequence)
        for name, cell in cells.items()
    }
    missing, failed = [], []
    for name, wait in waits.items():
        where = f"cell {name!r}: " if named else ""
        if not wait.is_good:
            missing.append(where + wait.why)
        failed += [where + why for why in wait.failed]
    workers = [worker for wait in waits.values() for worker in wait.workers]
    evidence = Evidence(
        rule=READY_RULE,
        verdict=Verdict.UNDECIDED if missing else Verdict.SAFE,
        reason="; ".join(missing) or f"{len(workers)} workers have version {version} ready",
        observed={"workers": workers},
    )
    return Prepared(evidence, "; ".join(failed))


def wait_following(cell: Cell, route: Route, service: str, patience: Patience) -> Evidence:
    """Wait until every living worker serves what has been committed.

    It is too late to turn back, so that this only observes. The evidence's statistic is the time
    it took, in seconds.
    """
    generation = route.services[service].generation
    test = partial(_test_follows, service=service, generation=generation)
    wait = _wait(cell, service, test, limit_s=patience.follow_s, poll_s=patience.poll_s)
    return Evidence(
        rule="workers-follow",
        verdict=Verdict.SAFE if wait.is_good else Verdict.UNDECIDED,
        reason=f"{len(wait.workers)} workers serve generation {generation}" if wait.is_good else wait.why,
        parameters={"generation": generation, "limit_s": patience.follow_s},
        observed={"workers": list(wait.workers)},
        statistic=wait.waited_s,
    )


_Test = Callable[[WorkerStatus], tuple[str, str]]
"""Maps a status to (what is missing, why it failed), in words; empty where there is nothing to say."""


def _name(status: WorkerStatus) -> str:
    return f"worker {status.slot} (process {status.pid})"


def _test_ready(status: WorkerStatus, *, service: str, version: int, sequence: int) -> tuple[str, str]:
    has = status.of(service)
    if status.sequence < sequence:
        return f"{_name(status)} follows route {status.sequence}, expected {sequence}", ""
    if version in has.failed:
        return "", f"{_name(status)} cannot serve version {version}: {has.failed[version]}"
    return ("", "") if version in has.ready else (f"{_name(status)} is still loading version {version}", "")


def _test_follows(status: WorkerStatus, *, service: str, generation: int) -> tuple[str, str]:
    found = status.of(service).generation
    if found >= generation:
        return "", ""
    return f"{_name(status)} serves generation {found}, expected {generation}", ""


def _check_unchanged(cell: Cell, service: str, route: Route) -> None:
    """Pass while the service's route is as in `route`.

    Raises:
        Conflict: It is not.
    """
    if cell.routes.highest() == route.sequence:
        return
    expected = route.services[service].generation
    present = cell.routes.read().services.get(service)
    found = present.generation if present else 0
    if found != expected:
        raise cell.routes.conflict(service, expected=expected, found=found)


def _wait(
    cell: Cell,
    service: str,
    test: _Test,
    *,
    limit_s: float,
    poll_s: float,
    guard: Callable[[], None] = lambda: None,
) -> Wait:
    """Look at the living workers until `test` is content with each, one fails, or time is up.

    They are listed anew at each look: one that dies is not waited for, and one that starts is.
    """
    began_s = cell.clock.monotonic_s()
    while True:
        statuses = cell.workers.live()
        said = [test(status) for status in statuses]
        waiting = tuple(missing for missing, _ in said if missing)
        failed = tuple(why for _, why in said if why)
        waited_s = cell.clock.monotonic_s() - began_s
        if failed or not waiting or waited_s >= limit_s:
            seen = tuple(_describe(status, service) for status in statuses)
            return Wait(waiting, failed, waited_s, seen)
        cell.sleep(poll_s)
        guard()


def _describe(status: WorkerStatus, service: str) -> dict[str, Any]:
    has = status.of(service)
    return {
        "slot": status.slot,
        "pid": status.pid,
        "incarnation": status.incarnation,
        "sequence": status.sequence,
        "generation": has.generation,
        "ready": list(has.ready),
    }
