"""What a service says of its views is held against its request, its fallback and its cache."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

import tidegate as tg
from tidegate.contract.objective import Cache
from tidegate.core.error import InvalidSetting
from tidegate.feature.view import FeatureView, Policy


class Asked(tg.Input):
    a: float
    who: str


class Person(tg.Input):
    who: str


class Level(tg.Input):
    level: float


class Total(tg.Output):
    total: float


def level(**options: Any) -> FeatureView:
    return FeatureView(
        name="level",
        entity=Person,
        source=Level,
        event_time="at",
        ttl=timedelta(hours=1),
        features=Level,
        **options,
    )


def service(*views: FeatureView, **options: Any) -> tg.Service:
    return tg.Service("sum", input=Asked, output=Total, features=views, **options)


def test_model_takes_features_that_callers_do_not_send():
    declared = service(level())

    assert declared.request.input.names == ("a", "who")
    assert declared.contract.input.names == ("a", "who", "level")


def test_service_without_views_has_one_contract():
    declared = service()

    assert declared.contract == declared.request


def test_fallback_may_use_features():
    declared = service(level(), fallback=tg.Lookup(by=["level"], table="rates"))

    assert declared.fallback[0].by == ["level"]


@pytest.mark.parametrize(
    ("views", "options", "said"),
    [
        ([level(stale=Policy.FALLBACK)], {}, "no fallback is declared"),
        ([level()], {"cache": Cache(ttl_s=1.0)}, "cache of answers"),
        ([level(), level()], {}, "'level'"),
    ],
)
def test_what_contradicts_itself_is_refused(views, options, said):
    with pytest.raises(InvalidSetting, match=said):
        service(*views, **options)
