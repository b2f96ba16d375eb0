"""Who is served next, who is refused instead, and what a simulated server gets done by it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.serving.simulation import Fifo, Limited, Ours, Policy, goodput
from tidegate.contract.objective import Criticality
from tidegate.serving.queue import CallQueue

CALL_S = 0.01


def make(max_batch_rows: int = 1, **more: float) -> CallQueue[str]:
    return CallQueue(max_batch_rows=max_batch_rows, call_s=lambda n_rows: CALL_S, **more)


def put(
    queue: CallQueue[str],
    names: str,
    *,
    at: float = 0.0,
    within: float = 1.0,
    rows: int = 1,
    how: Criticality = Criticality.NORMAL,
) -> None:
    for name in names:
        queue.put(name, n_rows=rows, deadline_s=at + within, now_s=at, criticality=how)


def stand(queue: CallQueue[str]) -> None:
    """Let the oldest in a queue have waited too long for long enough that it counts as standing."""
    put(queue, "x" * 90, within=0.4)
    for step in range(1, 21):
        queue.take(step * CALL_S)


def test_serves_in_the_order_of_arrival_whatever_the_criticality_while_there_is_no_overload() -> None:
    queue = make()
    put(queue, "a", how=Criticality.BATCH)
    put(queue, "b", how=Criticality.CRITICAL)

    assert queue.take(0.0).batch == ["a"]
    assert queue.take(0.0).batch == ["b"]


def test_fills_a_batch_up_to_its_rows() -> None:
    queue = make(4)
    put(queue, "abc", rows=1)
    put(queue, "d", rows=2)

    assert queue.take(0.0).batch == ["a", "b", "c"]
    assert queue.rows == 2


def test_leaves_out_whoever_cannot_be_answered_in_time_before_the_batch_is_formed() -> None:
    queue = make(2)
    put(queue, "a", within=0.05)
    put(queue, "bc")

    taken = queue.take(0.045)

    assert (taken.batch, taken.late) == (["b", "c"], ["a"])


def test_tries_one_of_the_hopeless_so_that_a_wrong_estimate_is_found_out() -> None:
    queue = make()
    put(queue, "ab", within=0.005)

    taken = queue.take(0.0)

    assert (taken.batch, taken.late) == (["a"], ["b"])


def test_does_not_let_a_batch_grow_past_the_first_deadline_in_it() -> None:
    queue: CallQueue[str] = CallQueue(max_batch_rows=8, call_s=lambda n_rows: 0.01 * n_rows)
    put(queue, "abcd", within=0.025)

    assert queue.take(0.0).batch == ["a", "b"]


def test_a_standing_queue_serves_the_newest_of_the_most_critical_first() -> None:
    queue = make(3)
    stand(queue)
    put(queue, "ab", at=0.22, how=Criticality.CRITICAL)
    put(queue, "cd", at=0.22)
    put(queue, "e", at=0.22, how=Criticality.SHADOW)

    taken = queue.take(0.22)

    assert taken.batch == ["a", "b", "d"]


def test_a_standing_queue_refuses_who_has_waited_for_a_good_part_of_his_time() -> None:
    queue = make()
    stand(queue)
    put(queue, "a", at=0.22)

    taken = queue.take(0.22)

    assert taken.batch == ["a"]
    assert set(taken.shed) == {"x"}
    assert len(queue) == 0


def test_a_burst_that_makes_some_wait_for_a_moment_is_no_overload() -> None:
    queue = make()
    put(queue, "x" * 18, within=0.4)  # the last ones wait for 0.18 s: too long, but not for an interval
    put(queue, "y" * 5, at=0.17, within=0.4)

    for step in range(1, 24):
        assert not queue.is_standing(step * CALL_S)
        taken = queue.take(step * CALL_S)
        assert (len(taken.batch), taken.late, taken.shed) == (1, [], [])


def test_a_queue_that_stood_begins_anew_when_it_has_been_empty() -> None:
    queue = make()
    stand(queue)
    assert queue.is_standing(0.21)
    queue.take(0.41)  # all the rest is late
    assert len(queue) == 0
    put(queue, "x" * 15, at=0.42, within=0.4)

    assert not queue.is_standing(0.5)
    assert not queue.is_standing(0.55)


def test_many_patient_callers_are_no_overload() -> None:
    queue = make()
    put(queue, "abcdefghijklmnopqrstuvwxyz", within=10.0)

    order = "".join(queue.take(step * CALL_S).batch[0] for step in range(26))

    assert order == "abcdefghijklmnopqrstuvwxyz"


def test_the_cancelled_are_neither_served_nor_reported() -> None:
    queue = make(4)
    entries = [queue.put(name, n_rows=1, deadline_s=1.0, now_s=0.0) for name in "abc"]

    queue.cancel(entries[1])
    queue.cancel(entries[1])

    assert queue.rows == 2
    taken = queue.take(0.0)
    assert (taken.batch, taken.late, taken.shed) == (["a", "c"], [], [])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.floats(0.0, 0.03),  # time to the next event
            st.sampled_from(["put", "put", "put", "take", "cancel"]),
            st.floats(0.001, 0.5),
            st.integers(1, 3),
            st.sampled_from(list(Criticality)),
        ),
        max_size=60,
    ),
    st.integers(1, 6),
)
def test_every_request_leaves_exactly_once(
    steps: list[tuple[float, str, float, int, int]], batch: int
) -> None:
    queue: CallQueue[int] = CallQueue(max_batch_rows=batch, call_s=lambda n_rows: CALL_S)
    now_s, left, rows = 0.0, [], {}
    entries = {}
    for number, (gap_s, what, within_s, n_rows, how) in enumerate(steps):
        now_s += gap_s
        if what == "put":
            rows[number] = n_rows
            entries[number] = queue.put(
                number, n_rows=n_rows, deadline_s=now_s + within_s, now_s=now_s, criticality=how
            )
        elif what == "take":
            taken = queue.take(now_s)
            assert len(taken.batch) == 1 or sum(rows[one] for one in taken.batch) <= batch
            assert taken.batch == sorted(taken.batch)
            left += [*taken.batch, *taken.late, *taken.shed]
        elif entries:
            victim, entry = entries.popitem()
            if victim not in left:
                queue.cancel(entry)
                left.append(victim)
        assert queue.rows == sum(n for one, n in rows.items() if one not in left)
    while len(queue):
        taken = queue.take(now_s)
        assert taken.batch or taken.late
        left += [*taken.batch, *taken.late, *taken.shed]
    assert sorted(left) == sorted(rows)


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (Fifo, (0.0, 0.0, 0.0, 0.0)),
        (Ours, (0.99, 0.96, 0.91, 0.98)),
        (Limited, (0.99, 0.96, 0.91, 0.96)),
    ],
    ids=["first in first out", "this queue", "gradient limit"],
)
def test_a_simulated_server_gets_done_under_overload_what_the_methods_say(
    policy: type[Policy], expected: tuple[float, ...]
) -> None:
    found = [goodput(policy(), overload) for overload in (2, 5, 10)]
    found.append(goodput(policy(), 2, slower=2))

    assert found == pytest.approx(expected, abs=0.04)


@pytest.mark.parametrize(("share", "expected"), [(0.01, 0.91), (0.05, 0.53)])
def test_the_cost_of_a_refusal_bounds_what_is_left_at_ten_times_the_capacity(
    share: float, expected: float
) -> None:
    assert goodput(Ours(), 10, refusal_share=share) == pytest.approx(expected, abs=0.03)
