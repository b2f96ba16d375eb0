"""Route files: nothing newer is ever undone, whoever stops or dies where."""

from __future__ import annotations

import errno
from collections import Counter
from pathlib import Path
from random import Random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.route.simulation import Disk, SimulatedFiles, interleave
from tidegate.core.digest import digest_bytes
from tidegate.core.error import Conflict, Corrupt, InvalidSetting
from tidegate.route.file import LocalFiles
from tidegate.route.route import PARTS, STABLE, Arm, Route, ServiceRoute
from tidegate.route.store import Fenced, RouteStorageError, RouteStore, seal, unseal

FOLDER = Path("/home/route/local")
DIGEST = digest_bytes(b"manifest")


def append(number: int):
    """Return a change that adds `number` to the service's history, where each change leaves its mark."""

    def change(old: ServiceRoute | None, service: str = "flights") -> ServiceRoute:
        old = old or ServiceRoute(service)
        return msgspec.structs.replace(old, history=(*old.history, number))

    return change


def append_to(service: str, number: int):
    return lambda old: append(number)(old, service)


def store_on(tmp_path: Path, **options) -> RouteStore:
    folder = tmp_path / "route"
    folder.mkdir(exist_ok=True)
    return RouteStore(folder, **options)


def test_change_gives_the_next_sequence_and_generation(tmp_path):
    store = store_on(tmp_path)
    store.change("flights", append(1))
    store.change("houses", append_to("houses", 2))

    route = store.change("flights", append(3))

    assert route == store.read()
    assert (route.sequence, route.services["flights"].generation) == (3, 2)
    assert route.services["houses"].generation == 1
    assert route.services["flights"].history == (1, 3)


def test_read_of_an_empty_folder_gives_the_empty_route(tmp_path):
    assert RouteStore(tmp_path / "nowhere").read() == Route("local")


def test_change_that_changes_nothing_writes_nothing(tmp_path):
    store = store_on(tmp_path)
    before = store.change("flights", append(1))

    after = store.change("flights", lambda old: old)

    assert after == before
    assert store.highest() == 1


def test_change_with_another_generation_is_a_conflict(tmp_path):
    store = store_on(tmp_path)
    store.change("flights", append(1), expected_generation=0)
    store.change("flights", append(2), expected_generation=1)

    with pytest.raises(Conflict, match="expected generation 1, found 2") as caught:
        store.change("flights", append(3), expected_generation=1)

    assert caught.value.context["found"] == 2
    assert store.read().services["flights"].history == (1, 2)


def test_change_is_retried_while_only_another_service_changes(tmp_path):
    store, other = store_on(tmp_path), store_on(tmp_path)
    calls = []

    def interrupted(old):
        calls.append(old)
        if len(calls) <= 3:
            other.change("houses", append_to("houses", len(calls)))
        return append(1)(old)

    store.change("flights", interrupted)

    assert store.read().services["houses"].history == (1, 2, 3)
    assert store.read().services["flights"].history == (1,)


def test_change_without_expectation_never_lands_on_a_change_it_has_not_seen(tmp_path):
    store, other = store_on(tmp_path), store_on(tmp_path)

    def interrupted(old):
        if not other.read().sequence:
            other.change("flights", append(2))
        return append(1)(old)

    with pytest.raises(Conflict):
        store.change("flights", interrupted)

    assert store.read().services["flights"].history == (2,)


def test_lower_token_than_recorded_is_refused(tmp_path):
    store = store_on(tmp_path)
    store.change("flights", append(1), token=7)

    with pytest.raises(Fenced, match="token 7; this writer holds 6"):
        store.change("flights", append(2), token=6)

    assert store.change("flights", append(3), token=None).token == 7
    assert store.change("flights", append(4), token=8).token == 8


def test_fence_refuses_every_earlier_holder_at_once(tmp_path):
    store = store_on(tmp_path)
    store.change("flights", append(1), token=1)

    route = store.fence(2)

    assert (route.token, store.fence(2).sequence) == (2, 2) or store.read().token == 2
    with pytest.raises(Fenced):
        store.change("flights", append(2), token=1)
    with pytest.raises(Fenced):
        store.fence(1)


