import pytest

from tidegate.contract.field import DataType, Field
from tidegate.contract.requirement import received, requirement


@pytest.mark.parametrize(
    ("field", "words"),
    [
        (Field("x", DataType.INT64, ge=1, le=365), "an integer in [1, 365]"),
        (Field("x", DataType.INT64, gt=1, lt=365), "an integer in (1, 365)"),
        (Field("x", DataType.INT64), "an integer"),
        (Field("x", DataType.INT8), "an integer in [-128, 127]"),
        (Field("x", DataType.FLOAT64), "a number"),
        (Field("x", DataType.FLOAT64, ge=0.5), "a number >= 0.5"),
        (Field("x", DataType.FLOAT64, gt=0.0), "a number > 0"),
        (Field("x", DataType.FLOAT64, le=1.0), "a number <= 1"),
        (Field("x", DataType.FLOAT64, lt=1.0), "a number < 1"),
        (Field("x", DataType.FLOAT32), "a number that fits float32"),
        (Field("x", DataType.FLOAT64, optional=True), "a number, or null"),
        (Field("x", DataType.BOOL), "true or false"),
        (Field("x", DataType.STRING), "text"),
        (Field("x", DataType.STRING, min_length=2), "text of at least 2 characters"),
        (Field("x", DataType.STRING, max_length=3), "text of at most 3 characters"),
        (Field("x", DataType.STRING, min_length=3, max_length=3), "text of 3 characters"),
        (Field("x", DataType.CATEGORY, categories=("a", "b")), "one of 'a', 'b'"),
        (Field("x", DataType.FLOAT64, shape=(3,)), "a list of 3, each element a number"),
        (Field("x", DataType.FLOAT64, shape=(None,)), "a list, each element a number"),
        (
            Field("x", DataType.BOOL, shape=(2, None)),
            "nested lists of shape [2, any], each element true or false",
        ),
    ],
)
def test_requirement_in_words(field, words):
    assert requirement(field) == words


def test_many_categories_are_counted():
    field = Field("x", DataType.CATEGORY, categories=tuple(map(str, range(12))))

    assert requirement(field).endswith("'9' and 2 more")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0, " Got 0."),
        ("a", ' Got "a".'),
        (None, " Got null."),
        (True, " Got true."),
        ({"a": 1}, " Got an object."),
        ([1, 2], " Got a list of 2."),
        (float("nan"), " Got nan."),
        ("\ud800", " Got a value that JSON cannot carry."),
    ],
)
def test_received_value_in_words(value, words):
    assert received(Field("x", DataType.FLOAT64), value) == words


def test_received_value_is_cut_short():
    assert len(received(Field("x", DataType.STRING), "é" * 1000)) < 100
    assert len(received(Field("x", DataType.INT64), 10**1000)) < 100


def test_sensitive_value_is_not_said():
    assert received(Field("x", DataType.STRING, sensitive=True), "secret") == ""


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        (Field("x", DataType.INT8, ge=1), 300, " Got 300, which int8 cannot hold."),
        (Field("x", DataType.INT64), 2**63, f" Got {2**63}, which int64 cannot hold."),
        (Field("x", DataType.FLOAT32, gt=0.0), 3.5e38, " Got 3.5e+38, which float32 cannot hold."),
        (Field("x", DataType.INT8, ge=1), 0, " Got 0."),
        (Field("x", DataType.FLOAT64), float("inf"), " Got inf."),
        (Field("x", DataType.BOOL), 3, " Got 3."),
    ],
)
def test_a_number_beyond_its_type_is_said_to_be_so(field, value, words):
    assert received(field, value).lower() == words.lower().replace("3.5e+38", "3.5e38")


def test_bounds_of_times_are_said_as_times_are_sent():
    first, last = 946_684_800_000_000, 1_893_456_000_000_000

    moment = requirement(Field("t", DataType.TIMESTAMP, ge=first, lt=last))
    span = requirement(Field("t", DataType.DURATION, gt=-500_000, le=90_000_000_000))

    assert moment.endswith(" in [2000-01-01T00:00:00Z, 2030-01-01T00:00:00Z)")
    assert span.endswith(" in (-PT0.5S, P1DT3600S]")
