"""Servers are told apart by their own times, not by what else the machine does."""

from __future__ import annotations

import numpy as np
import pytest

from tidegate.core.decision import Verdict
from tidegate.gate import load
from tidegate.gate.declaration import Gates
from tidegate.gate.probe import Burst, CheckedInputs
from tidegate.gate.verdict import applies


class FakeProbe:
    """Two servers whose answers take what they are told, on a machine that is busy now and then."""

    def __init__(
        self,
        *,
        model=50.0,
        slow=1.0,
        extra_us=0.0,
        noise=0.5,
        seed=0,
        alone=False,
        failing=0,
        champion_failing=0,
    ):
        self.sides = ("candidate",) if alone else ("candidate", "champion")
        self.rng = np.random.default_rng(seed)
        self.model, self.slow, self.extra_us = model, slow, extra_us
        self.noise, self.failing, self.champion_failing = noise, failing, champion_failing
        self.n_asked = {"candidate": 0, "champion": 0}
        self.memory = {"candidate": 60 << 20, "champion": 50 << 20}

    def load(self, side, n_requests):
        self.n_asked[side] += n_requests
        slow = self.slow if side == "candidate" else 1.0
        extra = self.extra_us if side == "candidate" else 0.0
        model = self.model * slow * self.rng.normal(1, 0.03)
        latency = 400 + model + extra + self.rng.gamma(2.0, 40.0, n_requests)
        busy = self.rng.random() < self.noise
        if busy:  # another process takes the processor for some of them
            latency[self.rng.random(n_requests) < 0.03] += 4_000
        waited = 5_000.0 * busy + self.rng.random()
        failed = self.failing if side == "candidate" else self.champion_failing
        return Burst(latency.tolist(), model, failed, waited)

    def memory_bytes(self, side):
        return self.memory[side]

    def check(self):
        return CheckedInputs(4)


def measured(**options):
    return load.measure(FakeProbe(**options), Gates(), rng=np.random.default_rng(0))


def judged(**options):
    return load.latency(measured(**options), Gates(), rng=np.random.default_rng(0))


def test_two_alike_are_safe_on_a_busy_machine_too():
    verdicts = [judged(seed=seed, noise=0.6).verdict for seed in range(3)]

    assert verdicts == [Verdict.SAFE] * 3


def test_a_model_three_times_as_slow_regresses_although_answers_take_hardly_longer():
    found = judged(slow=3.0)

    assert found.verdict is Verdict.REGRESSED
    ratio, low, high = found.observed["model_ratio"]
    assert low > 1.5
    assert ratio == pytest.approx(3.0, rel=0.05)
    assert high < 3.5


def test_a_tiny_model_may_be_slower_by_what_nobody_feels():
    assert judged(model=4.0, slow=2.5).verdict is Verdict.SAFE


def test_answers_that_take_longer_on_their_way_regress():
    found = judged(extra_us=1_500.0)

    assert found.verdict is Verdict.REGRESSED
    assert found.observed["p99_ratio"][1] > 1.5


def test_what_is_clear_is_decided_at_the_first_look():
    probe = FakeProbe()
    load.measure(probe, Gates(), rng=np.random.default_rng(0))

    assert probe.n_asked["champion"] == (load.LOOKS[0] + load._WARM_BURSTS) * load.BURST_REQUESTS


def test_failed_requests_under_load_regress_unless_the_champion_s_fail_as_well():
    assert judged(failing=2).verdict is Verdict.REGRESSED
    assert judged(failing=2, champion_failing=2).verdict is Verdict.UNDECIDED


def test_alone_the_declared_objective_counts_and_without_one_nothing():
    alone = measured(alone=True)
    rng = np.random.default_rng(0)

    assert load.latency(alone, Gates(), rng=rng, objective_ms=25.0).verdict is Verdict.SAFE
    assert load.latency(alone, Gates(), rng=rng, objective_ms=0.1).verdict is Verdict.REGRESSED
    assert not applies(load.latency(alone, Gates(), rng=rng))


def test_memory_is_judged_by_its_ratio():
    found = measured()

    assert load.memory(found, Gates()).verdict is Verdict.SAFE
    assert load.memory(found, Gates(memory_ratio=1.1)).verdict is Verdict.REGRESSED
    assert load.memory(None, Gates(), why_not="no server").verdict is Verdict.UNDECIDED


def test_check_inputs_must_come_back_right_from_the_running_server():
    wrong = CheckedInputs(4, ("check input 0 gave p=0.1, expected 0.9",))

    assert load.check_inputs(CheckedInputs(4)).verdict is Verdict.SAFE
    assert load.check_inputs(wrong).verdict is Verdict.REGRESSED
    assert load.check_inputs(None).verdict is Verdict.UNDECIDED
    assert load.check_inputs(None, failed="version 2 cannot be served: ...").verdict is Verdict.REGRESSED
