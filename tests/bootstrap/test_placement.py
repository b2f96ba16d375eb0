"""Which services are loaded on demand."""

from __future__ import annotations

import pytest

import tidegate as tg
from tidegate.bootstrap.placement import on_demand
from tidegate.core.error import InvalidSetting
from tidegate.route.route import Route, ServiceRoute


def route(**placements: str) -> Route:
    return Route(
        "c", services={name: ServiceRoute(name, placement=each) for name, each in placements.items()}
    )


def test_few_services_are_kept_but_those_that_ask_for_it() -> None:
    assert on_demand(route(a="", b="always", c="on-demand"), above=2) == {"c"}


def test_many_services_are_loaded_on_demand_but_those_that_are_pinned() -> None:
    assert on_demand(route(a="", b="always", c="on-demand", d="", e=""), above=2) == {"a", "c", "d", "e"}


@pytest.mark.parametrize("given", [{"load": "never"}, {"nice": 20}, {"memory_mb": -1}, {"cpus": -1}])
def test_a_placement_that_cannot_be_is_refused_by_name(given) -> None:
    with pytest.raises(InvalidSetting, match=f"Placement.{next(iter(given))}"):
        tg.Placement(**given)
