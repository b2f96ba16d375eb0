"""When a failing version is left alone, and when it is asked again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tidegate.serving.breaker import Breaker


def make(draw: float = 0.5) -> Breaker:
    return Breaker(draw=lambda: draw)


def opened(draw: float = 0.5) -> Breaker:
    breaker = make(draw)
    for _ in range(10):
        breaker.fail(0.0)
    return breaker


def test_opens_when_half_of_the_last_twenty_calls_failed() -> None:
    breaker = make()

    for _ in range(9):
        breaker.fail(0.0)
    assert breaker.is_closed
    breaker.fail(0.0)

    assert not breaker.is_closed


def test_forgets_failures_that_twenty_calls_came_after() -> None:
    breaker = make()
    for _ in range(9):
        breaker.fail(0.0)

    breaker.succeed(20)
    for _ in range(9):
        breaker.fail(0.0)

    assert breaker.is_closed
    assert breaker.n_failed == 9


def test_an_open_one_lets_nothing_through_then_one_probe_at_a_time() -> None:
    breaker = opened()

    assert breaker.let_through(4.9) == 0
    assert breaker.let_through(5.1) == 1
    assert breaker.let_through(5.2) == 0
    breaker.succeed()
    assert breaker.let_through(5.3) == 1


def test_closes_after_three_good_probes_with_a_clean_window() -> None:
    breaker = opened()

    for step in range(3):
        assert not breaker.is_closed
        assert breaker.let_through(6.0 + step) == 1
        breaker.succeed()

    assert breaker.is_closed
    assert breaker.n_failed == 0


def test_a_failed_probe_opens_it_for_another_while() -> None:
    breaker = opened()
    assert breaker.let_through(6.0) == 1

    breaker.fail(6.1)

    assert breaker.let_through(11.0) == 0
    assert breaker.let_through(11.2) == 1


def test_a_probe_that_never_comes_back_is_replaced() -> None:
    breaker = opened()
    assert breaker.let_through(6.0) == 1

    assert breaker.let_through(11.1) == 1


def test_workers_do_not_probe_at_the_same_moment() -> None:
    early, late = opened(0.0), opened(0.999)

    assert early.let_through(4.1) == 1
    assert late.let_through(5.9) == 0


@given(st.lists(st.booleans(), max_size=200))
def test_counts_as_a_plain_window_would_until_it_opens(calls: list[bool]) -> None:
    breaker = make()
    plain = [False] * 20

    for failed in calls:
        if failed:
            breaker.fail(0.0)
        elif breaker.n_failed:
            breaker.succeed()
        plain = [*plain[1:], failed]
        assert breaker.is_closed == (sum(plain) < 10)
        if not breaker.is_closed:
            break
