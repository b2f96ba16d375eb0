from datetime import timedelta

import pytest

from tests.feature import oracle
from tidegate.feature.aggregate import MAX_STEPS, count, figure, mean, rate
from tidegate.feature.transform import InvalidFeatureData, prepare

HOUR = timedelta(hours=1)


def test_figures_leave_out_what_has_no_value():
    assert figure(count(HOUR), [None, 1]) == 2
    assert figure(mean("x", HOUR, steps_per_unit=10), [None, 5, 10]) == 0.75
    assert figure(rate("x", HOUR), [1, 0, None, 0, 0]) == 0.25


def test_figures_of_nothing_are_none_but_the_count():
    assert figure(count(HOUR), []) == 0
    assert figure(mean("x", HOUR), []) is None
    assert figure(rate("x", HOUR), [None]) is None


def test_value_too_large_for_exact_sums_is_refused():
    row = oracle.Row("a", 0, 1, None, 1, MAX_STEPS / 1e6 * 1.1, True)

    with pytest.raises(InvalidFeatureData, match=r"'value' .* more than"):
        prepare(oracle.aggregate_view(), oracle.table([row]))


def test_mean_is_rounded_to_its_steps():
    row = oracle.Row("a", 0, 1, None, 1, 0.12345678, True)

    assert prepare(oracle.aggregate_view(), oracle.table([row]))["value/1000000"].to_list() == [123457]
