"""The plain switch: two phases, no traffic to what is not ready, one winner."""

from __future__ import annotations

import msgspec
import pytest

from tests.release.fleet import ANA, BEN, SERVICE, FakeWorker, Fleet, manifest
from tidegate.core.decision import Decision, Verdict
from tidegate.core.error import Conflict, InvalidSetting, NotFound
from tidegate.core.principal import SYSTEM
from tidegate.release.move import Latched, prepare
from tidegate.release.readiness import Patience
from tidegate.release.rollback import switch_back
from tidegate.release.switch import NoWorkers, clear_latch, first_deployment, switch
from tidegate.route.route import CANDIDATE, resize
from tidegate.route.store import Fenced


def deployed(n_workers: int = 2, *, fallback: tuple[str, ...] = ()) -> Fleet:
    fleet = Fleet(n_workers)
    first_deployment(
        fleet.cell, SERVICE, version=1, manifest=manifest(1), principal=ANA, salt="pepper", fallback=fallback
    )
    fleet.turn()
    return fleet


def to(fleet: Fleet, version: int, **options) -> Decision:
    options = {"principal": ANA, "manifest": manifest(version)} | options
    return switch(fleet.cell, SERVICE, version=version, **options)


def evidence(decision: Decision, rule: str):
    (found,) = (each for each in decision.evidence if each.rule == rule)
    return found


def test_first_deployment_gives_the_version_all_keys_at_once():
    fleet = Fleet(0)

    decision = first_deployment(
        fleet.cell, SERVICE, version=1, manifest=manifest(1), principal=ANA, fallback=("table",), reason="go"
    )

    route = fleet.route
    assert (decision.kind, decision.outcome, decision.version) == ("first-deployment", "committed", 1)
    assert (decision.principal, decision.reason) == (ANA, "go")
    assert (route.stable, route.arms[0].share, route.generation) == (1, 1.0, 1)
    assert (route.fallback, route.manifests) == (("table",), {1: manifest(1)})
    assert len(route.salt) == 16


def test_first_deployment_of_a_service_that_serves_is_a_conflict():
    fleet = deployed()

    with pytest.raises(Conflict, match="serves version 1 already"):
        first_deployment(fleet.cell, SERVICE, version=2, manifest=manifest(2), principal=ANA)


def test_switch_moves_all_traffic_and_keeps_the_way_back_warm():
    fleet = deployed()
    before = fleet.route

    decision = to(fleet, 2, reason="better")

    route = fleet.route
    assert (decision.kind, decision.outcome, decision.version) == ("switch", "committed", 2)
    assert (route.stable, route.standby, route.history) == (2, (1,), (1,))
    assert (route.preparing, route.salt) == (None, before.salt)
    assert [worker.served for worker in fleet.workers] == [[1, 2], [1, 2]]
    assert {status.of(SERVICE).generation for status in fleet.live()} == {route.generation}


def test_decision_of_a_switch_carries_what_it_saw():
    fleet = deployed()

    decision = to(fleet, 2)

    ready, changed = evidence(decision, "workers-ready"), evidence(decision, "route-changed")
    follow = evidence(decision, "workers-follow")
    assert [worker["pid"] for worker in ready.observed["workers"]] == [100, 101]
    assert all(2 in worker["ready"] for worker in ready.observed["workers"])
    assert changed.observed["from"]["arms"]["stable"]["version"] == 1
    assert changed.observed["to"]["generation"] == fleet.route.generation
    assert (ready.verdict, follow.verdict) == (Verdict.SAFE, Verdict.SAFE)
    assert follow.statistic is not None
    assert msgspec.json.decode(msgspec.json.encode(decision), type=Decision) == decision


def test_switch_waits_for_the_slowest_worker():
    fleet = deployed(3)
    fleet.workers[1].load_s[2] = 30.0
    seen = []
    fleet.after(29.0, lambda: seen.append([list(worker.served) for worker in fleet.workers]))

    decision = to(fleet, 2)

    assert seen == [[[1], [1], [1]]]
    assert decision.outcome == "committed"
    assert evidence(decision, "workers-ready").statistic == pytest.approx(30.0, abs=0.1)


