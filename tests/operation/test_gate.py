"""Verdicts are kept, and a person may override one by name: for ever to be seen, and for no worse one."""

from __future__ import annotations

import pytest

from tidegate.core.clock import SystemClock
from tidegate.core.decision import Evidence, Verdict
from tidegate.core.error import InvalidSetting, NotFound
from tidegate.core.principal import Principal
from tidegate.operation.gate import COMPARED, gate_state, override, record_gates
from tidegate.operation.key import new_key
from tidegate.operation.state import version_states
from tidegate.registry.state import Stage

ANA = Principal("ana")


@pytest.fixture
def record(unit):
    def record(**verdicts):
        evidence = [Evidence(COMPARED, Verdict.SAFE, observed={"champion": 1})]
        named = {name.replace("_", "-"): verdict for name, verdict in verdicts.items()}
        evidence += [Evidence(name, verdict, f"{name} says so") for name, verdict in named.items()]
        return record_gates(
            unit,
            service="paint",
            version=2,
            evidence=evidence,
            principal=ANA,
            key=new_key(),
            clock=SystemClock(),
        )

    return record


def overrule(unit, gate, reason="I have looked"):
    return override(
        unit,
        service="paint",
        version=2,
        gate=gate,
        reason=reason,
        principal=Principal("eve"),
        key=new_key(),
        clock=SystemClock(),
    )


def test_all_safe_passes_and_says_beside_whom(unit, record):
    state = record(contract=Verdict.SAFE, latency=Verdict.SAFE)

    assert state.passed
    assert state.words == "paint@2 passed its gates, beside version 1."
    assert gate_state(unit, "paint", 2) == state
    assert version_states(unit, "paint")[2].stage is Stage.GATED


@pytest.mark.parametrize("verdict", [Verdict.UNDECIDED, Verdict.REGRESSED, Verdict.INVALID])
def test_anything_but_safe_stops(unit, record, verdict):
    state = record(contract=Verdict.SAFE, latency=verdict)

    assert not state.passed
    assert state.stopped_by == ("latency",)


def test_gates_beside_an_earlier_champion_are_outdated(unit, record):
    record(contract=Verdict.SAFE)

    assert gate_state(unit, "paint", 2, champion=1).passed
    assert gate_state(unit, "paint", 2, champion=2).passed
    outdated = gate_state(unit, "paint", 2, champion=3)
    assert not outdated.passed
    assert "gate it again" in outdated.words


def test_a_version_that_met_no_gate_has_not_passed(unit):
    state = gate_state(unit, "paint", 7)

    assert (state.passed, state.outcome) == (False, "ungated")


def test_an_override_lets_pass_and_shows_who_and_why_for_ever(unit, record):
    record(size=Verdict.REGRESSED, latency=Verdict.UNDECIDED)

    assert not overrule(unit, "size").passed
    state = overrule(unit, "latency", "measured by hand at night")

    assert state.passed
    assert state.words == "paint@2 passed its gates, beside version 1, size, latency by override."
    assert [(each.gate, each.by, each.verdict) for each in state.overrides] == [
        ("size", "eve", "regressed"),
        ("latency", "eve", "undecided"),
    ]
    assert version_states(unit, "paint")[2].stage is Stage.GATED
    again = record(size=Verdict.SAFE, latency=Verdict.SAFE)
    assert len(again.overrides) == 2
    assert version_states(unit, "paint")[2].overridden == ("size", "latency")


def test_an_override_of_undecided_does_not_cover_a_later_regression(unit, record):
    record(latency=Verdict.UNDECIDED)
    assert overrule(unit, "latency").passed

    assert record(latency=Verdict.UNDECIDED).passed
    assert not record(latency=Verdict.REGRESSED).passed


def test_what_cannot_be_overridden_is_said(unit, record):
    with pytest.raises(NotFound, match="no verdict"):
        overrule(unit, "latency")
    record(latency=Verdict.REGRESSED, size=Verdict.SAFE)
    with pytest.raises(InvalidSetting, match="without a reason"):
        overrule(unit, "latency", " ")
    with pytest.raises(InvalidSetting, match="stops nothing"):
        overrule(unit, "size")
    with pytest.raises(InvalidSetting, match="no gate 'speed'"):
        overrule(unit, "speed")
