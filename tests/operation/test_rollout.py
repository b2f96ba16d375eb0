"""Releases by evidence, from start to promotion and back, over a real database."""

from __future__ import annotations

from contextlib import closing

import msgspec
import pytest

from tests.release.fleet import ANA, BEN, SERVICE, Fleet, manifest
from tidegate.adapter.sql.unit import open_database
from tidegate.core.clock import SystemClock
from tidegate.core.decision import Verdict
from tidegate.core.error import Conflict, InvalidSetting, NotFound
from tidegate.journal.pair import PairTally
from tidegate.journal.watch import EventTally, KeyTally, ReleaseTallies, Watch
from tidegate.operation import rollout
from tidegate.operation.audit import verify_audit
from tidegate.operation.book import DatabaseBook
from tidegate.operation.mutation import Effect, Intent, run
from tidegate.operation.version import list_decisions
from tidegate.operation.watching import watch_release
from tidegate.registry.store import StoreUnavailable
from tidegate.registry.version import VersionDraft
from tidegate.release import move
from tidegate.release.controller import ReleaseController
from tidegate.release.evidence import replay
from tidegate.release.machine import Ending, Stage
from tidegate.release.move import Latched
from tidegate.release.plan import Guardrail, Plan, PlanStep, ShadowStep, TooSlow
from tidegate.release.rollback import switch_back
from tidegate.release.switch import first_deployment, switch
from tidegate.route.route import ServiceRoute
from tidegate.route.store import RouteStorageError

PLAN = Plan(
    shadow=ShadowStep(least_s=1.0, least_pairs=100, max_disagreement=0.3),
    steps=(PlanStep(0.05, 1.0), PlanStep(0.5, 1.0)),
    guardrails=(Guardrail("errors", allowance=0.02), Guardrail("latency", allowance=0.02)),
    mature_s=2.0,
)


class Counts:
    """A `Source` that is told what was counted."""

    def __init__(self) -> None:
        self.watches: dict[str, Watch] = {}
        self.keys: dict[str, dict[float, list[int]]] = {}
        self.shadowed = PairTally()

    def watch(self, wanted: Watch) -> None:
        self.watches.setdefault(wanted.release, wanted)

    def unwatch(self, release: str) -> None:
        self.watches.pop(release, None)

    def watched(self) -> frozenset[str]:
        return frozenset(self.watches)

    def tallies(self, release: str) -> ReleaseTallies:
        rows = self.keys.get(release, {})
        return ReleaseTallies(
            {"errors": [EventTally(share, share, share, 0.0, row[2], row[3]) for share, row in rows.items()]},
            [KeyTally(share, row[0], row[1]) for share, row in rows.items()],
            sum(row[0] for row in rows.values()),
            sum(row[1] for row in rows.values()),
            cut={"segment": 4096},
        )

    def pairs(self, service: str, *, answered: int, shadow: int) -> PairTally:
        return self.shadowed


