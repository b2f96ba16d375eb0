import msgspec
import numpy as np

from tidegate.contract.batch import Batch
from tidegate.contract.encode import RowEncoder
from tidegate.contract.field import DataType, Field
from tidegate.contract.schema import Schema


def encoded(field, *values):
    column = np.empty(len(values), dtype=object) if None in field.shape else None
    if column is None:
        column = np.array(values, dtype=field.type.dtype)
    else:
        column[:] = values
    rows = RowEncoder(Schema((field,))).rows(Batch.of({field.name: column}))
    return [row[field.name] for row in msgspec.json.decode(msgspec.json.encode(rows))]


def test_number_stays_a_number_and_nan_becomes_null():
    assert encoded(Field("p", DataType.FLOAT64, optional=True), 0.25, np.nan) == [0.25, None]


def test_integers_and_booleans_are_their_own():
    assert encoded(Field("n", DataType.UINT64), 2**64 - 1) == [2**64 - 1]
    assert encoded(Field("b", DataType.BOOL), True, False) == [True, False]


def test_timestamp_is_rfc_3339_in_utc():
    assert encoded(Field("at", DataType.TIMESTAMP), 1_500_000) == ["1970-01-01T00:00:01.500000Z"]


def test_duration_is_iso_8601():
    assert encoded(Field("wait", DataType.DURATION), 90_500_000) == ["PT90.5S"]


def test_bytes_are_base64():
    assert encoded(Field("b", DataType.BYTES), b"\x00\xff") == ["AP8="]


def test_vector_is_a_list_whatever_its_length():
    free = Field("v", DataType.FLOAT64, shape=(None,))

    assert encoded(free, np.array([1.0]), np.array([])) == [[1.0], []]
    assert encoded(Field("v", DataType.INT8, shape=(2,)), [1, 2]) == [[1, 2]]


def test_vector_of_times_is_a_list_of_texts():
    assert encoded(Field("v", DataType.TIMESTAMP, shape=(2,)), [0, 0]) == [["1970-01-01T00:00:00Z"] * 2]


def test_missing_vector_is_null():
    numbers = Field("v", DataType.FLOAT64, shape=(2,), optional=True)
    words = Field("w", DataType.STRING, shape=(2,), optional=True)

    assert encoded(numbers, [np.nan, np.nan], [np.nan, 1.0]) == [None, [None, 1.0]]
    assert encoded(words, [None, None], ["a", "b"]) == [None, ["a", "b"]]


def test_row_has_all_fields_in_order():
    schema = Schema((Field("b", DataType.FLOAT64), Field("a", DataType.STRING)))
    (row,) = RowEncoder(schema).rows(Batch.of({"a": np.array(["x"], object), "b": np.array([1.0])}))

    assert msgspec.json.encode(row) == b'{"b":1.0,"a":"x"}'