def test_route_that_nobody_can_follow_is_not_written(tmp_path):
    store = store_on(tmp_path)
    gap = ServiceRoute("flights", arms=(Arm(STABLE, 1, ((0, PARTS - 1),)),), manifests={1: DIGEST})

    with pytest.raises(InvalidSetting, match="without an arm"):
        store.change("flights", lambda _old: gap)
    with pytest.raises(InvalidSetting, match="gave a route of"):
        store.change("houses", append(1))

    assert store.read().sequence == 0


def test_old_files_are_removed_and_drafts_with_them(tmp_path):
    store = store_on(tmp_path)
    (store.folder / "draft.000000000002.1.aa").touch()
    (store.folder / "draft.000000000400.1.aa").touch()

    for number in range(100):
        store.change("flights", append(number))

    names = sorted(path.name for path in store.folder.iterdir())
    assert names[0] == "draft.000000000400.1.aa"
    assert names[1:] == ["reserve", *(f"route.{number:012d}.json" for number in range(37, 101))]


class SmallDisk(LocalFiles):
    """Has room for so many bytes."""

    def __init__(self, folder: Path, n_bytes: int) -> None:
        self.folder = folder
        self.n_bytes = n_bytes

    def write(self, path: Path, data: bytes, *, durable: bool) -> None:
        if sum(each.stat().st_size for each in self.folder.iterdir()) + len(data) > self.n_bytes:
            path.touch()  # as a full disk leaves it
            raise OSError(errno.ENOSPC, "No space left on device")
        super().write(path, data, durable=durable)


def test_traffic_can_be_moved_on_a_full_disk(tmp_path):
    files = SmallDisk(tmp_path / "route", 1 << 20)
    store = store_on(tmp_path, files=files)
    store.change("flights", append(1))
    (store.folder / "junk").write_bytes(bytes(files.n_bytes - 66_000))  # somebody else's, to the last byte

    for number in range(2, 12):
        store.change("flights", append(number))
    (store.folder / "junk").write_bytes(bytes(files.n_bytes))
    with pytest.raises(RouteStorageError, match="No space left") as caught:
        store.change("flights", append(12))

    assert store.read().services["flights"].history == tuple(range(1, 12))
    assert "make room" in (caught.value.hint or "")
    (store.folder / "junk").unlink()
    store.change("flights", append(12))
    assert (store.folder / "reserve").exists(), "it is held again"


# Damage


def deployed(tmp_path: Path, n_changes: int) -> RouteStore:
    store = store_on(tmp_path)
    for number in range(1, n_changes + 1):
        service = "flights" if number % 2 else "houses"
        store.change(service, append_to(service, number))
    return store


@given(data=st.data())
@settings(max_examples=200)
def test_any_flip_or_cut_of_a_file_is_noticed(data):
    whole = seal(Route("local", 3, services={"flights": append(1)(None)}))
    damaged = bytearray(whole)
    if data.draw(st.booleans()):
        position = data.draw(st.integers(0, len(whole) - 2))  # the last byte is the line feed
        damaged[position] ^= 1 << data.draw(st.integers(0, 7))
    else:
        del damaged[data.draw(st.integers(0, len(whole) - 2)) :]

    with pytest.raises(Corrupt):
        unseal(bytes(damaged))


def test_seal_and_unseal_round_trip():
    route = Route("local", 3, token=2, services={"flights": append(1)(None)}, written_us=5)

    assert unseal(seal(route)) == route


def test_file_of_a_newer_release_is_not_followed():
    with pytest.raises(Corrupt, match="format 2"):
        unseal(seal(Route("local", 3, format=2)))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-9]), "not a route file"),
        (lambda path: path.write_bytes(path.read_bytes().replace(b'"token":0', b'"token":1')), "checksum"),
        (lambda path: path.write_bytes(seal(Route("local", 3))), "holds route 3"),
        (lambda path: path.write_bytes(seal(Route("elsewhere", 4))), "cell 'elsewhere'"),
        (lambda path: path.write_bytes(b""), "not a route file"),
    ],
)
def test_damaged_newest_file_is_passed_over_and_reported(tmp_path, spoil, words):
    store = deployed(tmp_path, 4)
    spoil(store.path(4))

    reading = store.inspect()

    assert reading.route is not None
    assert (reading.route.sequence, reading.highest) == (3, 4)
    assert [Path(damage.path) for damage in reading.damage] == [store.path(4)]
    assert words in reading.damage[0].reason


