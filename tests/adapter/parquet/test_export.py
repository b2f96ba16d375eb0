"""What is in the journal is in the files, with the contract's types."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.journal.fake import START_US, FakeClock, new_ids, new_stream, new_turn, new_writer
from tests.journal.strategy import streams, turns
from tidegate.adapter.parquet import export as export_module
from tidegate.adapter.parquet.export import export_journal
from tidegate.adapter.parquet.table import schema_of
from tidegate.contract.batch import Batch
from tidegate.contract.field import DataType
from tidegate.contract.layout import Column, Layout
from tidegate.core.digest import Digest
from tidegate.core.identifier import format_prediction_id
from tidegate.journal.reader import list_segments
from tidegate.journal.record import Flag, RecordKind, Stream, Turn

DAY_US = 86_400_000_000
START = datetime.fromtimestamp(START_US / 1e6, UTC)


def write(folder: Path, stream: Stream, *given: Turn, max_bytes: int = 1 << 20, worker: int = 0) -> None:
    writer = new_writer(folder, clock=FakeClock(), max_bytes=max_bytes, worker=worker)
    for turn in given:
        writer.append([writer.stream(stream).encode(turn)])
    writer.close()


def read(target: Path) -> pl.DataFrame:
    return pl.read_parquet(sorted(target.rglob("*.parquet")))


def test_each_column_has_its_type_and_value(tmp_path: Path) -> None:
    layout = Layout(
        (
            Column("x", DataType.FLOAT32),
            Column("n", DataType.UINT8),
            Column("carrier", DataType.CATEGORY, (), ("AA", "UA")),
            Column("group", DataType.CATEGORY, (), ("f", "m"), group_only=True),
            Column("at", DataType.TIMESTAMP),
            Column("took", DataType.DURATION),
            Column("blob", DataType.BYTES),
            Column("vector", DataType.FLOAT64, (2,)),
            Column("ragged", DataType.INT16, (None,)),
        ),
        (Column("p", DataType.FLOAT64), Column("name", DataType.STRING)),
        event_time="at",
    )
    stream = Stream("delay", 3, Digest("sha256:" + "ab" * 32), layout, "candidate", 0.25)
    ragged = np.empty(2, dtype=object)
    ragged[:] = [np.array([1, 2, 3], np.int16), None]
    inputs = Batch(
        {
            "x": np.array([1.5, np.nan], np.float32),
            "n": np.array([7, 255], np.uint8),
            "carrier": np.array(["UA", None], dtype=object),
            "group": np.array(["m", "f"], dtype=object),
            "at": np.array([START_US - 5, START_US]),
            "took": np.array([90_000_000, 0]),
            "blob": np.array([b"\x00\xff", None], dtype=object),
            "vector": np.array([[1.0, 2.0], [3.0, 4.0]]),
            "ragged": ragged,
        },
        2,
    )
    outputs = Batch({"p": np.array([0.25, 0.5]), "name": np.array(["é", None], dtype=object)}, 2)
    (request,) = new_ids(1)
    turn = Turn(
        [request],
        [START_US],
        inputs,
        outputs,
        rows_per_request=[2],
        caller_ids=["mine"],
        key_hashes=[b"k" * 16, bytes(16)],
        buckets=[0.125, 0.5],
        flags=int(Flag.LATE),
        service_time_us=42.0,
        batch_rows=64,
    )
    write(tmp_path / "journal", stream, turn)

    report = export_journal(tmp_path / "journal", tmp_path / "out")

    (file,) = report.files
    assert file.path == tmp_path / "out" / "delay" / f"{START.date()}-abababab.parquet"
    assert (report.rows, report.damages) == (2, [])
    table = pl.read_parquet(file.path)
    assert dict(table.schema) == schema_of(layout)
    first, second = table.to_dicts()
    assert first["prediction_id"] == format_prediction_id(request, 0)
    assert second["prediction_id"] == format_prediction_id(request, 1)
    assert (first["kind"], first["version"], first["arm"], first["share"]) == (
        "prediction",
        3,
        "candidate",
        0.25,
    )
    assert first["arrived_at"] == START
    assert first["event_at"] == first["input.at"] == START - timedelta(microseconds=5)
    assert (first["caller_id"], first["trace_id"]) == ("mine", None)
    assert (first["key_hash"], second["key_hash"]) == ((b"k" * 16).hex(), None)
    assert (first["late"], first["failed"], first["batch_rows"], first["service_us"]) == (
        True,
        False,
        64,
        42.0,
    )
    values = {name[6:]: value for name, value in first.items() if name.startswith("input.")}
    assert values.pop("at")
    assert values == {
        "x": 1.5,
        "n": 7,
        "carrier": "UA",
        "group": "1",
        "took": timedelta(seconds=90),
        "blob": b"\x00\xff",
        "vector": [1.0, 2.0],
        "ragged": [1, 2, 3],
    }
    assert [second[f"input.{name}"] for name in ("carrier", "blob", "ragged")] == [None, None, None]
    assert np.isnan(second["input.x"])
    assert (first["output.p"], first["output.name"], second["output.name"]) == (0.25, "é", None)


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_every_row_of_any_contract_is_written(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    root = tmp_path_factory.mktemp("export")
    stream = data.draw(streams())
    given_turns = data.draw(st.lists(turns(stream), min_size=1, max_size=4))
    for turn in given_turns:
        turn.arrived_us = [START_US] * len(turn.request_ids)
    write(root / "journal", stream, *given_turns)

    report = export_journal(root / "journal", root / "out", shadows=True)

    rows = [turn.rows_per_request or [1] * len(turn.request_ids) for turn in given_turns]
    assert report.damages == []
    assert report.rows == sum(map(sum, rows))
    if report.rows:
        expected = [
            format_prediction_id(request, row)
            for turn, counts in zip(given_turns, rows, strict=True)
            for request, count in zip(turn.request_ids, counts, strict=True)
            for row in range(count)
        ]
        assert sorted(read(root / "out")["prediction_id"].to_list()) == sorted(expected)


def days_of(out: Path) -> dict[str, int]:
    return {path.name.rpartition("-")[0]: pl.read_parquet(path).height for path in out.rglob("*.parquet")}


def test_each_day_has_its_file_and_a_turn_may_lie_on_two(tmp_path: Path) -> None:
    midnight = (START_US // DAY_US + 1) * DAY_US
    turn = new_turn(new_ids(3), arrived_us=[midnight - 1, midnight, midnight + 1])
    write(tmp_path / "journal", new_stream(), turn, new_turn(new_ids(1, seed=1)))

    export_journal(tmp_path / "journal", tmp_path / "out")

    today = datetime.fromtimestamp((midnight - 1) / 1e6, UTC).date()
    assert days_of(tmp_path / "out") == {str(today): 2, str(today + timedelta(days=1)): 2}


def test_times_and_services_can_be_chosen(tmp_path: Path) -> None:
    turn = new_turn(new_ids(4), arrived_us=[START_US + second for second in range(4)])
    write(tmp_path / "journal", new_stream("delay"), turn)
    write(tmp_path / "journal", new_stream("churn"), turn, worker=1)

    report = export_journal(
        tmp_path / "journal", tmp_path / "out", service="churn", since_us=START_US + 1, until_us=START_US + 3
    )

    assert [(file.service, file.rows) for file in report.files] == [("churn", 2)]


def test_contracts_have_files_of_their_own(tmp_path: Path) -> None:
    other = Stream("delay", 2, Digest("sha256:" + "f" * 64), Layout((), (Column("q", DataType.INT8),)))
    write(tmp_path / "journal", new_stream(), new_turn(new_ids(1)))
    write(
        tmp_path / "journal",
        other,
        new_turn(new_ids(1), outputs=Batch({"q": np.array([1], np.int8)}, 1)),
        worker=1,
    )

    report = export_journal(tmp_path / "journal", tmp_path / "out")

    assert [file.path.stem[-8:] for file in report.files] == ["00000000", "ffffffff"]
    assert "output.q" in pl.read_parquet(report.files[1].path).columns


def test_many_rows_are_written_in_parts_and_put_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_module, "_PART_ROWS", 10)
    given_turns = [new_turn(new_ids(3, seed=seed), at_us=START_US + seed) for seed in range(20)]
    write(tmp_path / "journal", new_stream(), *given_turns, max_bytes=1000)

    report = export_journal(tmp_path / "journal", tmp_path / "out")

    assert report.rows == 60
    table = read(tmp_path / "out")
    assert table["arrived_at"].is_sorted()
    assert table["prediction_id"].n_unique() == 60
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["delay"]  # nothing is left behind


def test_shadows_are_written_where_they_are_asked_for_and_as_what_they_are(tmp_path: Path) -> None:
    write(tmp_path / "journal", new_stream(kind=RecordKind.SHADOW), new_turn(new_ids(1)))

    assert export_journal(tmp_path / "journal", tmp_path / "none").files == []
    export_journal(tmp_path / "journal", tmp_path / "out", shadows=True)

    assert read(tmp_path / "out")["kind"].to_list() == ["shadow"]


def test_an_export_again_replaces_the_file(tmp_path: Path) -> None:
    write(tmp_path / "journal", new_stream(), new_turn(new_ids(1)))
    export_journal(tmp_path / "journal", tmp_path / "out")
    write(tmp_path / "journal", new_stream(), new_turn(new_ids(2, seed=1)), worker=1)

    export_journal(tmp_path / "journal", tmp_path / "out")

    assert read(tmp_path / "out").height == 3


def test_damage_is_reported_and_the_rest_is_written(tmp_path: Path) -> None:
    write(tmp_path / "journal", new_stream(), *(new_turn(new_ids(1, seed=n)) for n in range(5)))
    path = list_segments(tmp_path / "journal")[0].path
    data = bytearray(path.read_bytes())
    data[-250] ^= 1
    path.write_bytes(data)

    report = export_journal(tmp_path / "journal", tmp_path / "out")

    assert len(report.damages) == 1
    assert 0 < report.rows < 5


def test_an_empty_journal_writes_nothing(tmp_path: Path) -> None:
    report = export_journal(tmp_path / "journal", tmp_path / "out")

    assert report.files == []
    assert list((tmp_path / "out").iterdir()) == []


def test_a_failed_request_has_empty_outputs(tmp_path: Path) -> None:
    turn: Any = new_turn(new_ids(1), outputs=None, flags=int(Flag.FAILED), errors=["predictor_failed"])
    write(tmp_path / "journal", new_stream(), turn)

    export_journal(tmp_path / "journal", tmp_path / "out")

    (row,) = read(tmp_path / "out").to_dicts()
    assert (row["failed"], row["error"], row["output.p"]) == (True, "predictor_failed", None)
