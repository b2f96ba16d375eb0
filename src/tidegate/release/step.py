"""What the steps of a release share: who wants what on which cell, and the decision it will become."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from tidegate.core.decision import Decision, Evidence, Verdict
from tidegate.core.principal import Principal
from tidegate.release.move import deployed
from tidegate.release.readiness import Cell
from tidegate.route.route import Route, ServiceRoute

FIRST_DEPLOYMENT = "first-deployment"
SWITCH = "switch"
SWITCH_BACK = "switch-back"
ROLLBACK = "rollback"
CLEAR_LATCH = "clear-latch"
SAFE_MODE_ON = "safe-mode-on"
SAFE_MODE_OFF = "safe-mode-off"


class Outcome(StrEnum):
    """How a step ended."""

    COMMITTED = "committed"
    ABORTED = "aborted"
    UNCHANGED = "unchanged"
    FALLBACK = "fallback"


@dataclass(frozen=True, kw_only=True)
class Step:
    """One change of a service's route that someone wants.

    Attributes:
        cell: What it works on.
        service: Name of the service.
        kind: Kind of the decision.
        principal: Who wants it.
        reason: In the principal's words.
    """

    cell: Cell
    service: str
    kind: str
    principal: Principal
    reason: str

    def present(self) -> ServiceRoute:
        """Return the service's route as it is in force.

        Raises:
            NotFound: The service has no version.
            TidegateError: As `RouteStore.read`.
        """
        return deployed(self.cell.routes.read().services.get(self.service), self.service)

    def decide(
        self, outcome: Outcome, *, version: int | None, evidence: list[Evidence], reason: str = ""
    ) -> Decision:
        """Return the decision that the step has come to."""
        return Decision(
            kind=self.kind,
            service=self.service,
            version=version,
            outcome=outcome,
            principal=self.principal,
            at_us=self.cell.clock.wall_us(),
            reason=reason or self.reason,
            evidence=evidence,
        )


ROUTE_CHANGED = "route-changed"
"""Rule of the evidence of what a change of the route was from and to."""


def route_changed(before: ServiceRoute | None, after: Route, service: str) -> Evidence:
    """Return what a change of the route was from and to."""
    return Evidence(
        rule=ROUTE_CHANGED,
        verdict=Verdict.SAFE,
        reason=f"route {after.sequence} is in force",
        observed={
            "sequence": after.sequence,
            "from": _describe(before),
            "to": _describe(after.services[service]),
        },
    )


def _describe(route: ServiceRoute | None) -> dict[str, Any]:
    if route is None:
        return {"generation": 0, "arms": {}, "safe_mode": False}
    return {
        "generation": route.generation,
        "salt": route.salt,
        "arms": {arm.name: {"version": arm.version, "share": arm.share} for arm in route.arms},
        "shadows": [shadow.version for shadow in route.shadows],
        "safe_mode": route.safe_mode,
    }
