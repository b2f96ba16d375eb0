"""Moves of traffic: kept once, replayed by key, and rolled back without a database."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from tests.release.fleet import ANA, BEN, SERVICE, Fleet, manifest
from tidegate.adapter.sql.unit import SqlUnitOfWork, open_database
from tidegate.core.digest import digest_bytes
from tidegate.core.error import Conflict, NotFound, TidegateError
from tidegate.operation.audit import verify_audit
from tidegate.operation.mutation import Effect, Intent, Transaction, run
from tidegate.operation.pending import PendingMoves, reconcile
from tidegate.operation.release import Moved, deploy_first, roll_back, switch_to, unlatch
from tidegate.operation.version import list_decisions
from tidegate.registry.store import CommitUnknown, StoreUnavailable
from tidegate.registry.version import VersionDraft
from tidegate.release.move import Latched
from tidegate.route.store import RouteStorageError


class Database:
    """A metadata database that can be taken down, before it is asked or while it commits."""

    def __init__(self, unit: SqlUnitOfWork) -> None:
        self._unit = unit
        self.is_down = False
        self.loses_commits = False

    def _check(self) -> None:
        if self.is_down:
            raise StoreUnavailable("The metadata database cannot be used now.")

    @contextmanager
    def read(self) -> Iterator[Transaction]:
        self._check()
        with self._unit.read() as transaction:
            yield transaction

    @contextmanager
    def write(self) -> Iterator[Transaction]:
        self._check()
        with self._unit.write() as transaction:
            yield transaction
        if self.loses_commits:
            self.is_down = True
            raise CommitUnknown("The metadata database failed while a change was being committed.")


class Scene:
    """A fleet, a database with three versions of its service, and who moves traffic between them."""

    def __init__(self, unit: SqlUnitOfWork, folder: Path) -> None:
        self.database = Database(unit)
        self.fleet = Fleet()
        self.folder = folder
        self.cell = replace(self.fleet.cell, pending=folder)
        self.pending = PendingMoves(folder)
        for number in (1, 2, 3):
            draft = VersionDraft(
                service=SERVICE, manifest=manifest(number), contract=digest_bytes(b"contract")
            )
            run(
                self.database,
                Intent(action="version.register", principal=ANA, key=f"version {number}", request=number),
                perform=lambda transaction, draft=draft: Effect(
                    transaction.versions.add(draft, principal=ANA, at_us=0).number, draft.service
                ),
                result=int,
                clock=self.fleet.clock,
            )

    def _common(self, key: str | None) -> dict:
        return {"clock": self.fleet.clock, "key": key}

    def deploy(self, *, version: int | None = 1, key: str | None = None) -> Moved:
        moved = deploy_first(
            self.database,
            self.cell,
            SERVICE,
            fallback_of=lambda _: ("table",),
            principal=ANA,
            version=version,
            **self._common(key),
        )
        self.fleet.turn()
        return moved

    def switch(self, version: int, *, key: str | None = None) -> Moved:
        return switch_to(
            self.database,
            self.cell,
            SERVICE,
            version=version,
            fallback_of=lambda digest: (digest[-4:],),
            principal=ANA,
            **self._common(key),
        )

    def roll_back(self, *, key: str | None = None, **options) -> Moved:
        def open_unit():
            if self.database.is_down:
                raise StoreUnavailable("The metadata database cannot be used now.")
            return self.database

        return roll_back(
            open_unit, self.cell, SERVICE, principal=BEN, reason="it errs", **self._common(key), **options
        )

    def kept(self) -> list[tuple[str, str, int | None]]:
        return [
            (stored.decision.kind, stored.decision.outcome, stored.decision.version)
            for stored in list_decisions(self.database, SERVICE)
        ]

    def generation(self) -> int:
        return self.fleet.route.generation


@pytest.fixture
def scene(tmp_path):
    with closing(open_database(f"sqlite:///{tmp_path / 'metadata.db'}")) as unit:
        yield Scene(unit, tmp_path / "pending")


def test_moves_are_kept_with_their_evidence_and_audited(scene):
    scene.deploy(version=None, key="d")
    moved = scene.switch(2, key="s")
    scene.roll_back(key="r")

    assert scene.kept() == [
        ("first-deployment", "committed", 3),
        ("switch", "committed", 2),
        ("rollback", "committed", 3),
    ]
    assert [stored.decision for stored in list_decisions(scene.database, SERVICE, kind="switch")] == [
        moved.decision
    ]
    assert verify_audit(scene.database).holds
    assert (scene.fleet.route.stable, scene.fleet.route.fallback) == (3, (manifest(2)[-4:],))


def test_move_repeated_under_its_key_is_made_once(scene):
    first = scene.deploy(key="d")
    switched = scene.switch(2, key="s")
    back = scene.roll_back(key="r")
    generation = scene.generation()

    assert scene.deploy(key="d") == first
    assert scene.switch(2, key="s") == switched
    assert scene.roll_back(key="r") == back
    assert scene.generation() == generation
    assert len(scene.kept()) == 3


@pytest.mark.parametrize("is_down", [False, True])
def test_rollback_repeated_under_its_key_goes_back_once_whether_or_not_the_database_answers(scene, is_down):
    scene.deploy()
    scene.switch(2)
    scene.switch(3)
    scene.database.is_down = is_down

    first = scene.roll_back(key="r")
    again = scene.roll_back(key="r")

    assert again == first
    assert first.number is None if is_down else first.number is not None
    assert scene.fleet.route.stable == 2


def test_key_that_was_used_for_something_else_is_a_conflict(scene):
    scene.deploy(key="d")
    scene.switch(2, key="s")

    for attempt in (
        lambda: scene.switch(3, key="s"),
        lambda: scene.switch(3, key="d"),
        lambda: scene.switch(3, key="version 1"),
    ):
        with pytest.raises(Conflict, match="used before"):
            attempt()

    assert scene.fleet.route.stable == 2


def test_switch_with_the_database_down_is_refused_and_serving_is_unchanged(scene):
    scene.deploy()
    generation = scene.generation()
    scene.database.is_down = True

    with pytest.raises(StoreUnavailable):
        scene.switch(2)

    assert scene.generation() == generation
    assert scene.pending.all() == []


def test_rollback_with_the_database_down_moves_traffic_and_is_kept_later(scene):
    scene.deploy()
    scene.switch(2)
    scene.database.is_down = True

    moved = scene.roll_back(key="r")

    assert (moved.decision.outcome, moved.number) == ("committed", None)
    assert scene.fleet.route.stable == 1
    assert [move.decision for move in scene.pending.all()] == [moved.decision]

    scene.database.is_down = False
    scene.switch(3)

    assert scene.kept()[2:] == [("rollback", "committed", 1), ("switch", "committed", 3)]
    assert list_decisions(scene.database, SERVICE, kind="rollback")[0].decision == moved.decision
    assert verify_audit(scene.database).holds
    with pytest.raises(Latched):
        scene.switch(2)


def test_rollback_asks_no_database_before_traffic_has_moved(scene):
    scene.deploy()
    scene.switch(2)
    stable_when_asked = []

    def open_unit():
        stable_when_asked.append(scene.fleet.route.stable)
        raise StoreUnavailable("It hangs, then fails.")

    roll_back(open_unit, scene.cell, SERVICE, principal=BEN, clock=scene.fleet.clock, key="r")

    assert stable_when_asked == [1]


def test_decision_whose_commit_was_lost_on_the_way_is_kept_once(scene):
    scene.deploy()
    scene.database.loses_commits = True

    moved = scene.switch(2, key="s")

    assert (moved.number, scene.fleet.route.stable) == (None, 2)
    scene.database.is_down = scene.database.loses_commits = False
    assert reconcile(scene.database, scene.pending, scene.cell.routes, clock=scene.fleet.clock) == 1
    assert scene.kept().count(("switch", "committed", 2)) == 1
    assert scene.switch(2, key="s").decision == moved.decision


def test_reconciling_twice_keeps_a_decision_once(scene):
    scene.deploy()
    scene.switch(2)
    scene.database.is_down = True
    scene.roll_back()
    scene.database.is_down = False
    waiting = scene.pending.all()

    first = reconcile(scene.database, scene.pending, scene.cell.routes, clock=scene.fleet.clock)
    for move in waiting:  # as if another process had looked at the same time
        scene.pending.replace(move)
    reconcile(scene.database, scene.pending, scene.cell.routes, clock=scene.fleet.clock)

    assert first == 1
    assert [kind for kind, _, _ in scene.kept()].count("rollback") == 1


def test_decision_is_kept_even_if_its_key_was_taken_meanwhile(scene):
    scene.deploy(key="d")
    scene.switch(2)

    moved = scene.roll_back(key="d")

    assert moved.number is not None
    assert scene.kept()[-1] == ("rollback", "committed", 1)


def die_after_commit(scene, monkeypatch, version: int, key: str) -> None:
    """Make a switch of which the process dies when the route is changed and nothing is kept."""
    with monkeypatch.context() as patch:
        patch.setattr("tidegate.operation.release.keep", lambda *_args, **_options: 1 / 0)
        patch.setattr(PendingMoves, "replace", lambda *_: None)
        with pytest.raises(ZeroDivisionError):
            scene.switch(version, key=key)
    (move,) = scene.pending.all()
    scene.pending.replace(msgspec.structs.replace(move, pid=2**22 + 1))


def test_move_whose_process_died_is_told_by_the_next_operation(scene, monkeypatch):
    scene.deploy()
    die_after_commit(scene, monkeypatch, 2, "s")

    scene.switch(3)

    assert scene.kept()[1:] == [("switch", "interrupted", 2), ("switch", "committed", 3)]
    observed = list_decisions(scene.database, SERVICE)[1].decision.evidence[0].observed
    assert (observed["generation_before"], observed["generation"], observed["stable"]) == (1, 3, 2)
    assert scene.pending.all() == []


def test_move_whose_process_died_is_resumed_under_its_key(scene, monkeypatch):
    scene.deploy()
    die_after_commit(scene, monkeypatch, 2, "s")
    generation = scene.generation()

    moved = scene.switch(2, key="s")

    assert moved.decision.outcome == "unchanged"
    assert scene.generation() == generation
    assert scene.pending.all() == []


def test_move_under_the_key_of_one_that_is_under_way_is_a_conflict(scene):
    scene.deploy()
    caught = []

    def again() -> None:
        with pytest.raises(Conflict, match="is being made under the key 's'") as error:
            scene.switch(2, key="s")
        caught.append(error)

    scene.fleet.workers[0].load_s[2] = 10.0
    scene.fleet.after(5.0, again)

    assert scene.switch(2, key="s").decision.outcome == "committed"
    assert caught


def test_refused_move_leaves_no_note_and_no_decision(scene):
    scene.deploy()
    before = scene.kept()

    for attempt in (lambda: scene.deploy(version=2), lambda: scene.switch(9), lambda: scene.roll_back(to=7)):
        with pytest.raises(TidegateError):
            attempt()

    assert scene.pending.all() == []
    assert scene.kept() == before


def test_aborted_switch_is_kept_as_such(scene):
    scene.deploy()
    scene.fleet.workers[1].broken[2] = "out of memory"

    moved = scene.switch(2, key="s")

    assert moved.decision.outcome == "aborted"
    assert scene.kept()[-1] == ("switch", "aborted", 2)
    assert scene.switch(2, key="s") == moved


def test_change_of_unknown_fate_is_noted_until_the_next_operation_tells(scene, monkeypatch):
    scene.deploy()

    def fail(*_args, **_options):
        raise RouteStorageError("The route folder cannot be synced.")

    with monkeypatch.context() as patch:
        patch.setattr("tidegate.operation.release.switch", fail)
        with pytest.raises(RouteStorageError):
            scene.switch(2)

    reconcile(scene.database, scene.pending, scene.cell.routes, clock=scene.fleet.clock)

    assert scene.kept()[-1] == ("switch", "interrupted", 2)


def test_rollback_without_a_folder_for_notes_still_moves_traffic(scene):
    scene.deploy()
    scene.switch(2)
    scene.folder.rmdir()
    scene.folder.touch()  # whatever is written there fails

    moved = scene.roll_back()

    assert (moved.decision.outcome, scene.fleet.route.stable) == ("committed", 1)
    assert scene.kept()[-1] == ("rollback", "committed", 1)


def test_rollback_is_forgotten_locally_after_a_day(scene):
    scene.deploy()
    scene.switch(2)
    scene.roll_back(key="r")
    assert [move.number for move in scene.pending.all()] != []

    scene.fleet.clock.now_s += 25 * 3600
    scene.switch(3)

    assert scene.pending.all() == []


def test_latch_is_cleared_with_a_decision(scene):
    scene.deploy()
    scene.switch(2)
    scene.roll_back()

    unlatch(scene.database, scene.cell, SERVICE, version=2, principal=ANA, clock=scene.fleet.clock)

    assert scene.kept()[-1] == ("clear-latch", "committed", 2)
    assert scene.switch(2).decision.outcome == "committed"


def test_latch_of_a_version_that_was_never_registered_is_not_cleared(scene):
    scene.deploy()

    for mistyped in (9, 10**23):
        with pytest.raises(TidegateError):
            unlatch(
                scene.database, scene.cell, SERVICE, version=mistyped, principal=ANA, clock=scene.fleet.clock
            )

    assert scene.pending.all() == []


def test_decision_that_no_database_can_hold_is_set_aside_and_the_others_are_kept(scene, caplog):
    scene.deploy()
    scene.switch(2)
    scene.database.is_down = True
    scene.roll_back()
    scene.database.is_down = False
    (waiting,) = scene.pending.all()
    decided = msgspec.structs.replace(waiting.decision, version=10**23)
    scene.pending.replace(msgspec.structs.replace(waiting, key="a", at_us=0, decision=decided))
    died = msgspec.structs.replace(waiting, key="b", at_us=1, decision=None, version=10**23, pid=2**22 + 1)
    scene.pending.replace(died)

    scene.switch(3)

    assert scene.kept()[-2:] == [("rollback", "committed", 1), ("switch", "committed", 3)]
    assert len(list(scene.folder.glob("*.bad"))) == 2
    assert "cannot be stored: The metadata database cannot hold a value" in caplog.text
    scene.roll_back()
    assert len(caplog.records) == 2  # told once


def test_version_that_was_never_registered_is_refused(scene):
    with pytest.raises(NotFound):
        scene.deploy(version=9)
