"""Replay a decision: evaluate its rules again on what they saw, and compare the verdicts."""

from __future__ import annotations

import msgspec

from tidegate.core.decision import Decision, Evidence, Verdict
from tidegate.core.error import NotFound
from tidegate.operation.mutation import UnitOfWork
from tidegate.operation.version import list_decisions
from tidegate.release.evidence import replay


class Replayed(msgspec.Struct, frozen=True):
    """One piece of evidence, evaluated again.

    Attributes:
        evidence: As it is stored.
        verdict: What its rule says now; None where the rule cannot be replayed from what is stored.
        reason: In words.
        is_same: Whether verdict and statistic are what they were.
    """

    evidence: Evidence
    verdict: Verdict | None
    reason: str
    is_same: bool


class ReplayedDecision(msgspec.Struct, frozen=True):
    """A decision and its evidence, evaluated again.

    Attributes:
        number: Under which it is kept.
        decision: As it is kept.
        evidence: Each piece.
    """

    number: int
    decision: Decision
    evidence: tuple[Replayed, ...]

    @property
    def is_same(self) -> bool:
        """Whether everything that can be replayed came to the same verdict."""
        return all(each.is_same for each in self.evidence)


def find_decision(unit: UnitOfWork, number: int) -> Decision:
    """Return the decision of that number.

    Raises:
        NotFound: There is none.
        StoreUnavailable: The database cannot be reached.
    """
    found = list_decisions(unit, after=number - 1)
    if not found or found[0].id != number:
        raise NotFound(
            f"There is no decision {number}.", hint="`tidegate decisions` lists them.", number=number
        )
    return found[0].decision


def replay_decision(unit: UnitOfWork, number: int) -> ReplayedDecision:
    """Evaluate the evidence of a decision again.

    Needs no journal: evidence holds the counts that it was evaluated on.

    Raises:
        NotFound: There is no such decision.
        StoreUnavailable: The database cannot be reached.
    """
    decision = find_decision(unit, number)
    return ReplayedDecision(number, decision, tuple(_replay(each) for each in decision.evidence))


def _replay(evidence: Evidence) -> Replayed:
    judged = replay(evidence)
    if judged is None:
        return Replayed(evidence, None, "it tells what was done or seen, and compares no counts", True)
    is_same = judged.verdict is evidence.verdict and _is_close(judged.statistic, evidence.statistic)
    return Replayed(evidence, judged.verdict, judged.reason, is_same)


def _is_close(now: float | None, then: float | None) -> bool:
    if now is None or then is None:
        return now is then
    bounded = max(-1e9, min(1e9, now))
    return abs(bounded - then) <= 1e-9 * max(1.0, abs(then))
