"""Group differences equal the definition, and fairlearn's where it is installed; intervals hold together."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import polars as pl
import pytest

from tidegate.evaluation.fairness import Fairness, fairness
from tidegate.evaluation.metric import NotMeasurable

COMPAS = Path(__file__).parents[3] / "shared" / "data" / "compas_two_years.parquet"


def differences(found):
    return {each.difference.name: each for each in found.differences}


def test_figures_equal_hand_computed_values():
    outcomes = [1, 1, 0, 0, 1, 1, 0, 0, 0, 0]
    decided = [1, 0, 1, 0, 1, 1, 0, 0, 0, 1]
    groups = ["a", "a", "a", "a", "b", "b", "b", "b", "b", "b"]

    found = fairness(outcomes, decided, groups, attribute="kind")

    assert [(each.group, each.n_rows) for each in found.groups] == [("b", 6), ("a", 4)]
    of_a = {figure.name: figure.value for figure in found.groups[1].figures}
    assert of_a == {
        "selection_rate": 0.5,
        "true_positive_rate": 0.5,
        "false_positive_rate": 0.5,
        "accuracy": 0.5,
        "precision": 0.5,
    }
    by_name = differences(found)
    assert by_name["selection_rate"].difference.value == 0
    assert by_name["true_positive_rate"].difference.value == 0.5
    assert by_name["true_positive_rate"].largest == "b"
    assert by_name["false_positive_rate"].difference.value == 0.25
    assert by_name["equalized_odds"].difference.value == 0.5
    assert by_name["equalized_odds"].ratio == 0.5


@pytest.mark.skipif(not COMPAS.exists(), reason="the shared data folder is not here")
def test_compas_rates_are_those_that_propublica_published():
    table = pl.read_parquet(COMPAS, columns=["race", "two_year_recid", "decile_score"])
    table = table.filter(pl.col("race").is_in(["African-American", "Caucasian"]))

    found = fairness(
        table["two_year_recid"].to_numpy(),
        (table["decile_score"] >= 5).to_numpy(),
        table["race"].to_numpy(),
        attribute="race",
    )

    # "How We Analyzed the COMPAS Recidivism Algorithm", 2016: false positives 44.85 and 23.45%,
    # false negatives 27.99 and 47.72%
    rates = {each.group: {f.name: f.value for f in each.figures} for each in found.groups}
    assert rates["African-American"]["false_positive_rate"] == pytest.approx(0.4485, abs=5e-5)
    assert rates["Caucasian"]["false_positive_rate"] == pytest.approx(0.2345, abs=5e-5)
    assert 1 - rates["African-American"]["true_positive_rate"] == pytest.approx(0.2799, abs=5e-5)
    assert 1 - rates["Caucasian"]["true_positive_rate"] == pytest.approx(0.4772, abs=5e-5)
    assert differences(found)["equalized_odds"].difference.low > 0.15


@pytest.mark.skipif(not COMPAS.exists(), reason="the shared data folder is not here")
def test_compas_differences_equal_fairlearn():
    oracle = pytest.importorskip("fairlearn.metrics")
    table = pl.read_parquet(COMPAS, columns=["race", "two_year_recid", "decile_score"])
    outcomes = table["two_year_recid"].to_numpy()
    decided = (table["decile_score"] >= 5).to_numpy().astype(int)
    groups = table["race"].to_numpy()

    found = differences(fairness(outcomes, decided, groups, attribute="race"))

    for name, function, ratio in (
        ("selection_rate", oracle.demographic_parity_difference, oracle.demographic_parity_ratio),
        ("equalized_odds", oracle.equalized_odds_difference, oracle.equalized_odds_ratio),
    ):
        assert found[name].difference.value == pytest.approx(
            function(outcomes, decided, sensitive_features=groups), abs=1e-9
        )
        assert found[name].ratio == pytest.approx(
            ratio(outcomes, decided, sensitive_features=groups), abs=1e-9
        )


def test_intervals_of_all_figures_cover_together_as_often_as_stated():
    rng = np.random.default_rng(0)
    missed = 0
    for _ in range(40):  # three groups without any difference: every interval has to reach 0
        outcomes, decided = rng.uniform(size=(2, 600)) < 0.4
        found = fairness(outcomes, decided, rng.integers(0, 3, 600), attribute="kind")
        missed += any(each.difference.low > 0 for each in found.differences)

    assert missed <= 6


def test_real_difference_is_told_from_chance():
    rng = np.random.default_rng(1)
    group = rng.integers(0, 2, 3000)
    decided = rng.uniform(size=3000) < np.where(group == 1, 0.6, 0.4)

    found = differences(fairness(rng.uniform(size=3000) < 0.5, decided, group, attribute="kind"))

    assert 0 < found["selection_rate"].difference.low < 0.2 < found["selection_rate"].difference.high
    assert found["selection_rate"].largest == "1"


def test_group_too_small_is_listed_but_not_compared():
    found = fairness([1, 0, 1, 0, 1], [1, 0, 1, 0, 0], ["a", "a", "b", "b", None], attribute="k", min_rows=2)

    assert found.left_out == ("missing",)
    assert "missing" in {each.group for each in found.groups}
    assert "missing" not in {each.smallest for each in found.differences}


def test_one_group_has_no_differences_and_survives_json():
    found = fairness([1, 0], [0, 0], ["a", "a"], attribute="kind")

    assert found.differences == ()
    assert msgspec.json.decode(msgspec.json.encode(found), type=Fairness) == found


def test_decisions_that_are_probabilities_are_refused():
    with pytest.raises(NotMeasurable, match="Decisions"):
        fairness([1, 0], [0.3, 0.2], ["a", "b"], attribute="kind")