def test_switch_is_aborted_with_the_workers_reason_when_one_cannot_load():
    fleet = deployed()
    fleet.workers[1].broken[2] = "check input 3 gave 0.7, expected 0.2"

    decision = to(fleet, 2)

    assert decision.outcome == "aborted"
    assert (
        decision.reason
        == "worker 1 (process 101) cannot serve version 2: check input 3 gave 0.7, expected 0.2"
    )
    assert evidence(decision, "workers-ready").verdict == Verdict.REGRESSED
    assert (fleet.route.stable, fleet.route.standby, fleet.route.preparing) == (1, (), None)
    assert fleet.route.manifests.keys() == {1}
    assert [worker.served for worker in fleet.workers] == [[1], [1]]


def test_switch_that_was_aborted_can_be_tried_again():
    fleet = deployed()
    fleet.workers[0].broken[2] = "out of memory"
    to(fleet, 2)
    fleet.turn()
    fleet.workers[0].broken.clear()

    assert to(fleet, 2).outcome == "committed"


@pytest.mark.parametrize(
    ("hinder", "words"),
    [
        (
            lambda worker: setattr(worker, "stopped", True),
            "follows route 1, expected 2",
        ),
        (
            lambda worker: worker.load_s.update({2: 1e9}),
            "is still loading version 2",
        ),
    ],
)
def test_switch_that_runs_out_of_time_says_who_kept_it_waiting(hinder, words):
    fleet = deployed()
    hinder(fleet.workers[1])

    decision = to(fleet, 2, patience=Patience(ready_s=3.0))

    assert decision.outcome == "aborted"
    assert evidence(decision, "workers-ready").verdict == Verdict.UNDECIDED
    assert decision.reason == f"after 3.0 s: worker 1 (process 101) {words}"
    assert fleet.route.stable == 1


def test_worker_that_dies_is_not_waited_for_and_one_that_starts_is():
    fleet = deployed()
    fleet.workers[1].stopped = True
    fresh = FakeWorker(7, fleet.store, fleet.clock)
    fresh.load_s[2] = 5.0
    fleet.after(1.0, lambda: fleet.workers.__setitem__(1, fresh))

    decision = to(fleet, 2)

    assert decision.outcome == "committed"
    assert [worker["slot"] for worker in evidence(decision, "workers-ready").observed["workers"]] == [0, 7]
    assert fresh.served[-1] == 2


def test_worker_that_does_not_follow_the_commit_leaves_the_decision_undecided():
    fleet = deployed()
    commit_turns = []

    class Stuck(FakeWorker):
        def turn(self) -> None:
            if fleet.route.stable == 2:
                commit_turns.append(1)
                return
            super().turn()

    fleet.workers[0] = Stuck(0, fleet.store, fleet.clock)
    fleet.turn()

    decision = to(fleet, 2)

    assert commit_turns
    assert decision.outcome == "committed"
    assert evidence(decision, "workers-follow").verdict == Verdict.UNDECIDED
    assert (
        "worker 0 (process 100) serves generation 2, expected 3"
        in evidence(decision, "workers-follow").reason
    )


def test_switch_to_the_version_that_serves_changes_nothing():
    fleet = deployed()
    before = fleet.store.highest()

    decision = to(fleet, 1)

    assert decision.outcome == "unchanged"
    assert fleet.store.highest() == before


def test_switch_without_workers_is_refused_unless_asked_for():
    fleet = deployed(0)

    with pytest.raises(NoWorkers, match="nothing shows that version 2"):
        to(fleet, 2)

    assert fleet.route.stable == 1
    assert to(fleet, 2, without_workers=True).outcome == "committed"


def test_switch_of_a_service_without_a_version_is_refused():
    with pytest.raises(NotFound, match="no version that serves"):
        to(Fleet(), 2)


def test_switch_from_a_generation_that_has_passed_is_a_conflict():
    fleet = deployed()
    seen = fleet.route.generation
    to(fleet, 2)

    with pytest.raises(Conflict):
        to(fleet, 3, expected_generation=seen)

    assert fleet.route.stable == 2


def test_of_two_who_switch_at_once_the_first_wins():
    fleet = deployed()
    fleet.workers[0].load_s[2] = 10.0
    caught = []

    def other() -> None:
        with pytest.raises(Conflict, match=r"to version 2 by ana@laptop is under way") as error:
            to(fleet, 3, principal=BEN)
        caught.append(error)

    fleet.after(5.0, other)

    decision = to(fleet, 2)

    assert caught
    assert decision.outcome == "committed"
    assert fleet.route.stable == 2


