"""Snapshots hold what was read, never change, and are named by their content."""

from __future__ import annotations

import json
import sqlite3

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate.adapter.files.artifact import LocalArtifactStore
from tidegate.adapter.sql.query import SqlQueryReader
from tidegate.core.digest import digest_bytes
from tidegate.core.error import Corrupt, InvalidSetting, NotFound
from tidegate.data.difference import compare_snapshots
from tidegate.data.snapshot import read_snapshot, scan_snapshot, write_snapshot
from tidegate.data.source import UnreadableData, file_source, frame_source, query_source

TABLE = pl.DataFrame(
    {
        "id": range(7),
        "x": [0.5, None, 2.5, -1.0, float("nan"), 4.0, 9.0],
        "kind": ["a", "b", "a", None, "a", "b", "a"],
    }
)


@pytest.fixture
def store(tmp_path):
    return LocalArtifactStore(tmp_path / "artifacts")


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("t.parquet", pl.DataFrame.write_parquet),
        ("t.csv", pl.DataFrame.write_csv),
        ("t.jsonl", pl.DataFrame.write_ndjson),
        ("t.arrow", pl.DataFrame.write_ipc),
    ],
)
def test_rows_of_a_file_come_back_in_order(tmp_path, store, name, write):
    table = TABLE.with_columns(pl.col("x").fill_nan(None))
    write(table, tmp_path / name)

    snapshot = write_snapshot(file_source(tmp_path / name), store)

    assert scan_snapshot(store, snapshot).collect().equals(table)
    assert snapshot.n_rows == 7
    assert snapshot.origin.location == name
    assert read_snapshot(store, snapshot.digest) == snapshot


@given(part_rows=st.integers(1, 9), n_rows=st.integers(0, 30))
@settings(max_examples=15)
def test_parts_together_are_the_table(tmp_path_factory, part_rows, n_rows):
    store = LocalArtifactStore(tmp_path_factory.mktemp("store"))
    table = pl.DataFrame({"a": range(n_rows)}, schema={"a": pl.Int64})

    snapshot = write_snapshot(frame_source(table), store, part_rows=part_rows)

    assert scan_snapshot(store, snapshot).collect().equals(table)
    assert [part.n_rows for part in snapshot.parts[:-1]] == [part_rows] * (len(snapshot.parts) - 1)


def test_equal_rows_have_equal_names_and_others_another(store):
    one = write_snapshot(frame_source(TABLE), store)
    again = write_snapshot(frame_source(TABLE.clone()), store)
    other = write_snapshot(frame_source(TABLE.with_columns(pl.col("id") + 1)), store)
    elsewhere = write_snapshot(frame_source(TABLE, name="copy"), store)

    assert one.digest == again.digest
    assert one.content == elsewhere.content
    assert one.digest != elsewhere.digest
    assert one.content != other.content


def test_a_summary_says_what_a_column_holds(store):
    columns = write_snapshot(frame_source(TABLE), store).by_name

    assert columns["x"].n_null == 2
    assert (columns["x"].low, columns["x"].high, columns["x"].mean) == (-1.0, 9.0, 3.0)
    assert sum(columns["x"].counts) == 5
    assert columns["kind"].values == {"a": 4, "b": 2}
    assert columns["kind"].n_null == 1


def test_infinite_values_are_counted_and_equal_rows_with_them_have_not_moved(store):
    infinite = [float("inf")] * 30 + [float("-inf")] * 20
    table = pl.DataFrame({"x": [float(number) for number in range(50)] + infinite, "place": range(100)})
    old = write_snapshot(frame_source(table), store)
    again = write_snapshot(frame_source(table.with_columns(pl.col("x").replace(0.0, 0.5))), store)

    summary = old.by_name["x"]
    (change,) = [one for one in compare_snapshots(store, old, again).changed if one.name == "x"]

    assert (summary.n_infinite, summary.low, summary.high) == (50, 0.0, 49.0)
    assert sum(summary.counts) == 100
    assert (summary.counts[0], summary.counts[-1]) == (25, 35)
    assert change.psi == 0
    assert write_snapshot(frame_source(table), store, hidden={"x"}).by_name["x"].n_infinite == 50


def test_a_hidden_column_keeps_its_values_out_of_the_summary(store):
    column = write_snapshot(frame_source(TABLE), store, hidden={"kind"}).by_name["kind"]

    assert column.values == {}
    assert (column.n_null, column.n_distinct) == (1, 2)


