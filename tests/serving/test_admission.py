"""Who is let in while rows wait, by how much it matters and how long it may take."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate.contract.objective import Criticality, Limits
from tidegate.core.error import InvalidSetting
from tidegate.serving.admission import MAX_SLOWNESS, PATIENCE, Admission, Backlog
from tidegate.serving.bucket import TokenBuckets
from tidegate.serving.duration import DurationModel

MEASURED = {1: 2_000.0, 8: 3_000.0, 32: 6_000.0}
SHADOW, BATCH, NORMAL, CRITICAL = Criticality


def make(own: int = 0, **limits: object) -> tuple[Backlog, Admission]:
    backlog = Backlog(DurationModel(MEASURED), max_batch_rows=32)
    backlog.own = own
    return backlog, Admission(backlog, Limits(**limits))  # type: ignore[arg-type]


@given(st.floats(0.0001, 0.2), st.integers(1, 64))
def test_rows_within_a_time_are_the_most_whose_wait_is_no_longer(patience_s: float, batch: int) -> None:
    model = DurationModel(MEASURED)

    rows = model.rows_within(patience_s, max_batch_rows=batch)

    assert rows == 0 or model.wait_s(rows, max_batch_rows=batch) <= patience_s + 1e-9
    assert model.wait_s(rows + 1, max_batch_rows=batch) > patience_s - 1e-9


def test_an_idle_model_is_always_tried_however_slow_it_is() -> None:
    _, admission = make()

    assert admission.wait_s(0.0001, SHADOW) == 0.0


def test_refuses_what_would_be_answered_too_late_and_says_for_how_long() -> None:
    backlog, admission = make(own=400)

    wait_s = admission.wait_s(0.1, NORMAL)

    assert wait_s == pytest.approx(backlog.wait_s - PATIENCE[NORMAL] * 0.1, rel=0.01)
    assert admission.wait_s(10.0, NORMAL) == 0.0


def test_the_less_a_request_matters_the_earlier_it_is_refused() -> None:
    let_in = {}
    for criticality in Criticality:
        backlog, admission = make()
        while admission.wait_s(0.2, criticality) == 0.0:
            backlog.own += 1
        let_in[criticality] = backlog.own

    assert let_in[SHADOW] < let_in[BATCH] < let_in[NORMAL] < let_in[CRITICAL]


def test_a_standing_queue_lets_less_in_but_keeps_the_model_busy() -> None:
    backlog, admission = make(own=100)
    assert admission.wait_s(0.1, NORMAL) == 0.0

    backlog.told(100, standing=True)

    assert backlog.allowed_rows(0.1, NORMAL) == pytest.approx(5 * 32, abs=32)
    assert backlog.allowed_rows(0.01, NORMAL) >= 0
    assert admission.wait_s(0.1, SHADOW) > 0


def test_takes_it_that_other_workers_send_as_much_as_this_one() -> None:
    backlog, _ = make(own=10)
    backlog.told(30, peers=3)
    assert backlog.rows_ahead == 30

    backlog.own += 5
    backlog.pending += 2

    assert backlog.rows_ahead == 30 + 7 + 2 * 7


def test_counts_rows_of_the_turn_that_are_not_sent_yet() -> None:
    backlog, admission = make(max_waiting_rows=10)
    backlog.pending = 9
    assert admission.wait_s(60.0, NORMAL) == 0.0

    backlog.pending = 10

    assert admission.wait_s(60.0, NORMAL) > 0


def test_a_way_that_takes_longer_than_the_model_makes_for_less_patience() -> None:
    backlog, _ = make(own=50)
    before = backlog.allowed_rows(0.1, NORMAL)

    for _ in range(100):
        backlog.compare(0.01, 0.02)
    backlog.told(50)

    assert backlog.allowed_rows(0.1, NORMAL) == pytest.approx(before / MAX_SLOWNESS, rel=0.1)


def test_a_lost_runner_leaves_nothing_waiting() -> None:
    backlog, admission = make(own=10_000)
    backlog.told(10_000, standing=True, peers=4)
    assert admission.wait_s(1.0, NORMAL) > 0

    backlog.lose()

    assert backlog.rows_ahead == 0
    assert admission.wait_s(1.0, NORMAL) == 0.0


@pytest.mark.parametrize("limits", [{"criticality": "high"}, {"caller_rate_per_s": 0.0}, {"caller_burst": 0}])
def test_refuses_limits_that_make_no_sense(limits: dict[str, object]) -> None:
    with pytest.raises(InvalidSetting, match=next(iter(limits))):
        Limits(**limits)  # type: ignore[arg-type]


def test_a_caller_has_a_burst_then_its_rate_and_others_are_not_touched() -> None:
    buckets = TokenBuckets(10.0, 3)

    first = [buckets.take("a", 0.0) for _ in range(4)]

    assert first == [0.0, 0.0, 0.0, pytest.approx(0.1)]
    assert buckets.take("b", 0.0) == 0.0
    assert buckets.take("a", 0.11) == 0.0
    assert buckets.take("a", 0.12) == pytest.approx(0.08, abs=0.011)


def test_remembers_a_bounded_number_of_callers() -> None:
    buckets = TokenBuckets(1.0, 1, max_callers=10)

    for number in range(1000):
        buckets.take(str(number), 0.0)

    assert len(buckets._callers) == 10


@settings(max_examples=50)
@given(st.lists(st.floats(0.0, 0.3), min_size=1, max_size=80))
def test_a_caller_never_gets_more_than_burst_and_rate_allow(gaps_s: list[float]) -> None:
    buckets, now_s, taken = TokenBuckets(10.0, 5), 0.0, 0

    for gap_s in gaps_s:
        now_s += gap_s
        taken += buckets.take("a", now_s) == 0.0

    assert taken <= 5 + 10.0 * now_s + 1e-6
