"""When a loop stays awake for what comes next."""

from __future__ import annotations

import pytest

from tidegate.serving.vigil import Vigil

LIMIT_S = 100e-6
TURN_S = 3e-6


class Loop:
    """Turns of an event loop that take no more than a look each."""

    def __init__(self):
        self.now_s = 5.0
        self.n_looks = 0
        self._due = []

    def call_soon(self, function):
        self._due.append(function)

    def run(self, until_s):
        """Run what is due and comes to be due; sleep for the rest of the time. Return whether it slept."""
        while self._due and self.now_s < until_s:
            due, self._due = self._due, []
            self.now_s += TURN_S
            for function in due:
                self.n_looks += 1
                function()
        slept = self.now_s < until_s
        self.now_s = max(self.now_s, until_s)
        return slept


@pytest.fixture
def loop():
    return Loop()


@pytest.fixture
def wait(loop):
    """Wait for things that come after seconds; returns for which of them the loop slept."""
    vigil = Vigil(LIMIT_S, loop.call_soon, lambda: loop.now_s)

    def for_each(*waits_s):
        slept = []
        for wait_s in waits_s:
            vigil.begin()
            slept.append(loop.run(loop.now_s + wait_s))
            vigil.end()
            loop.run(loop.now_s + 50e-6)  # what came is served
        return slept

    return for_each


def test_a_loop_stays_awake_once_short_waits_are_known(wait):
    slept = wait(*[40e-6] * 40)

    assert slept == sorted(slept, reverse=True)
    assert 10 < sum(slept) < 20


def test_it_stays_awake_no_longer_than_the_limit(wait, loop):
    wait(*[40e-6] * 40)
    n_looks = loop.n_looks

    assert wait(1.0) == [True]
    assert (loop.n_looks - n_looks) * TURN_S <= LIMIT_S + TURN_S


def test_long_waits_end_the_vigil_and_short_ones_begin_it_again(wait):
    wait(*[40e-6] * 40)

    assert wait(*[1.0] * 3, 40e-6) == [True] * 4
    assert wait(*[40e-6] * 40)[-1] is False


@pytest.mark.parametrize("wait_s", [LIMIT_S * 1.1, 0.01, 2.0])
def test_long_waits_are_slept_through(wait, loop, wait_s):
    assert all(wait(*[wait_s] * 50))
    assert loop.n_looks == 0


def test_every_fourth_caller_slow_is_no_reason_to_stay_awake(wait, loop):
    wait(*[20e-6, 20e-6, 0.005, 20e-6] * 50)

    assert loop.n_looks == 0


def test_what_comes_unawaited_is_no_wait(loop):
    vigil = Vigil(LIMIT_S, loop.call_soon, lambda: loop.now_s)

    for _ in range(100):
        vigil.end()
    vigil.begin()

    assert loop.run(loop.now_s + 1.0)
    assert loop.n_looks == 0


def test_it_looks_once_a_turn_however_often_it_begins(loop):
    vigil = Vigil(LIMIT_S, loop.call_soon, lambda: loop.now_s)
    for _ in range(40):
        vigil.begin()
        loop.run(loop.now_s + 40e-6)
        vigil.end()

    for _ in range(100):  # another end is not told of in between
        vigil.begin()
        loop.run(loop.now_s + 10 * TURN_S)
    n_looks = loop.n_looks
    loop.run(loop.now_s + 10 * TURN_S)

    assert loop.n_looks - n_looks == 10
