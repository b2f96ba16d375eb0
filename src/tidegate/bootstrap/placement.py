"""Which services every worker keeps loaded, and which it loads when somebody asks for them."""

from __future__ import annotations

from tidegate.route.route import ALWAYS, ON_DEMAND, Route


def on_demand(route: Route, *, above: int) -> frozenset[str]:
    """Return the names of the services that are loaded on demand.

    Those that were declared so, and, where there are many, all whose declaration leaves it open: to load
    thousands before the first request takes minutes and memory that most of them never earn.

    Args:
        route: The route.
        above: So many services without a declaration are all kept loaded.
    """
    names = {name for name, service in route.services.items() if service.placement == ON_DEMAND}
    free = [name for name, service in route.services.items() if service.placement not in (ALWAYS, ON_DEMAND)]
    if len(free) > above:
        names.update(free)
    return frozenset(names)
