from datetime import timedelta

import numpy as np
import pytest

import tidegate as tg
from tidegate.core.error import InvalidSetting
from tidegate.feature.aggregate import count, mean, rate
from tidegate.feature.view import FeatureView, Policy, State

HOUR = timedelta(hours=1)


class Entity(tg.Input):
    name: str
    number: int


class Source(tg.Input):
    x: float


class Defaulted(tg.Output):
    n: int = tg.field(default=-1)
    x: float


def view(**options):
    given = {
        "name": "v",
        "entity": Entity,
        "source": Source,
        "event_time": "at",
        "ttl": HOUR,
        "features": Source,
        **options,
    }
    return FeatureView(**given)


class NoDefault(tg.Output):
    n: int


class FloatKey(tg.Input):
    x: float


def aggregated(**options):
    return view(
        **{"ttl": None, "features": None, "event_id": "id", "aggregates": {"n": count(HOUR)}, **options}
    )


@pytest.mark.parametrize(
    ("declare", "message"),
    [
        (lambda: view(name="no name"), "identifier"),
        (lambda: view(ttl=None), "time to live"),
        (lambda: view(ttl=timedelta()), "time to live"),
        (lambda: view(features=None), "schema of its features"),
        (lambda: view(features=NoDefault, transform={"n": 1}), "'n' .* needs a default"),
        (lambda: view(features=Defaulted), "'n' .* neither transformed nor a source"),
        (lambda: view(entity=FloatKey), "floats are no keys"),
        (lambda: aggregated(ttl=HOUR), "aggregates and a time to live"),
        (lambda: aggregated(event_id=None), "event_id"),
        (lambda: aggregated(aggregates={"r": rate("absent", HOUR)}), "'absent'"),
        (lambda: aggregated(features=Defaulted), "are not its aggregates"),
        (
            lambda: aggregated(aggregates={"n": count(HOUR), "x": count(HOUR)}, features=Defaulted),
            "'x' .* int64",
        ),
        (lambda: mean("x", HOUR, steps_per_unit=0), "step"),
        (lambda: count(timedelta()), "positive length"),
    ],
)
def test_impossible_view_is_refused_by_name(declare, message):
    with pytest.raises(InvalidSetting, match=message):
        declare()


def test_keys_tell_entities_apart_whatever_library_their_values_come_from():
    plan = view().plan

    assert plan.key_of(("a", 1)) == plan.key_of((np.str_("a"), np.int64(1)))
    assert len({plan.key_of(key) for key in [("a", 1), ("a", 2), ("b", 1), ("", 1)]}) == 4


@pytest.mark.parametrize("key", [("a",), ("a", 1, 2), ("a", "1"), (1, 1), ("a", True), ("a", 1.0)])
def test_key_of_another_shape_is_refused(key):
    with pytest.raises(InvalidSetting, match="'v'"):
        view().plan.key_of(key)


def test_policy_is_asked_by_state():
    plan = view(missing=Policy.REJECT, stale=Policy.FALLBACK).plan

    assert [plan.policy(state) for state in State] == [None, Policy.FALLBACK, Policy.REJECT, Policy.REJECT]


def test_aggregates_reach_as_far_as_their_longest_window():
    plan = aggregated(aggregates={"n": count(HOUR), "m": mean("x", 5 * HOUR), "r": mean("x", HOUR)}).plan

    assert plan.ttl_us == 5 * 3600 * 1_000_000
    assert plan.stored == (("x", 1_000_000),)
    assert [field.name for field in plan.features] == ["n", "m", "r"]
