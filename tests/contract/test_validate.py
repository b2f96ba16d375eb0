import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate.contract.batch import Batch
from tidegate.contract.field import DataType, Field
from tidegate.contract.schema import Schema
from tidegate.contract.validate import Validator
from tidegate.testing import strategy

P = Field("p", DataType.FLOAT64, ge=0.0, le=1.0)
SIZES = (1, 8, 9, 40)
"""Either side of where the check changes from Python's numbers to numpy's."""


def objects(*values):
    column = np.empty(len(values), dtype=object)
    column[:] = values
    return column


def violations(field, column, *, n_rows=None):
    batch = Batch({field.name: column}, len(column) if n_rows is None else n_rows)
    return Validator(Schema((field,))).violations(batch)


@settings(max_examples=40)
@given(st.data(), strategy.schemas())
def test_right_batch_has_no_violations(data, schema):
    assert Validator(schema).violations(data.draw(strategy.batches(schema))) == []


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, -0.1, 1.1])
def test_wrong_number_is_found_with_its_row(size, bad):
    column = np.full(size, 0.5)
    column[size - 1] = bad

    (violation,) = violations(P, column)

    assert (violation.field, violation.row) == ("p", size - 1)
    assert violation.message.startswith(f"Field 'p' of row {size - 1} must be a number in [0, 1]. Got ")


@pytest.mark.parametrize("size", SIZES)
def test_bounds_themselves_are_right(size):
    column = np.linspace(0.0, 1.0, size)

    assert violations(P, column) == []


@pytest.mark.parametrize("size", SIZES)
def test_nan_is_right_where_the_field_is_optional(size):
    field = Field("p", DataType.FLOAT64, optional=True)

    assert violations(field, np.full(size, np.nan)) == []
    assert len(violations(field, np.full(size, np.inf))) == min(size, 10)


@pytest.mark.parametrize("size", SIZES)
def test_infinity_is_wrong_even_without_a_range(size):
    column = np.zeros(size)
    column[0] = -np.inf

    assert len(violations(Field("x", DataType.FLOAT64), column)) == 1


def test_bound_of_a_narrow_float_is_rounded_as_its_values_are():
    field = Field("x", DataType.FLOAT32, ge=0.1, lt=1.0)

    assert violations(field, np.array([0.1], dtype=np.float32)) == []
    assert len(violations(field, np.array([1.0], dtype=np.float32))) == 1


@pytest.mark.parametrize(
    ("column", "problem"),
    [
        (np.zeros(3, np.float32), "must have dtype float64, not float32"),
        (np.zeros((3, 1)), "must have shape [3], not [3, 1]"),
        (np.zeros(2), "must have shape [3], not [2]"),
    ],
)
def test_wrong_dtype_shape_or_length_is_a_violation(column, problem):
    (violation,) = violations(P, column, n_rows=3)

    assert violation.message == f"Field 'p' {problem}."


def test_missing_column_is_a_violation():
    (violation,) = Validator(Schema((P,))).violations(Batch({}, 1))

    assert violation.message == "Field 'p' is missing."


def test_violations_of_all_fields_are_listed_up_to_ten():
    validator = Validator(Schema((P, Field("q", DataType.FLOAT64))))
    found = validator.violations(Batch.of({"p": np.full(3, 2.0), "q": np.full(20, np.nan)[:3]}))

    assert [violation.field for violation in found] == ["p"] * 3 + ["q"] * 3
    assert len(violations(P, np.full(50, 2.0))) == 10


@pytest.mark.parametrize(
    ("field", "good", "bad"),
    [
        (Field("x", DataType.STRING, max_length=2), "ab", "abc"),
        (Field("x", DataType.STRING, pattern="^a"), "ab", "ba"),
        (Field("x", DataType.STRING), "ü", "\ud800"),
        (Field("x", DataType.STRING), "a", None),
        (Field("x", DataType.STRING), "a", b"a"),
        (Field("x", DataType.STRING), "a", 3),
        (Field("x", DataType.CATEGORY, categories=("a", "b")), "b", "c"),
        (Field("x", DataType.CATEGORY, categories=("a",)), "a", None),
        (Field("x", DataType.CATEGORY, categories=("a",)), "a", ["a"]),
        (Field("x", DataType.BYTES, min_length=1), b"a", b""),
        (Field("x", DataType.BYTES), b"a", "a"),
    ],
)
def test_object_columns_are_checked_by_element(field, good, bad):
    assert violations(field, objects(good)) == []
    assert [violation.row for violation in violations(field, objects(good, bad))] == [1]


