"""What records alone tell of a version."""

from __future__ import annotations

import numpy as np
import pytest

from tidegate.contract.field import DataType, Field
from tidegate.contract.schema import Contract, Schema
from tidegate.core.decision import Evidence, Verdict
from tidegate.gate import record
from tidegate.gate.declaration import Gates
from tidegate.gate.verdict import applies

X = Field("x", DataType.FLOAT64, unit="mile")
Z = Field("z", DataType.FLOAT64, optional=True)
DAY_US = 86_400_000_000


def contract_of(*fields):
    return Contract(Schema(fields), Schema((Field("y", DataType.FLOAT64),)))


def test_callers_of_the_champion_must_be_able_to_go_on():
    champion = contract_of(X, Z)

    assert record.contract(champion, champion).verdict is Verdict.SAFE
    assert not applies(record.contract(champion, None))
    dropped = record.contract(contract_of(X), champion)
    assert dropped.verdict is Verdict.REGRESSED
    assert "z" in dropped.reason


def test_a_feature_that_knows_the_outcome_regresses_until_a_person_has_explained_it():
    leak = {"kind": "answer", "column": "dep_delay", "figure": 0.9, "message": "'dep_delay' alone ..."}

    assert record.leaks([leak], Gates()).verdict is Verdict.REGRESSED
    assert record.leaks([leak], Gates(known_leaks=("dep_delay",))).verdict is Verdict.SAFE
    assert record.leaks([], Gates()).verdict is Verdict.SAFE
    assert record.leaks(None, Gates(), why_not="no rows").verdict is Verdict.UNDECIDED


def distances(seed, n=5_000):
    """Few and heavy values, as distances between airports are, in a mix that changes."""
    rng = np.random.default_rng(seed)
    places = np.random.default_rng(7).integers(100, 2_500, 60)
    weights = np.random.default_rng(7).random(60) * rng.uniform(0.9, 1.1, 60)
    return rng.choice(places, n, p=weights / weights.sum()).astype(np.int64)


def test_miles_that_became_kilometres_are_seen_through_another_mix_of_distances():
    found = record.units({"x": np.rint(distances(1) * 1.609344)}, {"x": distances(2)}, Gates())

    assert found.verdict is Verdict.REGRESSED
    assert found.observed["scaled"]["x"] == pytest.approx(1.61, abs=0.02)


@pytest.mark.parametrize("factor", [1 / 1000, 1 / 2.54, 1.609344, 60.0, 100.0])
def test_any_unit_of_a_smooth_column_is_seen_and_its_own_is_not(factor):
    drawn = [np.random.default_rng(seed).gamma(2.0, 50.0, (2, 3_000)) for seed in range(40)]

    scales = [record.scale(one * factor, two) for one, two in drawn]
    own = [record.scale(one, two) for one, two in drawn]

    assert scales == pytest.approx([factor] * 40, rel=0.2)
    assert own == pytest.approx([1.0] * 40, abs=0.16)


def test_a_drift_that_no_unit_explains_is_no_change_of_unit():
    rng = np.random.default_rng(0)
    before, after = rng.normal(100, 20, 5_000), rng.normal(160, 20, 5_000)

    assert record.scale(after, before) == 1.0
    assert record.scale(distances(1), distances(2)) == pytest.approx(1.0, abs=0.05)


def test_parity_is_what_registration_found():
    refused = Evidence(rule="parity", verdict=Verdict.REGRESSED, reason="p: largest difference 0.3")

    assert record.parity(refused, "onnx").verdict is Verdict.REGRESSED
    assert not applies(record.parity(None, "skops"))


@pytest.mark.parametrize(
    ("size", "champion", "limit", "verdict"),
    [
        (100, None, None, Verdict.SAFE),
        (100, 50, None, Verdict.SAFE),
        (200, 50, None, Verdict.REGRESSED),
        (100, None, 99, Verdict.REGRESSED),
    ],
)
def test_size_is_bounded_by_the_champion_s_and_by_a_limit(size, champion, limit, verdict):
    assert record.size(size, champion, Gates(size_limit_bytes=limit)).verdict is verdict


@pytest.mark.parametrize(
    ("newest", "champion", "options", "verdict"),
    [
        (90, None, {}, Verdict.SAFE),
        (90, None, {"max_data_age_s": 86_400.0 * 5}, Verdict.REGRESSED),
        (97, None, {"max_data_age_s": 86_400.0 * 5}, Verdict.SAFE),
        (60, 95, {}, Verdict.REGRESSED),
        (90, 95, {}, Verdict.SAFE),
        (200, None, {}, Verdict.INVALID),
        (None, None, {"max_data_age_s": 86_400.0}, Verdict.UNDECIDED),
    ],
)
def test_data_must_be_young_enough(newest, champion, options, verdict):
    times = [None if day is None else day * DAY_US for day in (newest, champion)]

    assert record.data_age(*times, Gates(**options), now_us=100 * DAY_US).verdict is verdict


def test_a_card_is_complete_or_asks_for_what_is_missing():
    assert record.card([]).verdict is Verdict.SAFE
    assert "owner" in record.card(["owner"]).reason
