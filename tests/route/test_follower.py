"""Following the route: cheap, never blocking, and never back."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from tests.route.simulation import Disk, SimulatedFiles
from tidegate.route.follower import RouteFollower
from tidegate.route.route import Route, ServiceRoute
from tidegate.route.store import RouteStore

FOLDER = Path("/home/route/local")


class SteppedClock:
    """A clock that moves when told to."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def monotonic_s(self) -> float:
        return self.now_s

    def wall_us(self) -> int:
        return round(self.now_s * 1e6)


class CountingFiles(SimulatedFiles):
    """Counts operations by name."""

    def __init__(self, disk: Disk) -> None:
        super().__init__(disk)
        self.counts: dict[str, int] = {}

    def __getattribute__(self, name):
        if name in {"names", "read", "exists"}:
            counts = object.__getattribute__(self, "counts")
            counts[name] = counts.get(name, 0) + 1
        return object.__getattribute__(self, name)


class Scene:
    def __init__(self, keep: int = 64) -> None:
        self.disk = Disk()
        self.clock = SteppedClock()
        self.store = RouteStore(FOLDER, files=SimulatedFiles(self.disk), clock=self.clock, keep=keep)
        self.files = CountingFiles(self.disk)
        reading = RouteStore(FOLDER, files=self.files, keep=keep)
        self.follower = RouteFollower(reading, clock=self.clock, listing_interval_s=1.0)

    def change(self, times: int = 1) -> Route:
        route = self.store.read()
        for _ in range(times):
            route = self.store.change("flights", self._next)
        return route

    @staticmethod
    def _next(old: ServiceRoute | None) -> ServiceRoute:
        old = old or ServiceRoute("flights")
        return msgspec.structs.replace(old, history=(*old.history, 1))

    def spoil(self, sequence: int) -> None:
        self.disk.names[self.store.path(sequence)] = [b"torn"]


def test_poll_returns_each_new_route_once():
    scene = Scene()
    assert scene.follower.poll() is None

    first = scene.change()

    assert scene.follower.poll() == first
    assert scene.follower.poll() is None
    assert scene.follower.route == first


def test_poll_goes_straight_to_the_newest():
    scene = Scene()
    scene.change()
    scene.follower.poll()

    newest = scene.change(times=5)

    assert scene.follower.poll() == newest
    assert scene.follower.poll() is None


def test_poll_without_a_change_looks_for_one_file_and_lists_once_a_second():
    scene = Scene()
    scene.change()
    scene.follower.poll()
    scene.files.counts.clear()

    for _ in range(100):
        scene.clock.now_s += 0.02
        scene.follower.poll()

    assert scene.files.counts["exists"] == 100
    assert scene.files.counts["names"] == pytest.approx(2, abs=1)
    assert "read" not in scene.files.counts


def test_poll_after_so_long_a_sleep_that_the_next_file_is_gone_finds_the_newest_by_listing():
    scene = Scene(keep=2)
    scene.change()
    scene.follower.poll()
    newest = scene.change(times=9)

    scene.clock.now_s += 1.0

    assert scene.follower.poll() == newest


def test_poll_keeps_the_last_good_route_on_damage_and_says_so():
    scene = Scene()
    good = scene.change()
    scene.follower.poll()
    scene.change()
    scene.spoil(2)

    assert scene.follower.poll() is None

    assert scene.follower.route == good
    assert [Path(damage.path).name for damage in scene.follower.damage] == ["route.000000000002.json"]


def test_poll_reads_a_damaged_file_once_a_second_not_at_every_poll():
    scene = Scene()
    scene.change(times=2)
    scene.spoil(2)
    scene.follower.poll()
    scene.files.counts.clear()

    for _ in range(100):
        scene.clock.now_s += 0.02
        scene.follower.poll()

    assert scene.files.counts["read"] <= 2 * 3


def test_poll_goes_on_when_the_route_is_repaired():
    scene = Scene()
    scene.change(times=2)
    scene.spoil(2)
    scene.follower.poll()

    repaired = scene.change()

    assert scene.follower.poll() == repaired
    assert scene.follower.damage == ()


def test_poll_takes_a_file_whose_fault_was_passing():
    scene = Scene()
    scene.change(times=2)
    whole = scene.disk.names[scene.store.path(2)]
    scene.spoil(2)
    scene.follower.poll()
    scene.disk.names[scene.store.path(2)] = whole

    scene.clock.now_s += 1.0
    route = scene.follower.poll()

    assert route is not None
    assert route.sequence == 2


def test_poll_never_goes_back():
    scene = Scene()
    newest = scene.change(times=3)
    scene.follower.poll()
    scene.spoil(3)

    scene.clock.now_s += 5.0

    assert scene.follower.poll() is None
    assert scene.follower.route == newest


def test_poll_survives_a_disk_that_fails():
    scene = Scene()
    good = scene.change()
    scene.follower.poll()

    def fail(*_):
        raise OSError(5, "the disk says no")

    scene.files.exists = fail

    assert scene.follower.poll() is None
    assert scene.follower.route == good
    assert "the disk says no" in scene.follower.damage[0].reason
