"""Own regressions against others' and against the data they are drawn from."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge

from tidegate.contract.schema import DataType, Field, Schema
from tidegate.core.error import InvalidSetting
from tidegate.training.design import MAX_LEVELS, Design
from tidegate.training.linear import fit_linear, fit_logistic, probability


@pytest.fixture(scope="module")
def drawn():
    rng = np.random.default_rng(0)
    matrix = np.column_stack([np.ones(500), rng.normal(size=(500, 3))])
    odds = matrix @ [0.3, 1.0, -2.0, 0.0]
    return matrix, odds + rng.normal(size=500), (rng.random(500) < probability(odds)).astype(float)


def test_the_logistic_model_is_scikit_learn_s(drawn):
    matrix, _, happened = drawn
    theirs = LogisticRegression(C=1.0, tol=1e-10, max_iter=1000).fit(matrix[:, 1:], happened)

    beta = fit_logistic(matrix, happened, ridge=1.0)

    assert beta == pytest.approx([theirs.intercept_[0], *theirs.coef_[0]], abs=1e-5)


def test_the_linear_model_is_scikit_learn_s(drawn):
    matrix, target, _ = drawn
    theirs = Ridge(alpha=2.0).fit(matrix[:, 1:], target)

    beta = fit_linear(matrix, target, ridge=2.0)

    assert beta == pytest.approx([theirs.intercept_, *theirs.coef_], abs=1e-5)


@pytest.mark.parametrize("columns", [1, 3])
def test_separable_and_repeated_terms_have_a_finite_solution(columns):
    x = np.linspace(-1, 1, 40)
    matrix = np.column_stack([np.ones(40), *[x] * columns])

    beta = fit_logistic(matrix, (x > 0).astype(float))

    assert np.isfinite(beta).all()
    assert (probability(matrix @ beta) > 0.5).tolist() == (x > 0).tolist()


def test_probabilities_of_enormous_odds_are_certain():
    assert probability(np.array([-1e6, 0.0, 1e6])).tolist() == [0.0, 0.5, 1.0]


SCHEMA = Schema(
    (
        Field("x", DataType.FLOAT64, optional=True),
        Field("n", DataType.INT64),
        Field("who", DataType.STRING),
        Field("flag", DataType.BOOL),
    )
)


def test_numbers_are_scaled_gaps_marked_and_texts_spread():
    columns = {
        "x": np.array([1.0, np.nan, 3.0]),
        "n": np.array([5, 5, 5]),
        "who": np.array(["a", "b", "a"], object),
        "flag": np.array([True, False, True]),
    }

    design = Design(SCHEMA, columns)
    matrix = design.matrix(columns | {"who": np.array(["a", "new", None], object)})

    assert matrix[:, 0].tolist() == [1, 1, 1]
    assert matrix[:, 1:3].tolist() == [[-1, 0], [0, 1], [1, 0]]
    assert matrix[:, 3].tolist() == [0, 0, 0]
    assert matrix[:, -2:].tolist() == [[1, 0], [0, 0], [0, 0]]


def test_rare_texts_get_no_column():
    values = np.array([f"v{number}" for number in range(500)], object)

    matrix = Design(SCHEMA, {"who": values}).matrix({"who": values})

    assert matrix.shape == (500, 1 + MAX_LEVELS)


def test_rows_without_any_field_of_the_contract_are_refused():
    with pytest.raises(InvalidSetting, match="x, n, who, flag"):
        Design(SCHEMA, {"y": np.zeros(3)})