def test_a_damaged_part_is_not_read(store):
    snapshot = write_snapshot(frame_source(TABLE), store)
    path = store.open(snapshot.parts[0].digest)
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1] + b"\0")

    with pytest.raises(Corrupt):
        scan_snapshot(store, snapshot)


def test_other_json_is_no_snapshot(store):
    digest = store.put_bytes(json.dumps({"files": []}).encode())

    with pytest.raises(InvalidSetting, match="no snapshot"):
        read_snapshot(store, digest)
    with pytest.raises(NotFound):
        read_snapshot(store, digest_bytes(b"never stored"))


def test_a_file_without_columns_is_refused_and_stores_nothing(tmp_path, store):
    (tmp_path / "t.csv").touch()

    with pytest.raises(InvalidSetting, match=r"t\.csv has no columns"):
        write_snapshot(file_source(tmp_path / "t.csv"), store)

    assert not list((tmp_path / "artifacts").rglob("*"))


def test_a_file_in_another_encoding_is_refused(tmp_path, store):
    (tmp_path / "t.csv").write_bytes("name\ncafé\n".encode("latin-1"))

    with pytest.raises(UnreadableData, match="not UTF-8"):
        write_snapshot(file_source(tmp_path / "t.csv"), store)


def test_a_pandas_frame_comes_over(store):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"n": [1, 2], "x": [0.5, float("nan")], "s": ["a", None], "b": [True, False]})

    rows = scan_snapshot(store, write_snapshot(frame_source(frame), store)).collect()

    assert rows.to_dict(as_series=False)["n"] == [1, 2]
    assert rows["s"].to_list() == ["a", None]
    assert rows["b"].to_list() == [True, False]
    assert rows["x"][0] == 0.5


def test_what_is_no_frame_is_refused():
    with pytest.raises(InvalidSetting, match="not from list"):
        frame_source([1, 2])


@pytest.fixture
def database(tmp_path):
    connection = sqlite3.connect(tmp_path / "shop.db")
    connection.execute("CREATE TABLE orders (id INTEGER, price REAL, note TEXT)")
    connection.executemany("INSERT INTO orders VALUES (?, ?, ?)", [(1, 2.5, None), (2, None, "late")])
    connection.commit()
    connection.close()
    return f"sqlite:///{tmp_path / 'shop.db'}"


def test_a_query_is_kept_as_lineage(store, database):
    query = "SELECT id, price, note FROM orders ORDER BY id"

    snapshot = write_snapshot(query_source(SqlQueryReader(database), query), store)

    assert scan_snapshot(store, snapshot).collect().rows() == [(1, 2.5, None), (2, None, "late")]
    assert snapshot.origin.query == query
    assert snapshot.origin.kind == "sql"


def test_a_query_without_rows_still_has_its_columns(store, database):
    source = query_source(SqlQueryReader(database), "SELECT id FROM orders WHERE id > 9")

    assert [column.name for column in write_snapshot(source, store).columns] == ["id"]


@pytest.mark.parametrize("query", ["DELETE FROM orders", "SELECT nothing FROM orders"])
def test_a_query_can_neither_write_nor_name_what_is_not_there(database, query):
    with pytest.raises(UnreadableData, match="failed"):
        query_source(SqlQueryReader(database), query)

    assert query_source(SqlQueryReader(database), "SELECT * FROM orders").frame.collect().height == 2


def test_a_difference_names_what_moved(store):
    old = write_snapshot(frame_source(pl.DataFrame({"a": range(1000), "b": [1.0] * 1000, "gone": 1})), store)
    moved = pl.DataFrame({"a": range(1000, 3000), "b": [1.0] * 2000, "new": 1})
    new = write_snapshot(frame_source(moved), store)

    found = compare_snapshots(store, old, new)

    assert found.n_rows == (1000, 2000)
    assert (found.added, found.removed) == (("new",), ("gone",))
    assert {change.name: change.moved for change in found.changed} == {"a": True, "b": False}


def test_a_snapshot_does_not_differ_from_itself(store):
    snapshot = write_snapshot(frame_source(TABLE), store)

    found = compare_snapshots(store, snapshot, snapshot)

    assert found.same_content
    assert (found.added, found.removed, found.changed) == ((), (), ())
