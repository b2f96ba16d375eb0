"""Rollback: it wins, goes back once, latches, and walks until something can serve."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.release.fleet import ANA, BEN, SERVICE, Fleet, manifest
from tests.route.simulation import SimulatedFiles, interleave
from tidegate.core.decision import Decision
from tidegate.core.error import Conflict, InvalidSetting, NotFound, TidegateError
from tidegate.release.move import Latched, NothingToRollBack
from tidegate.release.readiness import Cell, Patience
from tidegate.release.rollback import switch_back
from tidegate.release.safe_mode import set_safe_mode
from tidegate.release.switch import first_deployment, switch
from tidegate.route.route import CANDIDATE, Shadow, resize
from tidegate.route.store import RouteStore


def serving(*versions: int, n_workers: int = 2, fallback: tuple[str, ...] = ()) -> Fleet:
    """Return a fleet on which those versions were stable one after the other."""
    fleet = Fleet(n_workers)
    first_deployment(
        fleet.cell,
        SERVICE,
        version=versions[0],
        manifest=manifest(versions[0]),
        principal=ANA,
        salt="pepper",
        fallback=fallback,
    )
    fleet.turn()
    for version in versions[1:]:
        to(fleet, version)
    return fleet


def to(fleet: Fleet, version: int, **options) -> Decision:
    return switch(
        fleet.cell,
        SERVICE,
        version=version,
        manifest=manifest(version),
        principal=ANA,
        without_workers=True,
        **options,
    )


def back(fleet: Fleet, **options) -> Decision:
    return switch_back(fleet.cell, SERVICE, **({"principal": BEN, "reason": "it errs"} | options))


def latched(fleet: Fleet) -> set[int]:
    return {latch.version for latch in fleet.route.latched}


def canary(fleet: Fleet, version: int, share: float) -> None:
    def start(old):
        listed = msgspec.structs.replace(old, manifests={**old.manifests, version: manifest(version)})
        return resize(listed, CANDIDATE, share=share, version=version)

    fleet.store.change(SERVICE, start)
    fleet.turn()


def test_rollback_returns_to_the_version_before_and_latches():
    fleet = serving(1, 2)
    before_s = fleet.clock.now_s

    decision = back(fleet)

    route = fleet.route
    assert (decision.kind, decision.outcome, decision.version) == ("rollback", "committed", 1)
    assert (route.stable, route.standby, route.history, latched(fleet)) == (1, (), (), {2})
    assert (route.latched[0].by, route.latched[0].reason) == ("ben@laptop", "it errs")
    assert fleet.workers[0].served == [1, 2, 1]
    assert "workers-ready" not in {each.rule for each in decision.evidence}
    assert fleet.clock.now_s - before_s < 0.1


def test_rollback_keeps_the_next_way_back_warm():
    fleet = serving(1, 2, 3)

    back(fleet)

    assert (fleet.route.stable, fleet.route.standby, fleet.route.history) == (2, (1,), (1,))


def test_switching_back_without_a_latch_can_be_undone():
    fleet = serving(1, 2)

    decision = back(fleet, latch=False)

    assert (decision.kind, fleet.route.stable, latched(fleet)) == ("switch-back", 1, set())
    fleet.sleep(10)
    assert back(fleet, latch=False).version == 2
    assert fleet.route.stable == 2


def test_rollback_without_any_worker_moves_the_pointer():
    fleet = serving(1, 2, n_workers=0)

    assert back(fleet).outcome == "committed"

    assert fleet.route.stable == 1


def test_rollback_of_a_canary_gives_stable_everything_back():
    fleet = serving(1, 2)
    canary(fleet, 3, 0.25)

    decision = back(fleet)

    assert (decision.version, fleet.route.stable, latched(fleet)) == (2, 2, {3})
    assert fleet.route.arms[0].share == 1.0
    assert 3 not in fleet.route.versions


def test_rollback_stops_shadowing_by_the_version_it_takes_away_and_the_one_that_answers():
    fleet = serving(1, 2)
    fleet.store.change(SERVICE, lambda old: msgspec.structs.replace(old, shadows=(Shadow(2), Shadow(1))))

    back(fleet)

    assert fleet.route.shadows == ()


def test_rollback_during_a_switch_wins():
    fleet = serving(1, 2)
    fleet.workers[0].load_s[3] = 10.0
    decisions = []
    fleet.after(5.0, lambda: decisions.append(back(fleet)))

    with pytest.raises(Conflict, match="changed by someone else"):
        to(fleet, 3)

    assert (decisions[0].outcome, decisions[0].version) == ("committed", 2)
    assert (fleet.route.stable, fleet.route.preparing, latched(fleet)) == (2, None, {3})
    assert 3 not in fleet.route.versions
    assert 3 not in fleet.workers[0].served


def test_rollback_that_is_overtaken_by_the_commit_takes_the_committed_version_away():
    fleet = serving(1, 2)
    fleet.workers[0].load_s[3] = 10.0
    change = fleet.store.change
    decisions = []

    def overtaken(service, move, **options):
        fleet.store.change = change
        fleet.sleep(10.0)  # the other one's workers are ready now, and it commits first
        change(SERVICE, _commit(3), expected_generation=fleet.route.generation)
        return change(service, move, **options)

    def roll_back() -> None:
        fleet.store.change = overtaken
        decisions.append(back(fleet))

    fleet.after(5.0, roll_back)
    with pytest.raises(Conflict):
        to(fleet, 3)

    assert decisions[0].version == 2
    assert (fleet.route.stable, latched(fleet)) == (2, {3})


def _commit(version: int):
    from tidegate.release import move

    return lambda old: move.commit(old, version=version)


def test_two_who_roll_back_at_once_go_back_once():
    fleet = serving(1, 2, 3)
    change = fleet.store.change

    def second_comes_first(service, move, **options):
        fleet.store.change = change
        assert back(fleet, principal=ANA).version == 2
        return change(service, move, **options)

    fleet.store.change = second_comes_first

    decision = back(fleet)

    assert (decision.outcome, decision.version) == ("unchanged", 2)
    assert (fleet.route.stable, latched(fleet)) == (2, {3})


@pytest.mark.parametrize("latch", [True, False])
def test_whoever_rolls_back_after_another_within_ten_seconds_goes_no_further(latch):
    fleet = serving(1, 2, 3)
    back(fleet, principal=ANA, latch=latch)
    fleet.sleep(4)
    generation = fleet.route.generation

    decision = back(fleet, latch=latch)

    assert (decision.outcome, decision.version, fleet.route.generation) == ("unchanged", 2, generation)
    further = 1 if latch else 3
    (why,) = [each.reason for each in decision.evidence]
    assert why.startswith("version 3 was taken away by ana@laptop 4 s ago, and version 2 answers.")
    assert why.endswith(f"To go further back, say so with --to {further}.")
    assert back(fleet, to=further).version == further


def test_rollback_soon_after_another_goes_back_where_something_moved_since():
    fleet = serving(1, 2, 3)
    back(fleet, principal=ANA)
    to(fleet, 4)

    assert back(fleet).version == 2
    assert latched(fleet) == {3, 4}


def test_rollback_some_time_after_another_goes_further_back():
    fleet = serving(1, 2, 3)
    back(fleet)
    fleet.sleep(10)

    assert back(fleet).version == 1


def test_rollback_walks_past_versions_that_cannot_load():
    fleet = serving(1, 2, 3, 4)
    for worker in fleet.workers:
        worker.broken |= {2: "its artifact is gone"}
    back(fleet)  # to 3; 2 is to stand by, and fails
    fleet.sleep(10)

    decision = back(fleet)

    assert (decision.outcome, decision.version) == ("committed", 1)
    assert (fleet.route.stable, latched(fleet)) == (1, {3, 4})
    assert fleet.workers[0].served == [1, 2, 3, 4, 3, 1]
    assert [each.verdict for each in decision.evidence if each.rule == "workers-ready"] == [
        "regressed",
        "safe",
    ]


def test_rollback_to_a_version_not_on_standby_waits_until_it_is_ready():
    fleet = serving(1, 2, 3)
    for worker in fleet.workers:
        worker.load_s[1] = 4.0
    fleet.turn()

    decision = back(fleet, to=1)

    assert (decision.version, latched(fleet)) == (1, {3})
    assert [each.rule for each in decision.evidence] == ["workers-ready", "route-changed", "workers-follow"]
    assert decision.evidence[0].statistic == pytest.approx(4.0, abs=0.1)
    assert all(worker.served == [1, 2, 3, 1] for worker in fleet.workers)


def test_rollback_is_not_held_up_by_a_worker_that_is_stuck():
    fleet = serving(1, 2, 3)
    fleet.workers[1].stopped = True

    decision = back(fleet, to=1, patience=Patience(ready_s=2.0, follow_s=1.0))

    assert (decision.outcome, fleet.route.stable) == ("committed", 1)
    assert [each.verdict for each in decision.evidence] == ["undecided", "safe", "undecided"]


def test_rollback_with_nowhere_to_go_ends_in_the_fallback():
    fleet = serving(1, fallback=("table",))

    decision = back(fleet)

    assert decision.outcome == "fallback"
    assert (fleet.route.safe_mode, latched(fleet)) == (True, {1})
    assert back(fleet).outcome == "unchanged"


def test_rollback_with_nowhere_to_go_and_no_fallback_says_what_it_tried():
    fleet = serving(1, 2, 3)
    for worker in fleet.workers:
        worker.broken |= {1: "its artifact is gone"}
    back(fleet)
    fleet.sleep(10)

    with pytest.raises(NothingToRollBack, match=r"Version 1: worker 0 .* its artifact is gone"):
        back(fleet)

    assert fleet.route.stable == 2


def test_rollback_of_the_only_version_without_a_fallback_is_refused():
    fleet = serving(1)

    with pytest.raises(NothingToRollBack, match="No earlier version"):
        back(fleet)

    assert (fleet.route.stable, latched(fleet)) == (1, set())


def test_rollback_of_a_service_without_a_version_is_refused():
    with pytest.raises(NotFound):
        back(Fleet())


def test_rollback_to_a_version_that_never_served_is_refused():
    with pytest.raises(InvalidSetting, match=r"Versions to go back to: 1\."):
        back(serving(1, 2), to=9)


def test_rollback_to_the_version_that_serves_changes_nothing():
    fleet = serving(1, 2)

    assert back(fleet, to=2).outcome == "unchanged"
    assert fleet.route.stable == 2


def test_rollback_to_a_latched_version_is_refused():
    fleet = serving(1, 2)
    back(fleet)

    with pytest.raises(Latched):
        back(fleet, to=2)


def _programs(fleet: Fleet, plan: list[tuple[str, int]], log: list[tuple[str, int, str]]):
    def program(verb: str, version: int):
        def run(files: SimulatedFiles) -> None:
            cell = Cell(
                RouteStore(fleet.store.folder, files=files, clock=fleet.clock),
                fleet,
                clock=fleet.clock,
                sleep=fleet.sleep,
            )
            try:
                if verb == "switch":
                    decision = switch(
                        cell,
                        SERVICE,
                        version=version,
                        manifest=manifest(version),
                        principal=ANA,
                        without_workers=True,
                    )
                else:
                    decision = switch_back(cell, SERVICE, principal=BEN)
            except TidegateError as error:
                log.append((verb, version, error.code))
            else:
                log.append((verb, version, decision.outcome))

        return run

    return [program(verb, version) for verb, version in plan]


@given(
    plan=st.lists(
        st.tuples(st.sampled_from(["switch", "switch", "rollback"]), st.integers(3, 5)),
        min_size=2,
        max_size=4,
    ),
    schedule=st.lists(
        st.tuples(st.integers(0, 3), st.one_of(st.integers(1, 15), st.integers(1, 60), st.just(0))),
        max_size=25,
    ),
)
@settings(max_examples=60, deadline=None)
def test_no_interleaving_of_switches_and_rollbacks_gives_traffic_to_a_latched_version(plan, schedule):
    fleet = serving(1, 2, n_workers=0, fallback=("table",))
    log: list[tuple[str, int, str]] = []
    ever_latched: set[int] = set()
    generations = [fleet.route.generation]

    def check() -> None:
        route = fleet.route
        assert route.generation >= generations[-1]
        generations.append(route.generation)
        assert ever_latched <= latched(fleet)
        ever_latched.update(latched(fleet))
        assert route.safe_mode or not {arm.version for arm in route.arms if arm.parts} & ever_latched

    interleave(_programs(fleet, plan, log), fleet.disk, schedule, check=check)

    # Whoever rolls back is never told that others came first.
    assert {code for verb, _, code in log if verb == "rollback"} <= {"committed", "unchanged", "fallback"}
    committed = [version for verb, version, code in log if (verb, code) == ("switch", "committed")]
    if not ever_latched and committed and len(log) == len(plan):
        assert fleet.route.stable in committed


def shadowing(fleet: Fleet, *versions: int) -> None:
    def start(old):
        known = {**old.manifests, **{version: manifest(version) for version in versions}}
        return msgspec.structs.replace(old, manifests=known, shadows=tuple(map(Shadow, versions)))

    fleet.store.change(SERVICE, start)
    fleet.turn()


def test_rollback_of_a_version_that_is_tried_as_a_shadow_leaves_stable_alone():
    fleet = serving(1, 2)
    shadowing(fleet, 3)

    decision = back(fleet)

    assert (decision.outcome, decision.version) == ("committed", 2)
    assert (fleet.route.stable, fleet.route.shadows, latched(fleet)) == (2, (), {3})


def test_rollback_goes_back_to_the_version_that_shadows_the_new_one():
    fleet = serving(1, 2)
    shadowing(fleet, 1)

    decision = back(fleet)

    assert (decision.outcome, decision.version) == ("committed", 1)
    assert (fleet.route.stable, fleet.route.shadows, latched(fleet)) == (1, (), {2})


def test_rollback_in_safe_mode_takes_the_candidate_away_and_leaves_safe_mode_on():
    fleet = serving(1, fallback=("rates",))
    canary(fleet, 2, 0.2)
    set_safe_mode(fleet.cell, SERVICE, on=True, principal=ANA)

    decision = back(fleet)

    route = fleet.route
    assert (decision.outcome, decision.version) == ("committed", 1)
    assert (route.stable, len(route.arms), route.safe_mode, latched(fleet)) == (1, 1, True, {2})
