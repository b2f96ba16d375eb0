"""Where a version stands follows from the decisions alone."""

from __future__ import annotations

from tidegate.core.decision import Decision, Evidence, Verdict
from tidegate.core.principal import Principal
from tidegate.registry.state import Stage, State, lifecycle
from tidegate.registry.store import StoredDecision

ANA = Principal("ana")


def route(stable=None, shadows=(), **arms):
    described = {name: {"version": version, "share": share} for name, (version, share) in arms.items()}
    if stable is not None:
        described["stable"] = {
            "version": stable,
            "share": 1 - sum(arm["share"] for arm in described.values()),
        }
    return {"arms": described, "shadows": list(shadows)}


class Story:
    """Decisions one after another."""

    def __init__(self):
        self.decisions = []
        self.route = route()

    def decide(self, kind, outcome="committed", *, version=None, evidence=()):
        number = len(self.decisions) + 1
        decision = Decision(kind, "flights", outcome, ANA, 1_000 * number, version, "", list(evidence))
        self.decisions.append(StoredDecision(number, decision))

    def move(self, kind, to, version=None):
        seen = Evidence("route-changed", Verdict.SAFE, observed={"from": self.route, "to": to})
        self.route = to
        self.decide(kind, version=version, evidence=[seen])

    def gate(self, version, outcome, verdict=Verdict.SAFE):
        self.decide("gate", outcome, version=version, evidence=[Evidence("champion", verdict)])

    def stages(self):
        return {number: state.stage for number, state in lifecycle(self.decisions).items()}


def test_a_version_goes_from_candidate_to_champion_and_retires():
    story = Story()
    story.move("first-deployment", route(stable=1))
    story.gate(2, "passed")
    assert story.stages() == {1: Stage.CHAMPION, 2: Stage.GATED}

    story.move("release", route(stable=1, shadows=[2]))
    assert story.stages()[2] is Stage.SHADOW
    story.move("release", route(stable=1, candidate=(2, 0.05)))
    assert story.stages() == {1: Stage.CHAMPION, 2: Stage.CANARY}
    story.move("release", route(stable=2, shadows=[1]))  # the old one shadows until outcomes are in
    assert story.stages() == {1: Stage.RETIRED, 2: Stage.CHAMPION}
    story.move("release", route(stable=2))
    assert story.stages() == {1: Stage.RETIRED, 2: Stage.CHAMPION}


def test_what_is_taken_back_is_rolled_back_until_a_person_clears_it():
    story = Story()
    story.move("first-deployment", route(stable=1))
    story.gate(2, "passed")
    story.move("switch", route(stable=2))
    story.move("rollback", route(stable=1))
    assert story.stages() == {1: Stage.CHAMPION, 2: Stage.ROLLED_BACK}

    story.decide("clear-latch", version=2)
    assert story.stages()[2] is Stage.GATED


def test_a_canary_that_is_aborted_is_what_it_was_before():
    story = Story()
    story.move("first-deployment", route(stable=1))
    story.gate(2, "passed")
    story.move("release", route(stable=1, candidate=(2, 0.05)))
    story.move("release", route(stable=1))

    assert story.stages()[2] is Stage.GATED


def test_a_gate_that_found_it_worse_rejects_and_one_that_lacks_evidence_does_not():
    story = Story()
    story.gate(2, "stopped", Verdict.REGRESSED)
    story.gate(3, "stopped", Verdict.UNDECIDED)

    assert story.stages() == {2: Stage.REJECTED, 3: Stage.CANDIDATE}


def test_an_override_shows_for_ever_and_lets_pass_only_if_it_was_the_last():
    def waived(gate, passes):
        return [Evidence(gate, Verdict.REGRESSED, observed={"passed": passes})]

    story = Story()
    story.gate(2, "stopped", Verdict.REGRESSED)
    story.decide("gate-override", "latency", version=2, evidence=waived("latency", False))
    assert lifecycle(story.decisions)[2] == State(Stage.REJECTED, 1_000, 1, ("latency",), "stopped")
    story.decide("gate-override", "size", version=2, evidence=waived("size", True))
    story.move("switch", route(stable=2))
    story.move("switch", route(stable=3))

    assert lifecycle(story.decisions)[2] == State(Stage.RETIRED, 5_000, 5, ("latency", "size"), "passed")


def test_gates_that_a_champion_meets_again_do_not_unseat_it():
    story = Story()
    story.move("first-deployment", route(stable=1))
    story.gate(1, "stopped", Verdict.REGRESSED)

    state = lifecycle(story.decisions)[1]
    assert (state.stage, state.gates, state.decision) == (Stage.CHAMPION, "stopped", 1)


def test_a_person_may_reject():
    story = Story()
    story.gate(2, "passed")
    story.decide("rejection", "rejected", version=2)

    assert story.stages()[2] is Stage.REJECTED
