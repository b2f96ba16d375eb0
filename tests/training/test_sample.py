"""Answers are kept to the last bit."""

from __future__ import annotations

import numpy as np
import pytest

from tidegate.training.sample import Sample, differing_rows, load_columns, store_columns

COLUMNS = {
    "float": np.array([0.1, np.nan, -0.0]),
    "single": np.array([0.1, np.inf, 1e-45], np.float32),
    "big_endian": np.array([1, 2, 3], ">i8"),
    "flag": np.array([True, False, True]),
    "vector": np.arange(6.0).reshape(3, 2),
    "text": np.array(["a", None, "ü"], object),
    "bytes": np.array([b"\x00", b"", b"\xff"], object),
}


def test_columns_read_back_as_they_were():
    stored = Sample(store_columns(COLUMNS), {})

    again = load_columns(Sample.from_bytes(stored.to_bytes()).inputs)

    assert set(again) == set(COLUMNS)
    for name, column in COLUMNS.items():
        assert again[name].shape == column.shape
        assert again[name].tolist() == column.tolist() or name == "float"
    assert np.array_equal(again["float"], COLUMNS["float"], equal_nan=True)
    assert np.signbit(again["float"][2])


@pytest.mark.parametrize("name", COLUMNS)
def test_the_same_column_does_not_differ(name):
    one = store_columns({name: COLUMNS[name]})[name]

    assert differing_rows(one, store_columns({name: COLUMNS[name].copy()})[name]) == 0


def test_rows_that_differ_in_one_bit_are_counted():
    values = np.array([0.1, 0.2, 0.0])
    others = np.array([0.1, np.nextafter(0.2, 1), -0.0])
    one, other = (store_columns({"x": column})["x"] for column in (values, others))

    assert differing_rows(one, other) == 2


def test_columns_of_another_type_or_length_cannot_be_compared():
    one = store_columns({"x": np.zeros(3)})["x"]

    assert differing_rows(one, store_columns({"x": np.zeros(3, np.float32)})["x"]) is None
    assert differing_rows(one, store_columns({"x": np.zeros(2)})["x"]) is None