class Scene:
    """A fleet that serves version 1, a database with three versions, and a controller."""

    def __init__(self, url: str) -> None:
        self.fleet = Fleet()
        self.unit = open_database(url)
        self.counts = Counts()
        first_deployment(self.fleet.cell, SERVICE, version=1, manifest=manifest(1), principal=ANA, salt="s")
        self.fleet.turn()
        self.controller = self.new_controller("one")

    def new_controller(self, holder: str, *, dead: tuple[str, ...] = ()) -> ReleaseController:
        return ReleaseController(
            book=DatabaseBook(self.unit, clock=self.fleet.clock),
            source=self.counts,
            cells={"local": self.fleet.cell},
            clock=self.fleet.clock,
            holder=holder,
            is_dead=lambda other: other in dead,
        )

    def start(self, version: int = 2, **options):
        wanted = {"plan": PLAN, "principal": ANA, **options}
        return rollout.start_release(
            self.unit,
            {"local": self.fleet.cell},
            SERVICE,
            version=version,
            fallback_of=lambda _: (),
            clock=self.fleet.clock,
            **wanted,
        )

    def go(self, n: int = 1, *, keys: int = 2000, errors: float = 0.0, pairs: int = 200) -> None:
        for _ in range(n):
            self.fleet.sleep(1.0)
            route = self.fleet.route
            share = sum(arm.share for arm in route.arms if arm.name == "candidate")
            for name in self.counts.watches:
                if 0 < share < 1:
                    row = self.counts.keys.setdefault(name, {}).setdefault(share, [0, 0, 0, 0])
                    row[0] += round(keys * share)
                    row[1] += keys - round(keys * share)
                    row[2] += round(keys * share * errors)
            if route.shadows:
                for field in ("pairs", "key_pairs", "key_compared", "timed"):
                    setattr(self.counts.shadowed, field, getattr(self.counts.shadowed, field) + pairs)
            self.controller.tick()

    @property
    def state(self):
        return rollout.find_release(self.unit, SERVICE)

    def decisions(self, kind: str = "release"):
        return [each.decision for each in list_decisions(self.unit, SERVICE, kind=kind)]


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A database with three versions, made once: its schema takes longer than a test."""
    path = tmp_path_factory.mktemp("template") / "metadata.db"
    with closing(open_database(f"sqlite:///{path}")) as unit:
        for number in (1, 2, 3):

            def perform(transaction, number=number):
                draft = VersionDraft(service=SERVICE, manifest=manifest(number), contract=manifest(number))
                return Effect(transaction.versions.add(draft, principal=ANA, at_us=1).number, "x")

            intent = Intent(action="version.add", principal=ANA, key=f"v{number}", request=number)
            run(unit, intent, perform=perform, result=int, clock=SystemClock())
    return path


@pytest.fixture
def scene(tmp_path, template):
    path = tmp_path / "metadata.db"
    path.write_bytes(template.read_bytes())
    made = Scene(f"sqlite:///{path}")
    with closing(made.unit):
        yield made


def say(scene: Scene, operation, **options):
    return operation(scene.unit, SERVICE, **{"principal": BEN, "clock": scene.fleet.clock, **options})


def test_healthy_candidate_is_promoted_through_every_step_unattended(scene):
    scene.start()
    stages = []
    for _ in range(30):
        scene.go()
        stages.append((scene.state.stage, scene.state.share))
        if not scene.state.is_open:
            break

    assert scene.state.ending is Ending.PROMOTED
    assert list(dict.fromkeys(stages)) == [
        (Stage.PREPARING, 0.0),
        (Stage.SHADOW, 0.0),
        (Stage.CANARY, 0.05),
        (Stage.CANARY, 0.5),
        (Stage.MATURING, 1.0),
        (Stage.ENDED, 1.0),
    ]
    assert scene.fleet.route.stable == 2
    assert [shadow.version for shadow in scene.fleet.route.shadows] == [1]
    scene.go()
    assert scene.counts.watches == {}
    assert verify_audit(scene.unit).holds


def test_every_decision_carries_its_evidence_and_replays_to_the_same_verdict(scene):
    scene.start()
    scene.go(8)
    scene.go(2, errors=0.5)

    replayed = 0
    for kind in ("release", "rollback"):
        for decision in scene.decisions(kind):
            for evidence in decision.evidence:
                again = replay(evidence)
                if again is not None:
                    replayed += 1
                    assert (again.verdict, again.statistic) == (evidence.verdict, evidence.statistic)
    assert replayed > 5
    canary = next(each for each in scene.decisions() if each.outcome == "canary 50.00%")
    (errors,) = [each for each in canary.evidence if each.rule == "guardrail:errors"]
    assert errors.verdict is Verdict.SAFE
    assert errors.cut == {"segment": 4096}


def test_candidate_that_regresses_is_rolled_back_and_latched_with_the_cause(scene):
    scene.start()
    scene.go(4)
    scene.go(2, errors=0.5)

    (decision,) = scene.decisions("rollback")
    assert decision.outcome == "rolled-back"
    assert "guardrail:errors: more errors" in decision.reason
    assert scene.fleet.route.latch_of(2) is not None
    assert [arm.version for arm in scene.fleet.route.arms] == [1]
    with pytest.raises(Latched):
        scene.start()


def test_regression_in_the_shadow_never_reaches_a_user(scene):
    scene.start()
    scene.go(2)
    scene.counts.shadowed.key_worse = 40
    scene.go(1)

    assert scene.state.ending is Ending.ROLLED_BACK
    assert "the candidate alone failed for 40" in scene.state.reason
    assert not scene.counts.keys


def test_second_release_of_a_service_is_refused_and_says_so(scene):
    scene.start()

    with pytest.raises(Conflict, match="is under way"):
        scene.start(version=3, principal=BEN)


def test_person_who_rolls_back_ends_the_release(scene):
    scene.start()
    scene.go(5)
    switch_back(scene.fleet.cell, SERVICE, principal=BEN, reason="users complain")
    scene.go(1)

    assert scene.state.ending is Ending.ROLLED_BACK
    assert "rolled back by ben@laptop: users complain" in scene.state.reason


def served(scene: Scene, *versions: int) -> None:
    """Make those versions stable one after the other."""
    for version in versions:
        switch(
            scene.fleet.cell,
            SERVICE,
            version=version,
            manifest=manifest(version),
            principal=ANA,
            without_workers=True,
        )


@pytest.mark.parametrize("before", [(), (3,), (3, 2)], ids=["1", "3-1", "3-2-1"])
@pytest.mark.parametrize("ticks", [0, 1])
def test_rollback_of_a_release_that_is_being_prepared_leaves_stable(scene, before, ticks):
    served(scene, *before, *(() if not before else (1,)))
    scene.start(version=3)
    for _ in range(ticks):
        scene.controller.tick()
    moved = switch_back(scene.fleet.cell, SERVICE, principal=BEN)
    route = scene.fleet.route

    assert (moved.version, route.stable) == (1, 1)
    assert [latch.version for latch in route.latched] == [3]
    scene.go()
    assert scene.state.ending is Ending.ROLLED_BACK
    assert (scene.fleet.route.stable, scene.fleet.route.releasing) == (1, None)


def test_rollback_of_a_shadow_that_has_served_before_leaves_stable(scene):
    served(scene, 3, 1)
    scene.start(version=3)
    scene.go(2, pairs=0)
    assert scene.state.stage is Stage.SHADOW

    assert switch_back(scene.fleet.cell, SERVICE, principal=BEN).version == 1
    assert scene.fleet.route.stable == 1


def test_rollback_to_a_named_version_takes_the_one_of_a_release_away_too(scene):
    served(scene, 2, 3, 1)
    scene.start(version=3)

    decision = switch_back(scene.fleet.cell, SERVICE, principal=BEN, to=2)

    assert (decision.version, scene.fleet.route.stable) == (2, 2)
    assert {latch.version for latch in scene.fleet.route.latched} == {1, 3}
    tried = msgspec.structs.replace(scene.fleet.route, history=(3,), releasing=3, latched=())
    assert move.way_back(tried, away={2}) is None


def test_release_is_started_where_the_route_cannot_be_written_and_named_by_the_controller(scene):
    def full(*_, **__):
        raise RouteStorageError("The disk is full.")

    change, scene.fleet.store.change = scene.fleet.store.change, full
    scene.start()
    scene.fleet.store.change = change
    scene.controller.tick()

    assert scene.fleet.route.releasing == 2


@pytest.mark.parametrize("before", [(), (2,)], ids=["new", "served before"])
def test_release_that_ends_is_no_longer_named_in_the_route(scene, before):
    served(scene, *before, *(() if not before else (1,)))
    scene.start()
    assert scene.fleet.route.releasing == 2
    ended = rollout.abort_release(
        lambda: scene.unit,
        {"local": scene.fleet.cell},
        SERVICE,
        principal=BEN,
        clock=scene.fleet.clock,
    )
    called_off = scene.fleet.route.releasing
    scene.start(plan=msgspec.structs.replace(PLAN, ready_s=3.0))
    for worker in scene.fleet.workers:
        worker.stopped = True
    scene.go(8)

    assert (ended.ending, called_off) == (Ending.ABORTED, None)
    assert (scene.state.ending, scene.fleet.route.releasing) == (Ending.TIMED_OUT, None)


def test_switching_back_a_release_that_is_being_prepared_ends_it(scene):
    scene.start()
    switch_back(scene.fleet.cell, SERVICE, principal=BEN, latch=False)
    scene.go(3)

    assert scene.state.ending is Ending.OVERTAKEN
    assert scene.state.reason == "ben@laptop has taken version 2 away"
    assert (scene.fleet.route.versions, scene.fleet.route.releasing) == ((1,), None)


def test_switching_back_without_a_latch_ends_it_too(scene):
    scene.start()
    scene.go(5)
    assert scene.fleet.route.arm("candidate").share > 0
    switch_back(scene.fleet.cell, SERVICE, principal=BEN, latch=False)
    scene.go(2)

    assert scene.state.ending is Ending.OVERTAKEN
    assert scene.fleet.route.arm("candidate") is None


def test_pause_holds_and_resume_goes_on_with_the_same_keys(scene):
    scene.start()
    scene.go(3)
    say(scene, rollout.pause_release, reason="lunch")
    held = scene.state.share
    scene.go(10)
    assert (scene.state.share, scene.state.paused) == (held, True)
    with pytest.raises(Conflict, match="paused already"):
        say(scene, rollout.pause_release)

    say(scene, rollout.resume_release)
    scene.go(10)

    assert scene.state.ending is Ending.PROMOTED
    with pytest.raises(NotFound, match="No release"):
        say(scene, rollout.resume_release)


def test_decision_on_a_word_carries_no_reason_of_another_word(scene):
    scene.start(plan=msgspec.structs.replace(PLAN, approve=(1.0,)))
    scene.go(15)
    say(scene, rollout.pause_release, principal=ANA, reason="holiday")
    say(scene, rollout.approve_release)
    say(scene, rollout.resume_release)
    assert scene.state.reason == ""
    say(scene, rollout.pause_release)
    say(scene, rollout.resume_release, reason="back again")
    assert scene.state.reason == "back again"
    abort(scene)

    said = [(each.outcome, each.reason) for each in scene.decisions() if each.principal in (ANA, BEN)]
    assert said[1:7] == [
        ("paused", "holiday"),
        ("approved", f"approved by {BEN.name}"),
        ("resumed", f"resumed by {BEN.name}"),
        ("paused", f"paused by {BEN.name}"),
        ("resumed", "back again"),
        ("aborted", f"aborted by {BEN.name}"),
    ]


def test_words_of_an_approval_are_kept(scene):
    scene.start(plan=msgspec.structs.replace(PLAN, approve=(1.0,)))
    scene.go(15)

    say(scene, rollout.approve_release, reason="seen with the team")

    assert scene.decisions()[-1].reason == "seen with the team"


def test_paused_release_that_regresses_is_rolled_back_all_the_same(scene):
    scene.start()
    scene.go(4)
    say(scene, rollout.pause_release)
    scene.go(3, errors=0.5)

    assert scene.state.ending is Ending.ROLLED_BACK


def test_promotion_waits_for_the_person_the_plan_asks_for(scene):
    scene.start(plan=msgspec.structs.replace(PLAN, approve=(1.0,)))
    with pytest.raises(Conflict, match="waits for no approval"):
        say(scene, rollout.approve_release)
    scene.go(15)
    assert (scene.state.stage, scene.fleet.route.stable) == (Stage.APPROVAL, 1)

    say(scene, rollout.approve_release, key="k")
    scene.go(5)

    assert scene.state.ending is Ending.PROMOTED
    assert say(scene, rollout.approve_release, key="k").revision  # repeated under its key: what it was


def test_promote_now_needs_a_reason_and_a_version_that_is_loaded(scene):
    scene.start()
    with pytest.raises(Conflict, match="not loaded"):
        say(scene, rollout.promote_now, reason="hurry")
    scene.go(2)
    with pytest.raises(InvalidSetting, match="needs a reason"):
        say(scene, rollout.promote_now, reason=" ")

    say(scene, rollout.promote_now, reason="the fix cannot wait")
    scene.go(5)

    assert (scene.fleet.route.stable, scene.state.forced) == (2, BEN.name)


def abort(scene: Scene, **options):
    return rollout.abort_release(
        lambda: scene.unit,
        {"local": scene.fleet.cell},
        SERVICE,
        principal=BEN,
        clock=scene.fleet.clock,
        **options,
    )


def test_abort_gives_the_traffic_back_at_once_and_nothing_is_latched(scene):
    scene.start()
    scene.go(5)

    state = abort(scene, reason="not today")

    assert state.ending is Ending.ABORTED
    assert [arm.version for arm in scene.fleet.route.arms] == [1]
    assert scene.fleet.route.latched == ()
    assert abort(scene) is None
    scene.go(2)
    scene.start()  # and it may be tried again


def test_abort_with_the_database_down_moves_traffic_and_is_kept_later(scene):
    scene.start()
    scene.go(5)

    def fail():
        raise StoreUnavailable("down")

    def call_off() -> None:
        rollout.abort_release(
            fail, {"local": scene.fleet.cell}, SERVICE, principal=BEN, clock=scene.fleet.clock
        )

    with pytest.raises(StoreUnavailable, match=r"may go on\. What its candidate had was given back"):
        call_off()
    with pytest.raises(StoreUnavailable, match=r"may go on\. No candidate of it has traffic"):
        call_off()
    assert [arm.version for arm in scene.fleet.route.arms if arm.parts] == [1]
    scene.go(2)
    assert scene.state.ending is Ending.OVERTAKEN


def test_abort_of_a_service_that_is_not_there_is_refused(scene):
    with pytest.raises(NotFound, match="No version of a service 'nope' is registered"):
        rollout.abort_release(
            lambda: scene.unit,
            {"local": scene.fleet.cell},
            "nope",
            principal=BEN,
            clock=scene.fleet.clock,
        )


def test_no_candidate_traffic_holds_and_then_goes_back_to_stable(scene):
    scene.start(plan=msgspec.structs.replace(PLAN, idle_s=20.0, shadow=None))
    scene.go(40, keys=0)

    assert scene.state.ending is Ending.TIMED_OUT
    assert "no traffic of the candidate" in scene.state.reason
    assert scene.fleet.route.stable == 1
    assert scene.fleet.route.latched == ()


def test_worker_that_cannot_load_the_candidate_ends_the_release_before_any_traffic(scene):
    scene.fleet.workers[1].broken[2] = "out of memory"
    scene.start()
    scene.go(4)

    assert scene.state.ending is Ending.ABORTED
    assert "out of memory" in scene.state.reason
    assert scene.fleet.route.versions == (1,)


def test_mismatch_of_keys_freezes_and_only_a_person_goes_on(scene):
    scene.start(plan=msgspec.structs.replace(PLAN, shadow=None))
    scene.go(2, keys=10)
    name = next(iter(scene.counts.watches))
    scene.counts.keys[name] = {0.05: [900, 1100, 0, 0]}
    scene.go(5, keys=0)

    assert scene.state.is_open
    assert "did not get its share" in scene.state.invalid
    frozen = [each for each in scene.decisions() if each.outcome == "frozen"]
    assert len(frozen) == 1


def test_version_without_its_gates_is_refused_unless_someone_says_why(scene):
    class Stopped:
        passed = False
        words = "flights@2 was stopped by slices."

    with pytest.raises(rollout.NotGated, match="stopped by slices"):
        scene.start(gate_of=lambda *_: Stopped())

    scene.start(gate_of=lambda *_: Stopped(), override="the slice is test data")
    started = scene.decisions()[0]
    assert any("Overridden: the slice is test data" in each.reason for each in started.evidence)


def test_release_that_would_take_too_long_is_refused_before_it_starts(scene):
    slow = rollout.Traffic(keys_per_s=0.0001)
    with pytest.raises(TooSlow, match=r"about .* d; its plan allows 7\.0 d\.") as caught:
        scene.start(traffic=slow)
    with pytest.raises(TooSlow, match=r"about .* h; its plan allows 10\.0 min"):
        scene.start(plan=Plan(limit_s=600.0), traffic=rollout.Traffic(keys_per_s=0.2))
    assert "--allow-slow" in caught.value.hint

    assert scene.start(traffic=slow, allow_slow=True).expected.total_s > 7 * 86400
    abort(scene)
    assert scene.start(traffic=rollout.Traffic(keys_per_s=50.0)).expected.total_s < 3600


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"version": 9}, NotFound, "no version"),
        ({"version": 1}, Conflict, "has all the traffic"),
        ({"plan": Plan(steps=(PlanStep(1.5),))}, InvalidSetting, "ascending shares"),
        ({"plan": msgspec.structs.replace(PLAN, waves=(("mars",),))}, InvalidSetting, "waves name the cells"),
    ],
)
def test_wrong_use_is_refused_in_words(scene, options, error, words):
    with pytest.raises(error, match=words):
        scene.start(**options)
    assert scene.state is None


def test_one_controller_leads_and_the_next_takes_over_when_it_falls_silent(scene):
    scene.start()
    scene.go(3)
    other = scene.new_controller("two")

    assert other.tick() == []
    scene.fleet.clock.now_s += 11.0
    taken = other.tick()

    assert [state.id for state in taken] == [scene.state.id]
    assert scene.controller.tick() == []  # it slept; its beat and its token are refused
    assert scene.fleet.store.read().token == 2


def test_controller_known_to_be_dead_is_not_waited_for(scene):
    scene.start()
    scene.go(3)

    assert scene.new_controller("two", dead=("one",)).tick()


def test_without_the_database_a_regression_is_still_rolled_back(scene, monkeypatch):
    scene.start()
    scene.go(4)

    def fail(*_args, **_options):
        raise StoreUnavailable("down")

    with monkeypatch.context() as patch:
        patch.setattr(scene.unit, "read", fail)
        patch.setattr(scene.unit, "write", fail)
        scene.go(3, errors=0.5)
        assert scene.fleet.route.latch_of(2) is not None
    scene.go(2)

    assert scene.state.ending is Ending.ROLLED_BACK
    (kept,) = scene.decisions("rollback")
    assert any(each.verdict is Verdict.REGRESSED for each in kept.evidence)


def test_two_operators_at_once_one_wins_and_the_other_is_told(scene):
    scene.start(plan=msgspec.structs.replace(PLAN, approve=(1.0,)))
    scene.go(15)

    say(scene, rollout.approve_release)
    with pytest.raises(Conflict, match="waits for no approval"):
        say(scene, rollout.approve_release, principal=ANA)


class TwoCells:
    """Two cells that serve version 1, and a plan that releases to them, by default one after the other."""

    def __init__(self, scene: Scene, waves: tuple[tuple[str, ...], ...] = (("eu",), ("us",))) -> None:
        self.scene = scene
        self.other = Fleet()
        first_deployment(self.other.cell, SERVICE, version=1, manifest=manifest(1), principal=ANA, salt="s")
        self.other.turn()
        self.cells = {"eu": scene.fleet.cell, "us": self.other.cell}
        self.controller = ReleaseController(
            book=DatabaseBook(scene.unit, clock=scene.fleet.clock),
            source=scene.counts,
            cells=self.cells,
            clock=scene.fleet.clock,
            holder="two cells",
        )
        plan = msgspec.structs.replace(PLAN, shadow=None, waves=waves)
        rollout.start_release(
            scene.unit,
            self.cells,
            SERVICE,
            version=2,
            plan=plan,
            fallback_of=lambda _: (),
            principal=ANA,
            clock=scene.fleet.clock,
        )

    def shares(self) -> tuple[float, float]:
        def of(fleet: Fleet) -> float:
            return sum(arm.share for arm in fleet.route.arms if arm.version == 2)

        return of(self.scene.fleet), of(self.other)

    def until_second(self) -> None:
        for _ in range(40):
            if self.shares()[1] > 0:
                return
            self.go()
        raise AssertionError(self.scene.state)

    def go(self, n: int = 1, *, errors: float = 0.0) -> None:
        for _ in range(n):
            self.scene.fleet.sleep(1.0)
            self.other.sleep(1.0)
            moving = self.scene.state.wave
            share = self.shares()[moving]
            for name in self.scene.counts.watches:
                if 0 < share < 1 and name.endswith(f".{moving}"):
                    row = self.scene.counts.keys.setdefault(name, {}).setdefault(share, [0, 0, 0, 0])
                    row[0] += round(2000 * share)
                    row[1] += 2000 - round(2000 * share)
                    row[2] += round(2000 * share * errors)
            self.controller.tick()


def test_second_wave_of_cells_begins_when_the_first_is_safe(scene):
    cells = TwoCells(scene)
    seen = []
    while scene.state.is_open and len(seen) < 60:
        cells.go()
        seen.append(cells.shares())

    assert scene.state.ending is Ending.PROMOTED
    assert list(dict.fromkeys(seen)) == [
        (0.0, 0.0),
        (0.05, 0.0),
        (0.5, 0.0),
        (1.0, 0.0),
        (1.0, 0.05),
        (1.0, 0.5),
        (1.0, 1.0),
    ]


def test_regression_in_the_second_wave_takes_the_first_back_too(scene):
    cells = TwoCells(scene)
    cells.until_second()

    cells.go(3, errors=0.5)

    assert scene.state.ending is Ending.ROLLED_BACK
    assert cells.shares() == (0.0, 0.0)
    assert all(fleet.route.latch_of(2) for fleet in (scene.fleet, cells.other))


def test_rollback_by_a_person_in_one_cell_takes_the_version_away_in_all(scene):
    cells = TwoCells(scene)
    cells.until_second()
    switch_back(cells.other.cell, SERVICE, principal=BEN, reason="us only")

    cells.go(2)

    assert scene.state.ending is Ending.ROLLED_BACK
    assert cells.shares() == (0.0, 0.0)


def test_a_cell_in_which_a_person_took_the_version_before_away_is_left_as_it_is(scene):
    cells = TwoCells(scene)
    cells.until_second()

    def take_away(route: ServiceRoute) -> ServiceRoute:
        return move.retreat(route, to=2, away={1}, latch=True, by=BEN, reason="1 is worse", now_us=1)

    chosen = cells.other.cell.routes.change(SERVICE, take_away).services[SERVICE]
    cells.go(3)

    assert scene.state.ending is Ending.OVERTAKEN
    assert (chosen.stable, chosen.safe_mode) == (2, False)
    assert cells.other.route == chosen


def test_switch_to_the_candidate_in_one_cell_stays_where_the_release_gave_it_nothing_yet(scene):
    cells = TwoCells(scene, waves=(("eu", "us"),))

    def choose(route: ServiceRoute) -> ServiceRoute:
        prepared = move.prepare(route, version=2, manifest=manifest(2), by=BEN, now_us=1, until_us=2)
        return move.commit(prepared, version=2)

    cells.other.cell.routes.change(SERVICE, choose)
    cells.controller.tick()

    assert scene.state.ending is Ending.OVERTAKEN
    assert cells.shares() == (0.0, 1.0)


def test_who_is_waited_for_is_said_while_a_release_prepares_and_when_it_gives_up(scene, tmp_path):
    cells = TwoCells(scene, waves=(("eu", "us"),))
    cells.other.workers.clear()
    cells.go(2)
    clock = scene.fleet.clock
    view = watch_release(scene.unit, tmp_path / "none.db", SERVICE, clock=clock, cells=cells.cells)
    cells.go(round(PLAN.ready_s) + 2)

    assert view.waiting == "cell 'us': no worker is running"
    assert scene.state.ending is Ending.TIMED_OUT
    assert scene.state.reason.endswith("did not have the candidate ready: cell 'us': no worker is running")