def test_change_after_damage_takes_a_new_number_and_generations_nobody_has_seen(tmp_path):
    store = deployed(tmp_path, 4)
    followed = store.read().services
    store.path(4).write_bytes(b"torn")

    route = store.change("flights", append(5))

    assert route.sequence == 5
    assert store.inspect().damage == ()
    # Workers may follow route 4, which they read while it was whole.
    assert all(route.services[name].generation > followed[name].generation for name in followed)


def test_change_expecting_what_the_damaged_file_said_is_a_conflict(tmp_path):
    store = deployed(tmp_path, 4)
    generation = store.read().services["houses"].generation
    store.path(4).write_bytes(b"torn")

    with pytest.raises(Conflict):
        store.change("houses", append_to("houses", 9), expected_generation=generation)


def test_folder_with_nothing_intact_is_refused_and_left_as_it_is(tmp_path):
    store = deployed(tmp_path, 1)
    store.path(1).write_bytes(b"torn")

    with pytest.raises(Corrupt, match="No route file"):
        store.read()
    with pytest.raises(Corrupt):
        store.change("flights", append(2))

    assert store.inspect().route is None
    assert store.highest() == 1


# Failing disks


class FailingFiles(LocalFiles):
    """Fails one kind of operation with one error."""

    def __init__(self, operation: str, error: int) -> None:
        self._operation, self._error = operation, error

    def __getattribute__(self, name):
        if name == object.__getattribute__(self, "_operation"):
            code = object.__getattribute__(self, "_error")

            def fail(*args, **options):
                raise OSError(code, "the disk says no")

            return fail
        return object.__getattribute__(self, name)


@pytest.mark.parametrize("operation", ["write", "link"])
def test_failing_disk_is_reported_in_words_and_nothing_changes(tmp_path, operation):
    before = deployed(tmp_path, 2).read()
    store = store_on(tmp_path, files=FailingFiles(operation, errno.ENOSPC))

    with pytest.raises(RouteStorageError, match="cannot be written: the disk says no"):
        store.change("flights", append(9))

    assert store_on(tmp_path).read() == before
    assert not list(store.folder.glob("draft*"))


def test_failed_sync_of_the_folder_is_never_taken_for_success(tmp_path):
    store = store_on(tmp_path, files=FailingFiles("sync_folder", errno.EIO))

    with pytest.raises(RouteStorageError):
        store.change("flights", append(1))


def test_file_that_cannot_be_read_counts_as_damaged(tmp_path):
    deployed(tmp_path, 2)

    reading = store_on(tmp_path, files=FailingFiles("read", errno.EIO)).inspect()

    assert reading.route is None
    assert len(reading.damage) == 2


def test_failed_pruning_does_not_fail_the_change(tmp_path):
    store = store_on(tmp_path, files=FailingFiles("remove", errno.EACCES), keep=2)

    for number in range(5):
        store.change("flights", append(number))

    assert store.read().services["flights"].history == (0, 1, 2, 3, 4)


# Simulation


class World:
    """Writers over one simulated disk, what they were told, and what must hold at every step."""

    def __init__(self, keep: int) -> None:
        self.disk = Disk()
        self.keep = keep
        self.acknowledged: list[int] = []
        self.refused: list[int] = []
        self.in_force: dict[int, Route] = {}
        self.last = Route("local")
        self.generations: Counter[str] = Counter()

    def store(self, files: SimulatedFiles | None = None) -> RouteStore:
        return RouteStore(FOLDER, files=files or SimulatedFiles(self.disk), keep=self.keep)

    def writer(self, number: int, services: list[str]):
        def program(files: SimulatedFiles) -> None:
            store = self.store(files)
            for position, service in enumerate(services):
                mark = number * 100 + position
                try:
                    route = store.change(service, append_to(service, mark))
                except Conflict:
                    self.refused.append(mark)
                else:
                    assert route.services[service].history[-1] == mark
                    self.acknowledged.append(mark)

        return program

    def check(self) -> None:
        reading = self.store().inspect()
        route = reading.route
        assert route is not None
        assert not reading.damage
        assert reading.highest == route.sequence >= self.last.sequence
        assert self.in_force.setdefault(route.sequence, route) == route
        if route.sequence != self.last.sequence:
            assert route.sequence == self.last.sequence + 1
            changed = [name for name, each in route.services.items() if self.last.services.get(name) != each]
            assert len(changed) == 1
            before, after = self.last.services.get(changed[0]), route.services[changed[0]]
            assert after.generation == (before.generation if before else 0) + 1
            assert after.history[:-1] == (before.history if before else ())
        self.last = route

    def marks(self) -> Counter[int]:
        return Counter(mark for each in self.store().read().services.values() for mark in each.history)


