"""Rows that a request could not hold are left out, counted by field, and never shown."""

from __future__ import annotations

import datetime as dt

import numpy as np
import polars as pl
import pytest

from tidegate.contract.declare import Input, Output, category, contract_of, field
from tidegate.contract.field import DataType, Field
from tidegate.contract.infer import columns_of
from tidegate.contract.schema import Schema
from tidegate.contract.validate import Validator
from tidegate.contract.violation import ContractViolation
from tidegate.data.admission import admit_rows


class Row(Input):
    age: int = field(ge=18, le=100)
    status: str = category("new", "old")
    height: float
    known: bool
    at: dt.datetime
    n: int = field(default=3)


class Answer(Output):
    p: float


SCHEMA = contract_of(Row, Answer).input
GOOD = pl.DataFrame(
    {
        "age": [20, 30, 40, 50],
        "status": ["new", "old", "old", "new"],
        "height": [1.5, 1.6, 1.7, 1.8],
        "known": [True, False, True, True],
        "at": ["2024-01-05T10:00:00Z"] * 4,
        "n": [1, 2, 3, 4],
        "came": [0, 1, 0, 1],
    }
)


@pytest.mark.parametrize(
    ("column", "values", "kept", "said"),
    [
        ("age", [20, 360, 40, 7], [0, 2], "2 of 4 rows are left out: field 'age' must be an integer in"),
        ("age", [20, None, 40, 50], [0, 2, 3], "'age'"),
        ("age", ["20", "x", "40", "50"], [0, 2, 3], "'age'"),
        ("status", ["new", "older", None, "new"], [0, 3], "one of 'new', 'old'"),
        ("height", [1.0, float("nan"), None, float("inf")], [0], "3 of 4 rows"),
        ("known", [1, 0, None, 1], [0, 1, 3], "true or false"),
        ("at", ["2024-01-05", "2024-01-05T10:00:00", "2024-01-05T10:00:00+02:00", None], [2], "'at'"),
    ],
)
def test_rows_that_the_contract_forbids_are_left_out_and_counted(column, values, kept, said):
    table = GOOD.with_columns(pl.Series(column, values))

    found = admit_rows(table, SCHEMA, name="october")

    assert np.flatnonzero(found.kept).tolist() == kept
    assert found.table["came"].to_list() == [GOOD["came"][row] for row in kept]
    assert len(found.notes) == 1
    assert said in found.notes[0]
    judge = Validator(SCHEMA)
    given = {name: part for name, part in columns_of(found.table).items() if name != "came"}
    assert judge.violations(judge.coerce(given)) == []


def test_rows_that_the_contract_allows_pass_and_what_is_missing_has_its_default():
    table = GOOD.with_columns(pl.Series("n", [1, None, 3, None]), pl.Series("spare", [None] * 4))

    found = admit_rows(table, SCHEMA, name="october")

    assert found.notes == ()
    assert found.table["n"].to_list() == [1, 3, 3, 3]
    assert found.table.height == 4
    assert admit_rows(GOOD.with_columns(n=None), SCHEMA, name="october").table.height == 4


def test_several_fields_are_told_apart_and_together():
    table = GOOD.with_columns(pl.Series("age", [1, 1, 40, 50]), pl.Series("height", [1.0, None, None, 1.0]))

    found = admit_rows(table, SCHEMA, name="october")

    assert [note.split(":")[0] for note in found.notes] == [
        "2 of 4 rows are left out",
        "2 of 4 rows are left out",
        "3 of 4 rows are left out in all.",
    ]


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (GOOD.clear(), "october has no rows"),
        (GOOD.with_columns(age=pl.col("age") * 12), "'age' must be an integer in \\[18, 100\\]"),
        (GOOD.with_columns(at=pl.lit(1.5)), "No row of october"),
    ],
)
def test_no_row_that_could_be_asked_is_refused_in_words(table, said):
    with pytest.raises(ContractViolation, match=said):
        admit_rows(table, SCHEMA, name="october")


def test_vectors_are_looked_into():
    schema = Schema((Field("v", DataType.FLOAT64, shape=(2,), ge=0),))
    table = pl.DataFrame({"v": [[1.0, 2.0], [1.0, -2.0], [1.0], [3.0, 4.0]]})

    found = admit_rows(table, schema, name="october")

    assert found.kept.tolist() == [True, False, False, True]


def test_values_of_sensitive_fields_are_not_told():
    class Secret(Input):
        name: str = field(max_length=3, sensitive=True)

    schema = contract_of(Secret, Answer).input

    found = admit_rows(pl.DataFrame({"name": ["ana", "barbara"]}), schema, name="october")

    assert "barbara" not in "".join(found.notes)
