"""Safe mode: the chain answers, arms stay as they are, and only versions that may serve come back."""

from __future__ import annotations

import pytest

from tests.release.fleet import ANA, SERVICE, manifest
from tests.release.test_rollback import back, canary, serving
from tidegate.core.error import InvalidSetting, NotFound
from tidegate.release.move import Latched
from tidegate.release.safe_mode import set_safe_mode
from tidegate.release.switch import switch


def safe_mode(fleet, *, on):
    return set_safe_mode(fleet.cell, SERVICE, on=on, principal=ANA, reason="storm")


def test_on_and_off_give_the_same_keys_to_the_same_versions():
    fleet = serving(1, fallback=("rates",))
    canary(fleet, 2, 0.1)
    before = fleet.route

    turned_on, during = safe_mode(fleet, on=True), fleet.route
    turned_off, after = safe_mode(fleet, on=False), fleet.route

    assert (turned_on.kind, turned_on.outcome) == ("safe-mode-on", "committed")
    assert (turned_off.kind, turned_off.outcome) == ("safe-mode-off", "committed")
    assert during.safe_mode
    assert during.arms == before.arms
    assert (after.arms, after.salt, after.safe_mode) == (before.arms, before.salt, False)


@pytest.mark.parametrize("on", [True, False])
def test_a_second_time_changes_nothing(on):
    fleet = serving(1, fallback=("rates",))
    if on:
        safe_mode(fleet, on=True)
    generation = fleet.route.generation

    decision = safe_mode(fleet, on=on)

    assert decision.outcome == "unchanged"
    assert fleet.route.generation == generation


def test_without_a_fallback_it_is_refused_in_words():
    fleet = serving(1)

    with pytest.raises(InvalidSetting, match="nobody who could answer"):
        safe_mode(fleet, on=True)
    assert not fleet.route.safe_mode


def test_a_rolled_back_version_does_not_come_back_by_it():
    fleet = serving(1, fallback=("rates",))
    back(fleet)
    assert fleet.route.safe_mode

    with pytest.raises(Latched):
        safe_mode(fleet, on=False)

    assert fleet.route.safe_mode


def test_it_wins_over_a_switch_that_is_under_way():
    fleet = serving(1, fallback=("rates",))
    for worker in fleet.workers:
        worker.load_s[2] = 5.0
    fleet.after(1.0, lambda: safe_mode(fleet, on=True))

    with pytest.raises(Exception, match="changed by someone else"):
        switch(fleet.cell, SERVICE, version=2, manifest=manifest(2), principal=ANA)

    assert fleet.route.safe_mode
    assert fleet.route.stable == 1


def test_a_service_without_a_version_has_none():
    fleet = serving(1)

    with pytest.raises(NotFound):
        set_safe_mode(fleet.cell, "other", on=True, principal=ANA)
