"""Which service a command means that names none: in an emergency nobody should have to look it up."""

from __future__ import annotations

from collections.abc import Mapping

from tidegate.core.error import InvalidSetting, NotFound
from tidegate.release.move import newest, rolled_back_just_now
from tidegate.route.route import Route, ServiceRoute


def service_to_roll_back(route: Route, *, now_us: int) -> str:
    """Return the one service of which something is on the move, or else the only service.

    Args:
        route: The route in force.
        now_us: The time, microseconds UTC.

    Raises:
        NotFound: Nothing is served.
        InvalidSetting: Several could be meant.
    """
    served = _served(route)
    moving = [each.service for each in served if newest(each, now_us=now_us) - {each.stable}]
    if len(moving) == 1:
        return moving[0]
    return _only([each.service for each in served], moving or None)


def rollback_meant(
    routes: Mapping[str, Route], service: str | None, *, own: str, now_us: int, to: int | None = None
) -> tuple[str, list[str]]:
    """Return the service that a rollback means, and the cells that it concerns.

    Where something is on the move, those are meant; else all that serve the same version as the own cell,
    or of those the ones in which someone has just rolled back: the others were not meant then either.

    Args:
        routes: The routes in force, by cell.
        service: Its name, if it was said.
        own: Name of the cell that is asked.
        now_us: The time, microseconds UTC.
        to: Version to go back to, if it was said.

    Raises:
        NotFound: Nothing is served.
        InvalidSetting: Several services could be meant.
    """
    first = own if own in routes else min(routes)
    merged = [each for route in routes.values() for each in _served(route)]
    moving = {each.service for each in merged if newest(each, now_us=now_us) - {each.stable}}
    if service is None:
        service = moving.pop() if len(moving) == 1 else service_to_roll_back(routes[first], now_us=now_us)
    found = {name: route.services[service] for name, route in routes.items() if service in route.services}
    there = [name for name, each in found.items() if newest(each, now_us=now_us) - {each.stable}]
    if not there:
        stable = found[first].stable if first in found else None
        there = [name for name, each in found.items() if each.stable == stable]
        again = [name for name in there if rolled_back_just_now(found[name], now_us=now_us)]
        there = again if again and to is None else there
    return service, there or [first]


def only_service(route: Route) -> str:
    """Return the only service.

    Raises:
        NotFound: Nothing is served.
        InvalidSetting: There are several.
    """
    return _only([each.service for each in _served(route)], None)


def _served(route: Route) -> list[ServiceRoute]:
    return [each for each in route.services.values() if each.arms]


def _only(served: list[str], moving: list[str] | None) -> str:
    if not served:
        raise NotFound("No service is served here.", hint="Its first version is deployed by `tidegate up`.")
    if len(served) == 1:
        return served[0]
    what = "are on the move" if moving else "are served"
    raise InvalidSetting(
        f"Several services {what}: {', '.join(sorted(moving or served))}.", hint="Name the one you mean."
    )
