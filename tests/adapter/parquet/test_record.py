"""Each record is in exactly one file, whatever dies when."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, suppress
from datetime import date, timedelta
from pathlib import Path

import polars as pl
import pytest

from tests.journal.fake import START_US, FakeClock, new_ids, new_stream, new_turn, new_writer
from tidegate.adapter.parquet.record import RecordStore, RecordsUnavailable
from tidegate.core.error import InvalidSetting
from tidegate.journal.ledger import Ledger
from tidegate.journal.tailer import Tailer
from tidegate.journal.tally import merge

N_KILLS = int(os.environ.get("TIDEGATE_KILLS", "4"))
"""`TIDEGATE_KILLS=1000 pytest tests/adapter/parquet/test_record.py -k killed` is the long run."""
DAY = date(2023, 11, 14)
DAY_US = 86_400_000_000


class CrashError(BaseException):
    """The process is gone."""


class Place:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.clock = FakeClock()
        self.n_written = 0
        self.opened: list[Ledger | RecordStore] = []

    def write(self, n_turns: int, *, rows: int = 2, at_us: int = START_US) -> None:
        writer = new_writer(self.root / "journal", max_bytes=20_000)
        encoder = writer.stream(new_stream())
        for _ in range(n_turns):
            ids = new_ids(rows, at_us=at_us, seed=self.n_written)
            writer.append([encoder.encode(new_turn(ids, at_us=at_us))])
            self.n_written += rows
        writer.close()

    def follow(self, **options: object) -> tuple[Tailer, RecordStore]:
        given = {"max_rows": 50, "n_compacted": 4, **options}
        store = RecordStore(self.root / "records", clock=self.clock, **given)  # type: ignore[arg-type]
        ledger = Ledger(self.root / "ledger.db")
        self.opened += [store, ledger]
        return Tailer(self.root / "journal", ledger, clock=self.clock, batch_bytes=2_000, sink=store), store

    def close(self) -> None:
        for each in self.opened:
            each.close()

    def ids(self) -> list[str]:
        """What a reader finds that knows nothing of the index."""
        files = sorted((self.root / "records").glob("*/*/*.parquet"))
        return [name for file in files for name in pl.read_parquet(file)["prediction_id"].to_list()]

    def settled(self) -> None:
        """Follow to the end and check that every record is in exactly one file."""
        tailer, store = self.follow()
        while tailer.poll().read_bytes:
            pass
        store.flush()
        found = self.ids()
        assert len(found) == self.n_written
        assert len(set(found)) == self.n_written
        assert sum(part.rows for part in store.parts()) == self.n_written
        assert not list((self.root / "records").glob("*/*/.*"))
        tailer.close()
        store.close()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with closing(Place(tmp_path)) as place:
        yield place


def test_records_are_in_files_by_service_and_day(place: Place) -> None:
    place.write(60)
    place.write(10, at_us=START_US + DAY_US)
    place.settled()

    folders = {path.parent.name for path in (place.root / "records").glob("delay/*/*.parquet")}
    assert folders == {DAY.isoformat(), (DAY + timedelta(days=1)).isoformat()}


def test_many_small_parts_become_few(place: Place) -> None:
    tailer, store = place.follow(max_rows=10)
    for _ in range(30):
        place.write(6)
        tailer.poll()

    assert len(store.parts("delay")) < 12
    store.close()
    place.settled()


def test_rows_that_wait_are_written_in_time(place: Place) -> None:
    place.write(3)
    tailer, store = place.follow(max_rows=10_000)
    tailer.poll()

    assert store.parts() == []
    assert store.n_waiting == 6
    place.clock.forward(61)
    tailer.poll()
    assert [part.rows for part in store.parts()] == [6]


def test_a_journal_that_was_counted_before_there_was_a_store_is_caught_up_with(place: Place) -> None:
    place.write(100)
    with closing(Ledger(place.root / "ledger.db")) as ledger:
        plain = Tailer(place.root / "journal", ledger, clock=place.clock)
        plain.poll()
        plain.close()

    place.settled()


def test_a_ledger_that_is_counted_again_adds_no_record(place: Place) -> None:
    place.write(100)
    place.settled()
    for file in place.root.glob("ledger.db*"):
        file.unlink()

    place.settled()


@pytest.mark.parametrize("step", range(0, 40, 4))
def test_a_crash_at_any_step_loses_and_doubles_nothing(
    place: Place, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """A step is a file that is made durable, renamed or deleted."""
    left = [step]

    def dying(real):  # type: ignore[no-untyped-def]
        def act(*args, **kwargs):  # type: ignore[no-untyped-def]
            left[0] -= 1
            if left[0] < 0:
                raise CrashError
            return real(*args, **kwargs)

        return act

    place.write(150)
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", dying(os.fsync))
        patched.setattr(Path, "replace", dying(Path.replace))
        patched.setattr(Path, "unlink", dying(Path.unlink))
        with suppress(CrashError):
            tailer, store = place.follow(n_compacted=3)
            while tailer.poll(max_bytes=2_000).read_bytes:
                pass
            store.flush()
    place.write(20)

    place.settled()


def test_a_full_disk_stops_the_files_and_not_the_counting(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.write(100)
    tailer, store = place.follow()

    def full(*args, **kwargs):  # type: ignore[no-untyped-def]
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        progress = tailer.poll()
    counted = merge(tally for _, tally in Ledger(place.root / "ledger.db").tallies())

    assert counted.rows == 200
    assert "No space left" in progress.unkept
    assert store.n_waiting == 0
    place.clock.forward(10)
    assert tailer.poll().unkept == ""
    tailer.close()
    store.close()
    place.settled()


def test_a_folder_that_cannot_be_used_is_told(place: Place) -> None:
    (place.root / "records").write_text("no folder")

    with pytest.raises(RecordsUnavailable, match="cannot be written"):
        place.follow()


def test_old_days_are_deleted_and_their_records_do_not_come_back(place: Place) -> None:
    place.write(30)
    place.write(5, at_us=START_US + 10 * DAY_US)
    tailer, store = place.follow()
    tailer.poll()
    store.flush()

    assert store.retain(7, today=DAY + timedelta(days=10)) == 60
    assert {part.day for part in store.parts()} == {DAY + timedelta(days=10)}
    assert len(place.ids()) == 10
    tailer.close()
    store.close()
    tailer, store = place.follow()
    tailer.poll()
    store.flush()
    assert len(place.ids()) == 10


def test_records_are_not_kept_for_less_than_no_days(place: Place) -> None:
    place.write(5)
    tailer, store = place.follow()
    tailer.poll()
    store.flush()

    with pytest.raises(InvalidSetting, match="-1 days"):
        store.retain(-1, today=DAY)
    assert len(store.parts()) == 1
    tailer.close()
    store.close()


FOLLOWER = """
import sys
from pathlib import Path
from tests.adapter.parquet.test_record import Place

tailer, store = Place(Path(sys.argv[1])).follow(max_rows=20, n_compacted=3)
print("ready", flush=True)
while True:
    progress = tailer.poll(max_bytes=2000)
    print(store.n_waiting, flush=True)
    if not progress.read_bytes:
        store.flush()
"""


@pytest.mark.slow
def test_a_follower_killed_again_and_again_keeps_each_record_once(place: Place) -> None:
    rng = random.Random(N_KILLS)
    for _ in range(N_KILLS):
        place.write(rng.randint(20, 60))
        process = subprocess.Popen(
            [sys.executable, "-c", FOLLOWER, str(place.root)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        for _ in range(rng.randint(1, 8)):
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        process.stdout.close()
        process.wait()
        if N_KILLS <= 20 or rng.random() < 0.02:
            place.settled()

    place.settled()
