"""Safe mode: every request of a service goes to its fallback chain, no model is asked."""

from __future__ import annotations

from contextlib import suppress

from tidegate.core.decision import Decision
from tidegate.core.error import Conflict
from tidegate.core.principal import Principal
from tidegate.release import move
from tidegate.release.readiness import DEFAULT_PATIENCE, Cell, Patience, wait_following
from tidegate.release.step import SAFE_MODE_OFF, SAFE_MODE_ON, Outcome, Step, route_changed
from tidegate.route.route import ServiceRoute

_ATTEMPTS = 100


def set_safe_mode(
    cell: Cell,
    service: str,
    *,
    on: bool,
    principal: Principal,
    patience: Patience = DEFAULT_PATIENCE,
    reason: str = "",
) -> Decision:
    """Switch safe mode on or off. Needs only the route's folder; switching it on wins over everything.

    Arms, latches and shares stay as they are: switched off again, the same versions answer the same keys.

    Args:
        cell: What to work on.
        service: Name of the service.
        on: Whether the fallback chain is to answer.
        principal: Who wants it.
        patience: How long to watch the workers follow.
        reason: In the principal's words.

    Returns:
        What was decided: committed, or unchanged where it was so already.

    Raises:
        NotFound: The service has no version.
        InvalidSetting: It has no fallback.
        Latched: A version that would answer again was rolled back.
        Conflict: Others change the route without end.
        TidegateError: As `RouteStore.change`.
    """
    step = Step(
        cell=cell,
        service=service,
        kind=SAFE_MODE_ON if on else SAFE_MODE_OFF,
        principal=principal,
        reason=reason,
    )

    def change(old: ServiceRoute | None) -> ServiceRoute:
        route = move.deployed(old, service)
        return move.enter_safe_mode(route) if on else move.leave_safe_mode(route)

    for _ in range(_ATTEMPTS):
        before = step.present()
        if before.safe_mode == on:
            return step.decide(Outcome.UNCHANGED, version=before.stable, evidence=[])
        with suppress(Conflict):
            after = cell.routes.change(service, change, expected_generation=before.generation)
            follow = wait_following(cell, after, service, patience)
            return step.decide(
                Outcome.COMMITTED,
                version=before.stable,
                evidence=[route_changed(before, after, service), follow],
            )
    raise Conflict(
        f"The route of service {service!r} was changed by others {_ATTEMPTS} times while its safe mode "
        "was to be changed.",
        hint="Find out who changes it without end.",
        service=service,
    )
