"""Parity: what counts as the same model."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.contract.batch import Batch
from tidegate.contract.schema import Contract, DataType, Field, Schema
from tidegate.core.decision import Verdict
from tidegate.training.parity import ParityRefused, Tolerance, compare, require_parity

X = Schema((Field("x", DataType.FLOAT64),))
P = Field("p", DataType.FLOAT64, ge=0, le=1)
VALUE = Field("value", DataType.FLOAT64)
LABEL = Field("label", DataType.STRING)


class Fixed:
    """Answers what it was told."""

    def __init__(self, field, values):
        self.contract = Contract(X, Schema((field,)))
        self.column = np.array(values, object if field.type is DataType.STRING else None)

    def predict(self, batch):
        return Batch({self.contract.output.fields[0].name: self.column}, batch.n_rows)

    def warm_up(self): ...

    def close(self): ...


def parity(field, expected, got, **tolerance):
    rows = Batch.of({"x": np.zeros(len(expected))})
    return compare(Fixed(field, expected), Fixed(field, got), rows, tolerance=Tolerance(**tolerance))


def test_the_largest_difference_is_told_with_its_row_and_share():
    found = parity(P, [0.1, 0.2, 0.3, 0.4], [0.1, 0.2, 0.35, 0.41])

    output = found.outputs[0]
    assert not found.passed
    assert output.largest_absolute == pytest.approx(0.05)
    assert (output.worst_row, output.share_above) == (2, 0.5)
    assert "(row 2), 50.000% of 4 rows above tolerance" in found.describe()


def test_a_probability_is_judged_by_the_absolute_difference():
    assert parity(P, [1e-9], [9e-5]).passed
    assert not parity(P, [0.5], [0.5002]).passed


def test_another_number_is_judged_relative_to_its_size():
    assert parity(VALUE, [1e6, 2e6], [1e6 + 500, 2e6]).passed
    assert not parity(VALUE, [1e6, 2e6], [1e6 + 5000, 2e6]).passed
    assert parity(VALUE, [0.0, 5.0, 5.0], [1e-4, 5.0, 5.0]).passed  # near 0 beside larger ones


def test_labels_are_judged_by_the_share_that_differs():
    labels = ["a"] * 2000
    assert parity(LABEL, labels, ["b", *labels[1:]]).passed
    assert not parity(LABEL, labels, ["b"] * 3 + labels[3:]).passed
    assert not parity(LABEL, ["a", "b"], ["b", "b"]).passed


def test_nan_equals_nan_and_nothing_else():
    nan = float("nan")
    assert parity(VALUE, [nan, np.inf], [nan, np.inf]).passed
    assert parity(VALUE, [1.0], [nan]).outputs[0].largest_absolute == np.inf
    assert not parity(VALUE, [nan], [1.0]).passed


def test_vectors_are_judged_by_their_largest_element():
    field = Field("scores", DataType.FLOAT64, (2,), ge=0, le=1)
    found = parity(field, [[0.1, 0.9], [0.5, 0.5]], [[0.1, 0.9], [0.5, 0.6]])

    assert found.outputs[0].worst_row == 1
    assert found.largest == pytest.approx(0.1)


def test_rows_of_differing_length_are_compared_one_by_one():
    field = Field("scores", DataType.FLOAT64, (None,))

    def ragged(*rows):
        column = np.empty(len(rows), object)
        column[:] = [np.array(row) for row in rows]
        return column

    def found(got):
        one, two = Fixed(field, [0.0]), Fixed(field, [0.0])
        one.column, two.column = ragged([1.0], [1.0, 2.0]), got
        return compare(one, two, Batch.of({"x": np.zeros(2)}))

    assert found(ragged([1.0], [1.0, 2.0])).passed
    assert found(ragged([1.0], [1.0, 2.1])).outputs[0].worst_row == 1
    assert found(ragged([1.0], [1.0])).largest == np.inf


def test_a_refusal_says_what_differs_and_what_to_do():
    require_parity(parity(P, [0.5], [0.5]))

    with pytest.raises(ParityRefused, match=r"p: largest difference 0\.4.*float32 cannot hold"):
        require_parity(parity(P, [0.5], [0.9]), model="forest")


def test_the_evidence_holds_what_the_verdict_rests_on():
    evidence = parity(P, [0.5, 0.5], [0.9, 0.5], absolute=0.1).evidence(reference="a", candidate="b")

    assert (evidence.rule, evidence.verdict) == ("parity", Verdict.REGRESSED)
    assert evidence.parameters["absolute"] == 0.1
    assert evidence.statistic == pytest.approx(0.4)
    assert evidence.observed["outputs"][0]["worst_row"] == 0
    assert (evidence.observed["n_rows"], evidence.observed["candidate"]) == (2, "b")


@given(values=st.lists(st.floats(allow_nan=True, allow_infinity=True), min_size=1, max_size=20))
def test_a_model_always_equals_itself(values):
    found = parity(VALUE, values, values, relative=0.0)

    assert found.passed
    assert found.largest == 0.0


@given(
    pairs=st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=20),
    limit=st.floats(0, 1),
)
def test_the_verdict_is_that_no_row_is_above_the_limit(pairs, limit):
    expected, got = map(list, zip(*pairs, strict=True))
    differences = [abs(one - two) for one, two in pairs]

    found = parity(P, expected, got, absolute=limit)

    assert found.passed is (max(differences) <= limit)
    assert found.outputs[0].share_above == sum(d > limit for d in differences) / len(pairs)
