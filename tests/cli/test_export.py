"""`tidegate journal export` writes what a home's journal holds."""

from __future__ import annotations

import json

import polars as pl

from tests.journal.fake import new_ids, new_stream, new_turn, new_writer


def test_export_writes_a_file_and_says_which(tidegate, tmp_path):
    writer = new_writer(tmp_path / ".tidegate" / "journal")
    writer.append([writer.stream(new_stream("delay")).encode(new_turn(new_ids(3)))])
    writer.close()

    said = tidegate("journal", "export", "out", "delay", "--json")

    assert said.code == 0
    (file,) = json.loads(said.out)["files"]
    assert (file["service"], file["rows"]) == ("delay", 3)
    assert pl.read_parquet(file["path"]).height == 3


def test_export_of_a_damaged_journal_says_no(tidegate, tmp_path):
    folder = tmp_path / ".tidegate" / "journal"
    writer = new_writer(folder)
    writer.append([writer.stream(new_stream("delay")).encode(new_turn(new_ids(3)))])
    writer.close()
    (path,) = folder.iterdir()
    path.write_bytes(path.read_bytes()[:-1])

    said = tidegate("journal", "export", "out")

    assert said.code == 3
    assert "damaged" in said.err
