"""From journal segments to tallies and Parquet: rows a second of one core, at 1 and at 32 rows a frame."""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from benchmarks import model
from benchmarks.measure import Goal, Options, Report, Table, interleave, summarise
from benchmarks.model import CACHE
from tidegate.adapter.parquet.record import RecordStore
from tidegate.contract.batch import Batch
from tidegate.contract.field import DataType, Field
from tidegate.contract.layout import journal_layout
from tidegate.contract.schema import Contract, Schema
from tidegate.contract.slicing import Slicing, slicing_of
from tidegate.core.clock import SystemClock
from tidegate.core.identifier import uuid7_factory
from tidegate.journal.ledger import Ledger
from tidegate.journal.record import Stream, Turn
from tidegate.journal.segment import JournalWriter
from tidegate.journal.tailer import Tailer

N_ROWS, N_ROWS_SHORT = 1_000_000, 100_000
LIMITS = {1: 100_000.0, 32: 400_000.0}
_CONTRACT = Contract(
    Schema(tuple(Field(f"f{i}", DataType.FLOAT64) for i in range(model.A_FEATURES))),
    Schema((Field("prediction", DataType.FLOAT64),)),
)
_SLICES = slicing_of(_CONTRACT, ["f0", "f1", "f2"], judged="prediction")


class Sample(msgspec.Struct, frozen=True):
    """One pass over the segments.

    Attributes:
        rows: Rows that were counted.
        cpu_s: CPU time of this process, all its threads.
        wall_s: Time by the clock.
        journal_bytes: Size of the segments.
    """

    rows: int
    cpu_s: float
    wall_s: float
    journal_bytes: int

    @property
    def rows_per_cpu_s(self) -> float:
        return self.rows / self.cpu_s


def _batch(names: tuple[str, ...], block: npt.NDArray[np.float64]) -> Batch:
    """Return columns that are views on one block, as the decoder gathers them."""
    columns = {name: block[:, position] for position, name in enumerate(names)}
    return Batch(columns, len(block), blocks={names: block})


def write_segments(folder: Path, *, n_rows: int, frame_rows: int, slicing: Slicing | None = None) -> int:
    """Write rows of case A as a worker would, `frame_rows` requests of one row a frame.

    Returns:
        How many rows were written: `n_rows`, down to whole frames.
    """
    clock = SystemClock()
    new_id = uuid7_factory(clock, random.Random(model.SEED))
    writer = JournalWriter(folder, cell="local", node="bench", worker=0, clock=clock)
    stream = Stream(
        "case-a", 1, _CONTRACT.fingerprint, journal_layout(_CONTRACT), slicing=slicing or Slicing()
    )
    encoder = writer.stream(stream)
    rng = np.random.default_rng(model.SEED)
    inputs = [
        _batch(_CONTRACT.input.names, rng.standard_normal((frame_rows, model.A_FEATURES))) for _ in range(64)
    ]
    outputs = _batch(_CONTRACT.output.names, rng.standard_normal((frame_rows, 1)))
    n_frames = n_rows // frame_rows
    for number in range(n_frames):
        now_us = clock.wall_us()
        turn = Turn(
            request_ids=[new_id() for _ in range(frame_rows)],
            arrived_us=[now_us] * frame_rows,
            inputs=inputs[number % len(inputs)],
            outputs=outputs,
            service_time_us=250.0,
            batch_rows=frame_rows,
        )
        writer.append([encoder.encode(turn)])
    writer.close()
    return n_frames * frame_rows


def _tally(folder: Path, n_rows: int, *, keeps: bool) -> Sample:
    """Count all segments into a fresh ledger and keep the rows as Parquet, as the controller does.

    Raises:
        RuntimeError: Another number of rows was counted than had been written.
    """
    with tempfile.TemporaryDirectory(prefix="ledger-", dir=CACHE) as place:
        ledger = Ledger(Path(place) / "ledger.db")
        store = RecordStore(Path(place) / "records", clock=SystemClock()) if keeps else None
        tailer = Tailer(folder, ledger, clock=SystemClock(), sink=store)
        began_s, cpu_s = time.perf_counter(), time.process_time()
        rows, progress = 0, tailer.poll()
        while progress.rows:
            rows += progress.rows
            progress = tailer.poll()
        if store is not None:
            store.flush()
        found = Sample(rows, time.process_time() - cpu_s, time.perf_counter() - began_s, _size_bytes(folder))
        tailer.close()
    if found.rows != n_rows:
        raise RuntimeError(f"{n_rows} rows were written and {found.rows} counted")
    return found


def _size_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def run(options: Options) -> Iterator[Report]:
    """Write segments once, then count them in every round."""
    n_rows = N_ROWS_SHORT if options.short else N_ROWS
    CACHE.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="journal-", dir=CACHE) as place:
        measured: dict[str, Callable[[], Sample]] = {}
        for frame_rows in LIMITS:
            folder = Path(place) / str(frame_rows)
            written = write_segments(folder, n_rows=n_rows, frame_rows=frame_rows)
            for keeps in (False, True):
                measured[_name(frame_rows, keeps=keeps)] = partial(_tally, folder, written, keeps=keeps)
            folder = Path(place) / f"{frame_rows}-sliced"
            written = write_segments(folder, n_rows=n_rows, frame_rows=frame_rows, slicing=_SLICES)
            measured[_name(frame_rows, keeps=True, sliced=True)] = partial(
                _tally, folder, written, keeps=True
            )
        rounds = interleave(measured, rounds=options.rounds)
    report = Report("ingest", raw={"rounds": rounds})
    rows = []
    variants = ((False, False), (True, False), (True, True))
    for frame_rows, (keeps, sliced) in product(LIMITS, variants):
        name = _name(frame_rows, keeps=keeps, sliced=sliced)
        found = rounds[name]
        speed = summarise(each.rows_per_cpu_s for each in found)
        wall = summarise(each.rows / each.wall_s for each in found)
        size_bytes = found[0].journal_bytes / found[0].rows
        rows.append([name, speed.show(0), wall.show(0), f"{size_bytes:.0f}"])
        if keeps and not sliced:
            label = f"ingest: rows to tallies and Parquet a CPU second, {frame_rows} a frame"
            report.goals.append(Goal(label, speed.median, LIMITS[frame_rows], True, "rows/s"))
    title = f"Ingest: {n_rows:,} rows of {model.A_FEATURES} floats and an output; {options.show()}"
    report.tables.append(Table(title, ["", "rows/CPU s", "rows/s", "journal bytes/row"], rows))
    yield report


def _name(frame_rows: int, *, keeps: bool, sliced: bool = False) -> str:
    what = "tallies and Parquet" if keeps else "tallies"
    if sliced:
        what += " and 3 slices"
    return f"segments to {what}, {frame_rows} row{'s' if frame_rows > 1 else ''} a frame"
