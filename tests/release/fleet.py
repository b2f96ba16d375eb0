"""Workers in memory that follow a route as the real ones do, one look at a time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.route.simulation import Disk, SimulatedFiles
from tidegate.core.digest import Digest, digest_bytes
from tidegate.core.principal import Principal
from tidegate.release.readiness import Cell
from tidegate.route.follower import RouteFollower
from tidegate.route.route import ServiceRoute
from tidegate.route.status import ServiceStatus, WorkerStatus
from tidegate.route.store import RouteStore

ANA = Principal("ana@laptop")
BEN = Principal("ben@laptop")
SERVICE = "flights"


def manifest(version: int) -> Digest:
    return digest_bytes(b"manifest %d" % version)


class SteppedClock:
    """A clock that moves only when someone sleeps."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def monotonic_s(self) -> float:
        return self.now_s

    def wall_us(self) -> int:
        return round(self.now_s * 1e6)


class FakeWorker:
    """Follows the route, loads what it lists, and never answers by a version it has not ready.

    Attributes:
        load_s: Version -> seconds it takes to load; 0 where not said.
        broken: Version -> why it cannot load.
        stopped: True for one that does nothing any more.
        served: Versions it has ever given traffic to, in order.
    """

    def __init__(self, slot: int, store: RouteStore, clock: SteppedClock) -> None:
        self.slot = slot
        self.load_s: dict[int, float] = {}
        self.broken: dict[int, str] = {}
        self.stopped = False
        self.served: list[int] = []
        self._clock = clock
        self._follower = RouteFollower(store, clock=clock)
        self._loading: dict[int, float] = {}
        self._ready: set[int] = set()
        self._failed: dict[int, str] = {}
        self._generation = 0

    def turn(self) -> None:
        if self.stopped:
            return
        self._follower.poll()
        service = self._follower.route.services.get(SERVICE)
        if service is not None:
            self._load(service)
            self._serve(service)

    def _load(self, service: ServiceRoute) -> None:
        listed = set(service.versions)
        self._ready &= listed
        self._failed = {version: why for version, why in self._failed.items() if version in listed}
        self._loading = {version: due for version, due in self._loading.items() if version in listed}
        for version in listed - self._ready - self._failed.keys() - self._loading.keys():
            self._loading[version] = self._clock.now_s + self.load_s.get(version, 0)
        for version, due in list(self._loading.items()):
            if due <= self._clock.now_s:
                del self._loading[version]
                if version in self.broken:
                    self._failed[version] = self.broken[version]
                else:
                    self._ready.add(version)

    def _serve(self, service: ServiceRoute) -> None:
        needed = {arm.version for arm in service.arms if arm.parts}
        if needed <= self._ready:
            self._generation = service.generation
            for version in needed:
                if self.served[-1:] != [version]:
                    self.served.append(version)

    @property
    def status(self) -> WorkerStatus:
        services = {SERVICE: ServiceStatus(self._generation, tuple(sorted(self._ready)), dict(self._failed))}
        return WorkerStatus(
            self.slot,
            pid=100 + self.slot,
            started="1",
            sequence=self._follower.route.sequence,
            services=services,
        )


class Fleet:
    """A cell of fake workers; sleeping lets time pass for them, and for whatever else was planned."""

    def __init__(self, n_workers: int = 2) -> None:
        self.clock = SteppedClock()
        self.disk = Disk()
        self.store = RouteStore(Path("/home/route"), files=SimulatedFiles(self.disk), clock=self.clock)
        self.workers = [FakeWorker(slot, self.store, self.clock) for slot in range(n_workers)]
        self.cell = Cell(self.store, self, clock=self.clock, sleep=self.sleep)
        self.plans: list[tuple[float, Callable[[], None]]] = []

    def live(self) -> list[WorkerStatus]:
        return [worker.status for worker in self.workers]

    def sleep(self, seconds: float) -> None:
        self.clock.now_s += seconds
        due = [plan for plan in self.plans if plan[0] <= self.clock.now_s]
        self.plans = [plan for plan in self.plans if plan not in due]
        for _, act in due:
            act()
        self.turn()

    def after(self, seconds: float, act: Callable[[], None]) -> None:
        """Plan something for the moment when someone has slept that long."""
        self.plans.append((self.clock.now_s + seconds, act))

    def turn(self) -> None:
        for worker in self.workers:
            worker.turn()

    @property
    def route(self) -> ServiceRoute:
        return self.store.read().services[SERVICE]