def test_switch_whose_owner_died_stops_nobody_once_its_time_is_up():
    fleet = deployed()
    fleet.store.change(
        SERVICE,
        lambda old: prepare(
            old,
            version=2,
            manifest=manifest(2),
            by=BEN,
            now_us=fleet.clock.wall_us(),
            until_us=fleet.clock.wall_us() + 65_000_000,
        ),
    )
    with pytest.raises(Conflict, match="under way"):
        to(fleet, 3)

    fleet.clock.now_s += 65.0

    assert to(fleet, 3).outcome == "committed"
    assert 2 not in fleet.route.versions


def test_interrupted_wait_takes_the_version_off_standby():
    fleet = deployed()
    fleet.workers[0].load_s[2] = 1e9

    def interrupt() -> None:
        raise KeyboardInterrupt

    fleet.after(1.0, interrupt)
    with pytest.raises(KeyboardInterrupt):
        to(fleet, 2)

    assert (fleet.route.stable, fleet.route.standby, fleet.route.preparing) == (1, (), None)


def test_aborted_switch_to_the_version_on_standby_leaves_it_there():
    fleet = deployed()
    to(fleet, 2)
    fleet.workers[0].stopped = True

    assert to(fleet, 1, patience=Patience(ready_s=1.0)).outcome == "aborted"

    assert (fleet.route.stable, fleet.route.standby) == (2, (1,))


def test_switch_during_a_release_is_a_conflict():
    fleet = deployed()
    canary = resize(
        msgspec.structs.replace(fleet.route, manifests={1: manifest(1), 2: manifest(2)}),
        CANDIDATE,
        share=0.05,
        version=2,
    )
    fleet.store.change(SERVICE, lambda _old: canary)

    with pytest.raises(Conflict, match=r"version 2 has 5\.0000% of the keys"):
        to(fleet, 3)


def test_switch_with_a_token_that_was_taken_over_is_fenced():
    fleet = deployed()
    fleet.store.fence(5)

    with pytest.raises(Fenced):
        to(fleet, 2, token=4)

    assert fleet.route.stable == 1


def test_version_whose_manifest_changed_is_refused():
    fleet = deployed()
    to(fleet, 2)

    with pytest.raises(InvalidSetting, match="A version never changes"):
        to(fleet, 1, manifest=manifest(99))


def test_twenty_switches_keep_two_versions_and_one_salt():
    fleet = deployed()
    salt = fleet.route.salt

    for number in range(20):
        assert to(fleet, 2 - number % 2).outcome == "committed"

    assert (fleet.route.stable, fleet.route.standby, fleet.route.history) == (1, (2,), (2,))
    assert fleet.route.salt == salt
    assert fleet.workers[0].served == [1] + [2, 1] * 10


def test_switch_to_another_version_leaves_safe_mode():
    fleet = deployed(fallback=("table",))
    switch_back(fleet.cell, SERVICE, principal=ANA)
    assert fleet.route.safe_mode

    decision = to(fleet, 2, fallback=("constant",))

    assert decision.outcome == "committed"
    assert (fleet.route.safe_mode, fleet.route.stable, fleet.route.fallback) == (False, 2, ("constant",))
    assert fleet.route.standby == ()  # version 1 is latched: no way back to keep warm


def test_rolled_back_version_is_refused_until_a_person_clears_it():
    fleet = deployed()
    to(fleet, 2)
    switch_back(fleet.cell, SERVICE, principal=BEN, reason="p99 doubled")

    with pytest.raises(Latched, match="rolled back by ben@laptop: p99 doubled"):
        to(fleet, 2)
    with pytest.raises(InvalidSetting, match="Only a person"):
        clear_latch(fleet.cell, SERVICE, version=2, principal=SYSTEM)
    decision = clear_latch(fleet.cell, SERVICE, version=2, principal=ANA)

    assert (decision.kind, decision.outcome) == ("clear-latch", "committed")
    assert to(fleet, 2).outcome == "committed"
    assert clear_latch(fleet.cell, SERVICE, version=2, principal=ANA).outcome == "unchanged"
