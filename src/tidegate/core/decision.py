"""A decision and the evidence it was taken on: the form in which every stage explains itself."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import msgspec

from tidegate.core.principal import Principal


class Verdict(StrEnum):
    """What evidence says. Undecided holds; it never means yes (METHODS, rule 1)."""

    SAFE = "safe"
    REGRESSED = "regressed"
    UNDECIDED = "undecided"
    INVALID = "invalid"


class Evidence(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one rule saw and concluded, complete enough to be replayed.

    Attributes:
        rule: Name of the rule, for example `check-inputs` or `error-ratio`.
        parameters: The rule's settings, plain JSON values.
        observed: What it looked at (tallies, intervals, digests), plain JSON values.
        cut: Where the journal was cut: segment name -> offset in bytes. Empty for rules that do
            not read the journal.
        statistic: The figure that was compared, if the rule has one.
        verdict: What follows.
        reason: The same in words.
    """

    rule: str
    verdict: Verdict
    reason: str = ""
    parameters: dict[str, Any] = {}
    observed: dict[str, Any] = {}
    cut: dict[str, int] = {}
    statistic: float | None = None


class Decision(msgspec.Struct, frozen=True, omit_defaults=True):
    """Something the system or a person decided about a service, kept for good.

    Attributes:
        kind: `first-deployment`, `switch`, `rollback`, `gate` ... owned by the stage that decides.
        service: The service it concerns.
        version: The version it concerns, if one.
        outcome: What was decided, in the stage's own words.
        evidence: Everything it rests on.
        principal: Who decided.
        at_us: When, microseconds UTC.
        reason: In words, from the person or the stage.
    """

    kind: str
    service: str
    outcome: str
    principal: Principal
    at_us: int
    version: int | None = None
    reason: str = ""
    evidence: list[Evidence] = []
