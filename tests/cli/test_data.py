"""Snapshots are taken, listed, shown and compared from the command line."""

from __future__ import annotations

import json
import sqlite3

import polars as pl


def test_snapshots_are_numbered_listed_shown_and_compared(tidegate, tmp_path):
    (tmp_path / "a.csv").write_text("id,kind\n1,x\n2,y\n")
    (tmp_path / "b.csv").write_text("id,kind,more\n1,x,0\n2,y,0\n3,y,0\n")

    assert "Snapshot orders@1: 2 rows" in tidegate("data", "snapshot", "orders", tmp_path / "a.csv").out
    assert "Snapshot orders@1: 2 rows" in tidegate("data", "snapshot", "orders", tmp_path / "a.csv").out
    second = tidegate("data", "snapshot", "orders", tmp_path / "b.csv", "--parent", "orders@1", "--json")
    listed = json.loads(tidegate("data", "list", "--json").out)
    shown = tidegate("data", "show", "orders")
    diff = tidegate("data", "diff", "orders@1", "orders@2")

    assert json.loads(second.out)["snapshot"]["number"] == 2
    assert [(one["name"], one["number"], one["n_rows"]) for one in listed] == [
        ("orders", 1, 2),
        ("orders", 2, 3),
    ]
    assert "y (2)" in shown.out
    assert f"Made from {listed[0]['digest']}" in shown.out
    assert "2 -> 3 rows" in diff.out
    assert "Column added: more" in diff.out
    assert tidegate("audit", "verify").code == 0


def test_infinite_values_are_shown(tidegate):
    pl.DataFrame({"ratio": [1.0, float("inf"), float("-inf"), 2.0], "x": [0.0] * 4}).write_parquet(
        "a.parquet"
    )
    tidegate("data", "snapshot", "orders", "a.parquet")

    shown = tidegate("data", "show", "orders").out

    assert "ratio: 2 infinite values" in shown
    assert "x: " not in shown


def test_a_query_becomes_a_snapshot(tidegate, tmp_path):
    with sqlite3.connect(tmp_path / "shop.db") as connection:
        connection.execute("CREATE TABLE orders AS SELECT 1 AS id")
    connection.close()

    said = tidegate(
        "data", "snapshot", "orders", "--database", "sqlite:///shop.db", "--query", "SELECT * FROM orders"
    )

    assert "orders@1: 1 rows" in said.out
    assert "SELECT * FROM orders" in tidegate("data", "show", "orders").out


def test_what_does_not_exist_is_told_in_words(tidegate, tmp_path):
    (tmp_path / "a.csv").write_text("id\n1\n")
    tidegate("data", "snapshot", "orders", tmp_path / "a.csv")

    assert "Data sets: orders" in tidegate("data", "show", "order").err
    assert "no snapshot 'orders@7'" in tidegate("data", "show", "orders@7").err
    assert tidegate("data", "snapshot", "orders").code == 2


CONTRACT = """
import tidegate as tg

class Row(tg.Input):
    id: int = tg.field(ge=1)
    code: str = tg.field(max_length=3)
    owner: str = tg.field(max_length=20, sensitive=True)

class Answer(tg.Output):
    p: float
"""


def write(folder, *rows):
    (folder / "contract.py").write_text(CONTRACT)
    (folder / "rules.json").write_text('[{"rule": "unique", "columns": ["id"], "policy": "quarantine"}]')
    (folder / "rows.csv").write_text("\n".join(["id,code,owner", *rows, ""]))
    return folder / "rows.csv"


def test_bad_rows_are_reported_and_nothing_of_them_is_stored(tidegate, tmp_path):
    rows = write(tmp_path, "1,007,ana", "0,0007,ben")

    checked = tidegate("data", "check", rows, "--contract", "contract.py")
    taken = tidegate("data", "snapshot", "orders", rows, "--contract", "contract.py", "--json")

    assert checked.code == 3
    assert "row 1: id=0" in checked.out
    assert "rejected" in checked.out
    assert "ben" not in checked.out
    assert taken.code == 3
    assert [one["column"] for one in json.loads(taken.out)["report"]["findings"]] == ["id", "code"]
    assert tidegate("data", "list").out.startswith("No snapshot was taken")
    assert not list((tmp_path / ".tidegate").rglob("artifacts/files/*"))


def test_quarantined_rows_become_a_data_set_of_their_own(tidegate, tmp_path):
    rows = write(tmp_path, "1,007,ana", "2,008,ben", "2,009,eva", "3,010,max")

    said = tidegate("data", "snapshot", "orders", rows, "--contract", "contract.py", "--rules", "rules.json")

    assert said.code == 0
    assert "Snapshot orders@1: 2 rows" in said.out
    assert "Snapshot orders.quarantine@1: 2 rows" in said.out
    decided = json.loads(tidegate("decisions", "orders", "--json").out)
    assert decided[0]["decision"]["evidence"][1]["observed"]["findings"] == [
        {"rule": "unique", "column": "id", "policy": "quarantine", "count": 2}
    ]
    shown = tidegate("data", "show", "orders").out
    assert "007" in shown
    assert "ana" not in shown


def test_an_empty_file_is_told_and_not_stored(tidegate, tmp_path):
    (tmp_path / "a.csv").touch()

    said = tidegate("data", "snapshot", "orders", tmp_path / "a.csv")

    assert said.code == 3
    assert "not even a header" in said.out
