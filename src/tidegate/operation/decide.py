"""Record a decision that moves nothing by itself: a gate's verdict, an alarm, a person's note."""

from __future__ import annotations

from tidegate.core.clock import Clock
from tidegate.core.decision import Decision
from tidegate.operation.mutation import Effect, Intent, Outcome, Transaction, UnitOfWork, run
from tidegate.registry.store import StoredDecision
from tidegate.registry.version import version_label

ACTION = "decision.record"


def record_decision(
    unit: UnitOfWork, decision: Decision, *, key: str, clock: Clock
) -> Outcome[StoredDecision]:
    """Store `decision` once, with its audit entry.

    Operations that change something as well append their decision in their own mutation.

    Raises:
        Conflict: The key was used for something else.
        InvalidSetting: The evidence holds what JSON cannot keep.
        StoreUnavailable: The database cannot be reached; nothing was stored.
    """

    def perform(transaction: Transaction) -> Effect[StoredDecision]:
        stored = transaction.decisions.append(decision)
        subject = (
            decision.service
            if decision.version is None
            else version_label(decision.service, decision.version)
        )
        return Effect(stored, subject, {"kind": decision.kind, "outcome": decision.outcome})

    intent = Intent(
        action=ACTION, principal=decision.principal, key=key, request=decision, service=decision.service
    )
    return run(unit, intent, perform=perform, result=StoredDecision, clock=clock)
