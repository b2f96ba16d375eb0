"""Snapshots are taken, listed, shown and compared from the command line."""

from __future__ import annotations

import json
import sqlite3


def test_snapshots_are_numbered_listed_shown_and_compared(tidegate, tmp_path):
    (tmp_path / "a.csv").write_text("id,kind\n1,x\n2,y\n")
    (tmp_path / "b.csv").write_text("id,kind,more\n1,x,0\n2,y,0\n3,y,0\n")

    assert "Snapshot orders@1: 2 rows" in tidegate("data", "snapshot", "orders", tmp_path / "a.csv").out
    assert "Snapshot orders@1: 2 rows" in tidegate("data", "snapshot", "orders", tmp_path / "a.csv").out
    second = tidegate("data", "snapshot", "orders", tmp_path / "b.csv", "--parent", "orders@1", "--json")
    listed = json.loads(tidegate("data", "list", "--json").out)
    shown = tidegate("data", "show", "orders")
    diff = tidegate("data", "diff", "orders@1", "orders@2")

    assert json.loads(second.out)["number"] == 2
    assert [(one["name"], one["number"], one["n_rows"]) for one in listed] == [
        ("orders", 1, 2),
        ("orders", 2, 3),
    ]
    assert "y (2)" in shown.out
    assert f"Made from {listed[0]['digest']}" in shown.out
    assert "2 -> 3 rows" in diff.out
    assert "Column added: more" in diff.out
    assert tidegate("audit", "verify").code == 0


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