def test_none_is_right_in_optional_text():
    for kind, categories in ((DataType.STRING, ()), (DataType.CATEGORY, ("a",)), (DataType.BYTES, ())):
        assert violations(Field("x", kind, categories=categories, optional=True), objects(None)) == []


def test_vector_is_checked_by_element():
    field = Field("v", DataType.FLOAT64, shape=(2,), ge=0.0)
    (violation,) = violations(field, np.array([[0.0, 1.0], [0.0, -1.0]]))

    assert violation.row == 1


@pytest.mark.parametrize(
    "bad",
    [np.zeros(3, np.float32), np.zeros((1, 1)), np.array([np.nan]), [1.0], None],
)
def test_row_of_free_shape_is_checked(bad):
    field = Field("v", DataType.FLOAT64, shape=(None,))

    found = violations(field, objects(np.zeros(3), bad, np.zeros(0)))

    assert [violation.row for violation in found] == [1]


def test_value_of_a_sensitive_field_is_not_in_the_message():
    field = Field("x", DataType.FLOAT64, le=1.0, sensitive=True)

    assert "42" not in violations(field, np.array([42.0]))[0].message


def test_columns_beyond_the_schema_are_not_looked_at():
    batch = Batch.of({"p": np.zeros(1), "other": np.array([np.nan])})

    assert Validator(Schema((P,))).violations(batch) == []


@settings(max_examples=40)
@given(st.data(), strategy.fields(scalar=True, kinds=(DataType.FLOAT64, DataType.FLOAT32, DataType.INT16)))
def test_fast_and_slow_checks_agree(data, field):
    """The rows of a long column, each checked by itself."""
    anything = st.integers(-200, 200) if field.type.is_integer else st.floats(width=16)
    column = np.array(data.draw(st.lists(anything, min_size=9, max_size=12)), dtype=field.type.dtype)

    whole = {violation.row for violation in violations(field, column)}
    alone = [row for row in range(len(column)) if violations(field, column[row : row + 1])]

    assert whole == set(alone[:10])


@pytest.mark.parametrize("bad", [None, np.nan, 5.0])
@pytest.mark.parametrize("in_block", [True, False])
def test_columns_of_a_block_are_checked_like_others(bad, in_block):
    names = tuple("abcde")
    schema = Schema(tuple(Field(name, DataType.FLOAT64, le=1.0) for name in names))
    block = np.zeros((3, 5))
    if bad is not None:
        block[2, 3] = bad
    columns = {name: block[:, position] for position, name in enumerate(names)}
    batch = Batch(columns, 3, blocks=[(names, block)] if in_block else [])

    found = [(violation.field, violation.row) for violation in Validator(schema).violations(batch)]

    assert found == ([] if bad is None else [("d", 2)])


def test_the_element_that_is_wrong_is_named_with_its_value():
    vector = Field("x", DataType.FLOAT32, shape=(2, 2))
    secret = msgspec.structs.replace(vector, sensitive=True)
    words = Field("x", DataType.STRING, shape=(None,), max_length=2)
    texts = np.empty(1, object)
    texts[0] = np.array(["ab", "abc"], object)

    def message(field, column):
        (found,) = Validator(Schema((field,))).violations(Batch({"x": column}, 1))
        return found.message

    column = np.array([[[1, 2], [np.nan, 3]]], np.float32)
    assert message(vector, column).endswith("The fault is at [1][0]. Got nan.")
    assert message(secret, column).endswith("The fault is at [1][0].")
    assert message(words, texts).endswith('The fault is at [1]. Got "abc".')
