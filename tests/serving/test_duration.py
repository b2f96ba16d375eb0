"""What a call will take, and how that follows what calls took."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.serving.duration import DurationModel

MEASURED = {1: 2_000.0, 8: 3_000.0, 32: 6_000.0}


@pytest.mark.parametrize(
    ("n_rows", "expected_s"), [(1, 0.002), (8, 0.003), (20, 0.0045), (32, 0.006), (64, 0.012)]
)
def test_predicts_between_and_beyond_what_was_measured(n_rows: int, expected_s: float) -> None:
    assert DurationModel(MEASURED).call_s(n_rows) == pytest.approx(expected_s)


def test_counts_full_batches_and_the_rest_for_whoever_waits() -> None:
    model = DurationModel(MEASURED)

    assert model.wait_s(0, max_batch_rows=32) == pytest.approx(0.002)
    assert model.wait_s(64, max_batch_rows=32) == pytest.approx(2 * 0.006 + 0.002)


def test_follows_a_model_that_slows_down_and_recovers() -> None:
    model = DurationModel(MEASURED)

    for _ in range(20):
        model.observe(8, 0.009)
    slow_s = model.call_s(32)
    for _ in range(20):
        model.observe(32, 0.006)

    assert slow_s == pytest.approx(0.018, rel=0.05)
    assert model.call_s(8) == pytest.approx(0.003, rel=0.05)


def test_is_not_carried_away_by_one_delayed_call() -> None:
    model = DurationModel(MEASURED)

    model.observe(1, 10.0)

    assert model.call_s(1) < 2 * 0.002


def test_predicts_nothing_before_the_first_call_of_an_unmeasured_model() -> None:
    model = DurationModel({})
    assert model.wait_s(100, max_batch_rows=8) == 0.0

    model.observe(4, 0.004)

    assert model.call_s(8) == pytest.approx(0.008)


@given(st.integers(0, 500), st.integers(1, 64))
def test_never_promises_a_later_row_an_earlier_answer(ahead: int, batch: int) -> None:
    model = DurationModel(MEASURED)

    assert model.wait_s(ahead + batch, max_batch_rows=batch) > model.wait_s(ahead, max_batch_rows=batch)
