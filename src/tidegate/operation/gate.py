"""Put a version through its gates, keep what they found, and let a person override one by name."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from tidegate.core.clock import Clock
from tidegate.core.decision import Decision, Evidence, Verdict
from tidegate.core.error import InvalidSetting, NotFound
from tidegate.core.principal import Principal
from tidegate.gate.declaration import NAMES, check_gate
from tidegate.gate.verdict import applies
from tidegate.operation.decide import record_decision
from tidegate.operation.mutation import UnitOfWork
from tidegate.operation.version import list_decisions
from tidegate.registry.state import GATE, GATE_OVERRIDE, PASSED, STOPPED
from tidegate.registry.store import PAGE, StoredDecision
from tidegate.registry.version import version_label

COMPARED = "compared"
"""Rule of the evidence that says what a version was compared with; no gate."""

UNGATED = "ungated"
OUTDATED = "outdated"

_BADNESS = (Verdict.SAFE, Verdict.UNDECIDED, Verdict.REGRESSED, Verdict.INVALID)


class Override(msgspec.Struct, frozen=True):
    """A person's word that one gate's verdict does not count. It is never removed.

    Attributes:
        gate: Name of the gate.
        verdict: What the gate had said.
        by: Name of the principal.
        reason: In their words.
        at_us: When, microseconds UTC.
        decision: Number of the decision.
    """

    gate: str
    verdict: str
    by: str
    reason: str
    at_us: int
    decision: int


class Finding(msgspec.Struct, frozen=True):
    """What one gate said.

    Attributes:
        gate: Its name.
        verdict: `safe`, `regressed`, `undecided` or `invalid`.
        reason: In words.
        applies: Whether it had anything to look at.
        override: Why its verdict does not count; None where it does.
    """

    gate: str
    verdict: Verdict
    reason: str
    applies: bool = True
    override: Override | None = None

    @property
    def stops(self) -> bool:
        """Whether the version stops here."""
        return self.verdict is not Verdict.SAFE and self.override is None


class GateState(msgspec.Struct, frozen=True):
    """Where a version stands with its gates.

    Attributes:
        service: Name of the service.
        version: Number of the version.
        outcome: `passed`, `stopped`, `ungated` where it has not met them, or `outdated` where it passed
            them beside a version that is no longer the champion.
        decision: Number of the decision that holds the evidence; None where there is none.
        champion: The version it was compared with; None without one.
        at_us: When, microseconds UTC; 0 where it was not.
        note: What is to be known of the rows it was compared on: which ones, and what was left out.
        findings: What each gate said.
        overrides: Every override of this version, in force or not, oldest first.
    """

    service: str
    version: int
    outcome: str = UNGATED
    decision: int | None = None
    champion: int | None = None
    at_us: int = 0
    note: str = ""
    findings: tuple[Finding, ...] = ()
    overrides: tuple[Override, ...] = ()

    @property
    def passed(self) -> bool:
        return self.outcome == PASSED

    @property
    def stopped_by(self) -> tuple[str, ...]:
        """The gates that stop it."""
        return tuple(finding.gate for finding in self.findings if finding.stops)

    @property
    def words(self) -> str:
        """The same in one sentence."""
        label = version_label(self.service, self.version)
        if self.outcome == UNGATED:
            return f"{label} has not been through its gates."
        if self.outcome == OUTDATED:
            then = "without a champion" if self.champion is None else f"beside version {self.champion}"
            return f"{label} passed its gates {then}, and the champion is another now: gate it again."
        beside = "" if self.champion is None else f", beside version {self.champion}"
        if self.passed:
            waived = [finding.gate for finding in self.findings if finding.override is not None]
            return f"{label} passed its gates{beside}" + (
                f", {', '.join(waived)} by override." if waived else "."
            )
        return f"{label} was stopped by {', '.join(self.stopped_by)}{beside}."


def gate_state(unit: UnitOfWork, service: str, version: int, *, champion: int | None = None) -> GateState:
    """Return where a version stands with its gates: its last decision, and the overrides since and before.

    An override counts for the verdict it was given on, or a better one: of a gate that was undecided
    and was overridden, a later `regressed` stops the version again.

    Args:
        unit: The metadata database.
        service: Name of the service.
        version: Number of the version.
        champion: The version that has the traffic now, which it has to have been compared with; None:
            whichever it was.
    """
    overrides = tuple(map(_override, _all(unit, service, GATE_OVERRIDE, version)))
    stored = _last(unit, service, GATE, version)
    if stored is None:
        return GateState(service, version, overrides=overrides)
    state = state_of(stored, overrides)
    if state.passed and champion is not None and champion not in (state.champion, version):
        return msgspec.structs.replace(state, outcome=OUTDATED)
    return state


def state_of(stored: StoredDecision, overrides: Sequence[Override] = ()) -> GateState:
    """Return what a gate decision says, with overrides."""
    decision = stored.decision
    assert decision.version is not None
    compared = next((each for each in decision.evidence if each.rule == COMPARED), None)
    findings = tuple(
        _finding(evidence, overrides) for evidence in decision.evidence if evidence.rule in NAMES
    )
    return GateState(
        service=decision.service,
        version=decision.version,
        outcome=STOPPED if any(finding.stops for finding in findings) else PASSED,
        decision=stored.id,
        champion=None if compared is None else compared.observed.get("champion"),
        at_us=decision.at_us,
        note="" if compared is None else compared.observed.get("note", ""),
        findings=findings,
        overrides=tuple(overrides),
    )


def record_gates(
    unit: UnitOfWork,
    *,
    service: str,
    version: int,
    evidence: Sequence[Evidence],
    principal: Principal,
    key: str,
    clock: Clock,
) -> GateState:
    """Keep what the gates found as one decision, and return where the version then stands.

    Raises:
        Conflict: The key was used for something else.
        StoreUnavailable: The database cannot be reached; nothing was kept.
    """
    overrides = gate_state(unit, service, version).overrides
    findings = [_finding(each, overrides) for each in evidence if each.rule in NAMES]
    stops = [finding.gate for finding in findings if finding.stops]
    decision = Decision(
        kind=GATE,
        service=service,
        version=version,
        outcome=STOPPED if stops else PASSED,
        principal=principal,
        at_us=clock.wall_us(),
        reason=f"stopped by {', '.join(stops)}" if stops else "",
        evidence=list(evidence),
    )
    stored = record_decision(unit, decision, key=key, clock=clock).result
    return state_of(stored, overrides)


def override(
    unit: UnitOfWork,
    *,
    service: str,
    version: int,
    gate: str,
    reason: str,
    principal: Principal,
    key: str,
    clock: Clock,
) -> GateState:
    """Say that one gate's verdict on a version does not count. It shows for ever.

    Raises:
        NotFound: The version has not met its gates.
        InvalidSetting: There is no such gate, no reason, or nothing to override.
        Conflict: The key was used for something else.
    """
    check_gate(gate)
    if not reason.strip():
        raise InvalidSetting(
            f"The gate {gate!r} is not overridden without a reason.", hint="Say why: --reason TEXT."
        )
    state = gate_state(unit, service, version)
    finding = next((each for each in state.findings if each.gate == gate), None)
    if finding is None:
        raise NotFound(
            f"{version_label(service, version)} has no verdict of the gate {gate!r} to override.",
            hint=f"Run its gates first: tidegate gate {version_label(service, version)}.",
            gate=gate,
        )
    if finding.verdict is Verdict.SAFE:
        raise InvalidSetting(f"The gate {gate!r} stops nothing: {finding.reason}.", gate=gate)
    passes = all(other.gate == gate or not other.stops for other in state.findings)
    evidence = Evidence(
        rule=gate,
        verdict=finding.verdict,
        reason=finding.reason,
        observed={"decision": state.decision, PASSED: passes},
    )
    decision = Decision(
        kind=GATE_OVERRIDE,
        service=service,
        version=version,
        outcome=gate,
        principal=principal,
        at_us=clock.wall_us(),
        reason=reason.strip(),
        evidence=[evidence],
    )
    record_decision(unit, decision, key=key, clock=clock)
    return gate_state(unit, service, version)


def _finding(evidence: Evidence, overrides: Sequence[Override]) -> Finding:
    return Finding(
        gate=evidence.rule,
        verdict=evidence.verdict,
        reason=evidence.reason,
        applies=applies(evidence),
        override=_covering(evidence, overrides),
    )


def _covering(evidence: Evidence, overrides: Sequence[Override]) -> Override | None:
    """Return the override that a verdict is under: of this gate, and given on one at least as bad."""
    if evidence.verdict is Verdict.SAFE:
        return None
    bad = _BADNESS.index(evidence.verdict)
    covering = [
        each
        for each in overrides
        if each.gate == evidence.rule and _BADNESS.index(Verdict(each.verdict)) >= bad
    ]
    return covering[-1] if covering else None


def _override(stored: StoredDecision) -> Override:
    decision = stored.decision
    return Override(
        gate=decision.outcome,
        verdict=decision.evidence[0].verdict,
        by=decision.principal.name,
        reason=decision.reason,
        at_us=decision.at_us,
        decision=stored.id,
    )


def _last(unit: UnitOfWork, service: str, kind: str, version: int) -> StoredDecision | None:
    with unit.read() as transaction:
        return transaction.decisions.latest(service, kind=kind, version=version)


def _all(unit: UnitOfWork, service: str, kind: str, version: int) -> list[StoredDecision]:
    found: list[StoredDecision] = []
    while True:
        page = list_decisions(unit, service, kind=kind, version=version, after=found[-1].id if found else 0)
        found += page
        if len(page) < PAGE:
            return found
