"""Damage and broken rules are found where they were planted, and nowhere else."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from tidegate.core.error import InvalidSetting
from tidegate.evaluation.declaration import Invariant, Monotone
from tidegate.evaluation.metric import NotMeasurable
from tidegate.evaluation.robustness import (
    RuleFinding,
    check_rule,
    robustness,
)


def columns(n_rows=400):
    rng = np.random.default_rng(0)
    return {
        "distance": rng.uniform(1, 100, n_rows),
        "seats": rng.integers(1, 9, n_rows),
        "carrier": rng.choice(np.array(["AA", "UA"], dtype=object), n_rows),
    }


def price(rows):
    known = {"AA": 10.0, "UA": 20.0}
    return rows["distance"] * 2 + np.array([known[each] for each in rows["carrier"]])


def by_damage(found):
    return {(each.column, each.damage): each for each in found}


def test_each_column_is_damaged_in_the_ways_of_its_type():
    found = by_damage(robustness(price, columns(), rng=np.random.default_rng(1)))

    assert set(found) == {
        ("distance", "noise"),
        ("distance", "missing"),
        ("seats", "noise"),
        ("carrier", "missing"),
        ("carrier", "unseen"),
    }
    assert found["carrier", "unseen"].refused == "KeyError"
    assert found["carrier", "unseen"].change is None
    assert found["distance", "missing"].n_unusable == 400
    assert found["distance", "missing"].change is None
    assert found["seats", "noise"].change.value == 0


def test_change_under_noise_is_the_models_slope_times_the_noise():
    given = columns(2000)

    found = by_damage(robustness(price, given, rng=np.random.default_rng(1)))

    expected = 2 * 0.1 * given["distance"].std() * np.sqrt(2 / np.pi)
    change = found["distance", "noise"].change
    assert change.low < expected < change.high


def test_flipped_decisions_are_counted_at_the_threshold():
    found = by_damage(
        robustness(
            lambda rows: np.nan_to_num(rows["distance"]),
            columns(),
            rng=np.random.default_rng(1),
            threshold=50.0,
        )
    )

    share_above = (columns()["distance"] >= 50).mean()
    assert found["distance", "missing"].flipped.value == pytest.approx(share_above)
    assert found["seats", "noise"].flipped.value == 0


def test_labels_that_change_are_counted():
    def label(rows):
        return np.where(rows["carrier"] == "AA", "early", "late").astype(object)

    found = by_damage(robustness(label, columns(), rng=np.random.default_rng(1)))

    assert found["carrier", "missing"].change.value == pytest.approx((columns()["carrier"] == "AA").mean())


def test_rules_that_are_kept_hold_with_an_interval_above_zero():
    rising = check_rule(price, columns(), Monotone("distance", "rising"), rng=np.random.default_rng(1))
    seats = check_rule(price, columns(), Invariant("seats"), rng=np.random.default_rng(1))

    assert rising.held
    assert seats.held
    assert rising.violations.value == 0
    assert rising.violations.high == pytest.approx(1 - 0.025 ** (1 / 400))


def test_broken_rules_name_the_worst_row_and_by_how_much():
    falling = check_rule(price, columns(), Monotone("distance", "falling"), rng=np.random.default_rng(1))
    carrier = check_rule(price, columns(), Invariant("carrier"), rng=np.random.default_rng(1))

    assert not falling.held
    assert falling.violations.value == 1
    assert falling.largest == pytest.approx(2 * np.ptp(columns()["distance"]))
    assert carrier.largest == pytest.approx(10)
    assert 0 <= carrier.worst_row < 400
    assert msgspec.json.decode(msgspec.json.encode(falling), type=RuleFinding) == falling


def test_dip_between_quantiles_is_seen_from_the_rows_own_value():
    given = {"x": np.linspace(0, 1, 101)}

    def dips(rows):
        return np.where(np.abs(rows["x"] - 0.4) < 1e-9, -1.0, rows["x"])

    found = check_rule(dips, given, Monotone("x", "rising"), rng=np.random.default_rng(0))

    assert found.worst_row == 40
    assert found.violations.value == pytest.approx(1 / 101)


def test_fall_from_a_peak_is_measured_from_the_peak():
    given = {"x": np.linspace(0, 1, 101)}

    found = check_rule(
        lambda rows: -np.square(rows["x"] - 0.5), given, Monotone("x", "rising"), rng=np.random.default_rng(0)
    )

    assert found.violations.value == 1
    assert found.largest == pytest.approx(0.25)


def test_tolerance_forgives_small_changes():
    found = check_rule(price, columns(), Invariant("carrier", tolerance=10.5), rng=np.random.default_rng(1))

    assert found.held


def test_rule_on_an_unknown_or_unfit_column_is_refused():
    with pytest.raises(InvalidSetting, match="no column"):
        check_rule(price, columns(), Invariant("colour"), rng=np.random.default_rng(1))
    with pytest.raises(InvalidSetting, match="numbers"):
        check_rule(price, columns(), Monotone("carrier", "rising"), rng=np.random.default_rng(1))


def test_no_rows_and_unusable_models_are_refused():
    with pytest.raises(NotMeasurable, match="no rows"):
        robustness(price, {}, rng=np.random.default_rng(1))
    with pytest.raises(NotMeasurable, match="one prediction a row"):
        robustness(lambda rows: np.zeros(3), columns(), rng=np.random.default_rng(1))
    with pytest.raises(NotMeasurable, match="finite"):
        robustness(lambda rows: rows["distance"] * np.nan, columns(), rng=np.random.default_rng(1))
