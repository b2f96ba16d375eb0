"""What an experiment measures is known from its own decision, and from no other's."""

from __future__ import annotations

import msgspec

from tests.release.fleet import SteppedClock
from tests.release.test_experiment import arm, end, start
from tests.release.test_rollback import serving
from tidegate.core.decision import Evidence, Verdict
from tidegate.operation.decide import record_decision
from tidegate.operation.experiment import MEASURED, running


def keep(unit, decision, outcome):
    what = Evidence(MEASURED, Verdict.UNDECIDED, parameters={"outcome": outcome, "horizon_s": 5})
    whole = msgspec.structs.replace(decision, evidence=[*decision.evidence, what])
    record_decision(unit, whole, key=outcome, clock=SteppedClock())


def test_nothing_is_counted_before_its_decision_is_kept_not_even_by_that_of_an_earlier_one(unit):
    fleet = serving(1)
    keep(unit, start(fleet, arm("b", 2, 0.5)), "clicked")
    first, _ = running(unit, fleet.route)
    end(fleet)
    decision = start(fleet, arm("b", 2, 0.5))

    early, _ = running(unit, fleet.route)
    keep(unit, decision, "bought")
    second, measured = running(unit, fleet.route)

    assert first.since_us > 0
    assert early.since_us == 0
    assert second.since_us == decision.at_us
    assert second.id != first.id
    assert measured.outcome == "bought"
