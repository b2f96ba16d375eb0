"""Data files are read by their ending, and refused in words."""

from __future__ import annotations

import pandas as pd
import polars as pl
import pytest

from tidegate.core.error import InvalidSetting, NotFound
from tidegate.data.source import UnreadableData, file_source, frame_source, read_table

TABLE = pl.DataFrame({"code": ["1", "2b"], "x": [0.5, None]})


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("t.parquet", pl.DataFrame.write_parquet),
        ("t.csv", pl.DataFrame.write_csv),
        ("t.jsonl", pl.DataFrame.write_ndjson),
        ("t.json", pl.DataFrame.write_json),
        ("t.arrow", pl.DataFrame.write_ipc),
    ],
)
def test_a_table_comes_back_as_it_was(tmp_path, name, write):
    write(TABLE, tmp_path / name)

    assert read_table(tmp_path / name).equals(TABLE)


def test_a_code_that_looks_like_a_number_at_first_stays_text(tmp_path):
    codes = [str(number) for number in range(500)] + ["5b"]
    pl.DataFrame({"code": codes}).write_csv(tmp_path / "t.csv")

    assert read_table(tmp_path / "t.csv")["code"].to_list() == codes


@pytest.mark.parametrize("name", ["t.parquet", "t.json", "t.arrow"])
def test_bytes_that_are_something_else_are_refused_with_the_name(tmp_path, name):
    (tmp_path / name).write_bytes(b"\x00not a table")

    with pytest.raises(UnreadableData, match=name):
        read_table(tmp_path / name)


def test_an_unknown_ending_is_refused_with_those_known(tmp_path):
    (tmp_path / "t.xls").write_bytes(b"")

    with pytest.raises(InvalidSetting, match=r"\.parquet"):
        read_table(tmp_path / "t.xls")


def test_a_missing_file_is_said_to_be_missing(tmp_path):
    with pytest.raises(NotFound, match=r"t\.csv"):
        read_table(tmp_path / "t.csv")


@pytest.mark.parametrize(
    ("late", "dtype"), [("7b", pl.String), ("7.5", pl.Float64), ("2024-01-01", pl.String), ("7", pl.Int64)]
)
@pytest.mark.parametrize("early", ["5", ""])
def test_the_last_row_of_a_long_file_may_decide_on_a_type(tmp_path, early, late, dtype):
    (tmp_path / "t.csv").write_text("n,code\n" + f"1,{early}\n" * 10_500 + f"2,6\n3,{late}\n")

    rows = file_source(tmp_path / "t.csv").frame.collect()

    assert rows.schema["code"] == dtype
    assert rows["code"].cast(pl.String)[-1] == late


def test_dates_of_a_file_are_dates(tmp_path):
    (tmp_path / "t.csv").write_text(
        "day,at\n2024-01-31,2024-01-31T10:00:00\n2024-02-01,2024-02-01T11:30:00\n"
    )

    rows = file_source(tmp_path / "t.csv").frame.collect()

    assert [str(value) for value in rows.row(1)] == ["2024-02-01", "2024-02-01 11:30:00"]


@pytest.mark.parametrize("values", [[1, "a"], [True, 2, None], [[1], 2], [10**40, 1]])
def test_a_column_of_pandas_that_holds_several_types_is_named(values):
    frame = pd.DataFrame({"id": range(len(values)), "mixed": pd.Series(values, dtype=object)})

    with pytest.raises(UnreadableData, match=r"'mixed' of the data frame .*int") as caught:
        frame_source(frame)

    assert "one type" in caught.value.hint


@pytest.mark.parametrize("names", [["a", "a"], [1, "1"]])
def test_columns_of_pandas_that_share_a_name_are_named(names):
    with pytest.raises(UnreadableData, match=f"several columns called '{names[0]}'"):
        frame_source(pd.DataFrame([[1, 2]], columns=names))