writers = st.lists(
    st.lists(st.sampled_from(["flights", "houses", "loans"]), min_size=1, max_size=5), min_size=2, max_size=4
)
schedules = st.lists(
    st.tuples(
        st.integers(0, 3),
        # Short turns interleave, long ones let others publish and prune while one sleeps; 0 kills.
        st.one_of(st.integers(1, 12), st.integers(1, 80), st.just(0)),
    ),
    max_size=40,
)


@pytest.mark.parametrize("keep", [1, 2, 64])
@given(programs=writers, schedule=schedules)
@settings(max_examples=60, deadline=None)
def test_no_schedule_of_stops_and_deaths_loses_or_undoes_a_change(keep, programs, schedule):
    world = World(keep)

    interleave(
        [world.writer(number, services) for number, services in enumerate(programs)],
        world.disk,
        schedule,
        check=world.check,
    )

    marks = world.marks()
    assert set(world.acknowledged) <= marks.keys()
    assert set(marks.values()) <= {1}
    if keep == 64:  # below that, a writer that slept too long is told that others came first
        assert not set(world.refused) & marks.keys()


@given(programs=writers, schedule=schedules, seed=st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_loss_of_power_at_any_moment_keeps_every_acknowledged_change(programs, schedule, seed):
    world = World(keep=3)
    interleave(
        [world.writer(number, services) for number, services in enumerate(programs)],
        world.disk,
        schedule,
        check=world.check,
        finish=False,
    )

    world.disk.lose_power(Random(seed))

    assert set(world.acknowledged) <= world.marks().keys()
    assert world.store().inspect().damage == ()


class Sleeper(SimulatedFiles):
    """Sleeps once, right before or right after its link, while `meanwhile` happens."""

    def __init__(self, disk: Disk, *, before: bool, meanwhile) -> None:
        super().__init__(disk)
        self._before, self._meanwhile = before, meanwhile

    def _sleep(self) -> None:
        meanwhile, self._meanwhile = self._meanwhile, lambda: None
        meanwhile()

    def link(self, source, target):
        if self._before:
            self._sleep()
        super().link(source, target)
        self._sleep()


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("n_others", [1, 2, 5])
def test_sleep_around_the_link_while_others_publish_applies_a_change_exactly_once(before, n_others):
    world = World(keep=2)
    others = world.writer(2, ["houses"] * n_others)
    sleeper = Sleeper(world.disk, before=before, meanwhile=lambda: others(SimulatedFiles(world.disk)))

    world.writer(1, ["flights"])(sleeper)

    assert 100 in world.acknowledged
    assert set(world.marks().values()) == {1}
    assert world.store().read().sequence == n_others + 1


@pytest.mark.parametrize("n_others", [1, 2, 5])
def test_sleep_before_the_link_while_the_same_service_moves_on_is_a_conflict(n_others):
    world = World(keep=2)
    others = world.writer(2, ["flights"] * n_others)
    sleeper = Sleeper(world.disk, before=True, meanwhile=lambda: others(SimulatedFiles(world.disk)))

    world.writer(1, ["flights"])(sleeper)

    assert world.refused == [100]
    assert 100 not in world.marks()
    assert world.store().read().sequence == n_others


def test_stale_file_below_the_window_is_never_followed_even_if_all_above_is_damaged():
    world = World(keep=2)
    world.writer(1, ["flights"] * 6)(SimulatedFiles(world.disk))
    stale = seal(Route("local", 3, services={"flights": append(666)(None)}))
    world.disk.names[world.store().path(3)] = [stale]
    for number in (5, 6):
        world.disk.names[world.store().path(number)] = [b"torn"]

    assert world.store().inspect().route is None
