"""Experiments: arms side by side, keys that stick, nothing before every worker is ready, and a way back."""

from __future__ import annotations

import pytest

from tests.release.fleet import ANA, SERVICE, manifest
from tests.release.test_rollback import back, canary, latched, serving, shadowing
from tidegate.core.error import Conflict, InvalidSetting
from tidegate.release.experiment import ExperimentArm, end_experiment, experiment_arms, start_experiment
from tidegate.release.move import Latched
from tidegate.release.readiness import Patience
from tidegate.release.safe_mode import set_safe_mode
from tidegate.route.route import bucket_of, compile_choice


def arm(name, version, share):
    return ExperimentArm(name, version, manifest(version), share)


def start(fleet, *arms, **options):
    return start_experiment(fleet.cell, SERVICE, arms=arms, principal=ANA, **options)


def end(fleet):
    return end_experiment(fleet.cell, SERVICE, principal=ANA)


def test_each_arm_gets_its_share_once_every_worker_is_ready():
    fleet = serving(1)
    fleet.workers[1].load_s[3] = 5.0
    salt = fleet.route.salt

    decision = start(fleet, arm("b", 2, 0.2), arm("c", 3, 0.3))

    assert (decision.kind, decision.outcome) == ("experiment", "committed")
    shares = {each.name: (each.version, each.share) for each in fleet.route.arms}
    assert shares == {"stable": (1, 0.5), "b": (2, 0.2), "c": (3, 0.3)}
    assert fleet.route.salt != salt
    assert fleet.clock.now_s >= 1005.0
    assert set(fleet.workers[1].served) == {1, 2, 3}


def test_keys_stick_to_their_arm_while_another_experiment_draws_others():
    fleet = serving(1)
    start(fleet, arm("b", 2, 0.5))
    keys = [b"%d" % number for number in range(400)]
    first = [compile_choice(fleet.route)(bucket_of(key, fleet.route.salt)).name for key in keys]
    again = [compile_choice(fleet.route)(bucket_of(key, fleet.route.salt)).name for key in keys]
    end(fleet)
    start(fleet, arm("b", 2, 0.5))

    other = [compile_choice(fleet.route)(bucket_of(key, fleet.route.salt)).name for key in keys]

    assert first == again
    assert 120 < sum(one == two for one, two in zip(first, other, strict=True)) < 280


def test_the_end_gives_all_keys_back_and_latches_nothing():
    fleet = serving(1)
    start(fleet, arm("b", 2, 0.2))

    decision, again = end(fleet), end(fleet)

    assert (decision.outcome, again.outcome) == ("committed", "unchanged")
    assert [(each.name, each.share) for each in fleet.route.arms] == [("stable", 1.0)]
    assert latched(fleet) == set()
    assert experiment_arms(fleet.route) == ()


def test_a_rollback_takes_every_arm_away():
    fleet = serving(1)
    start(fleet, arm("b", 2, 0.2), arm("c", 3, 0.3))

    back(fleet)

    assert [(each.name, each.version) for each in fleet.route.arms] == [("stable", 1)]
    assert latched(fleet) == {2, 3}


def test_an_arm_that_no_worker_can_load_gets_nothing():
    fleet = serving(1)
    fleet.workers[0].broken[3] = "no such file"
    before = fleet.route

    decision = start(fleet, arm("b", 2, 0.2), arm("c", 3, 0.3), patience=Patience(ready_s=2.0))

    assert decision.outcome == "aborted"
    assert "no such file" in decision.reason
    assert (fleet.route.arms, fleet.route.standby) == (before.arms, before.standby)


@pytest.mark.parametrize(
    ("arms", "words"),
    [
        ((), "none"),
        ((("b", 2, 0.2), ("b", 3, 0.2)), "different names"),
        ((("candidate", 2, 0.2),), "none of"),
        ((("b", 2, 0.6), ("c", 3, 0.4)), "leave some to stable"),
        ((("b", 2, 0.0),), "above 0"),
    ],
)
def test_arms_that_contradict_each_other_are_refused(arms, words):
    fleet = serving(1)

    with pytest.raises(InvalidSetting, match=words):
        start(fleet, *(arm(*each) for each in arms))


def test_nothing_else_may_be_under_way():
    releasing, trying, safe, testing = serving(1), serving(1), serving(1, fallback=("rates",)), serving(1)
    canary(releasing, 2, 0.1)
    shadowing(trying, 2)
    set_safe_mode(safe.cell, SERVICE, on=True, principal=ANA)
    start(testing, arm("b", 2, 0.2))

    for fleet in (releasing, trying, safe, testing):
        with pytest.raises(Conflict, match=r"arms|release|safe mode"):
            start(fleet, arm("c", 3, 0.1))


def test_a_rolled_back_version_takes_no_part():
    fleet = serving(1, 2)
    back(fleet)

    with pytest.raises(Latched):
        start(fleet, arm("b", 2, 0.2))
