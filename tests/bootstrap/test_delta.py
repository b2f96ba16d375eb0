"""Each record is once in a Delta table, whatever dies when; with the real library."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, suppress
from datetime import date
from pathlib import Path

import polars as pl
import pytest

from tests.adapter.parquet.test_record import DAY, DAY_US, CrashError, Place
from tests.journal.fake import START_US
from tidegate.adapter.delta.table import DeltaTables
from tidegate.adapter.parquet.outbox import Outbox
from tidegate.bootstrap.delta import DeltaCopy
from tidegate.core.error import Conflict, MissingExtra

deltalake = pytest.importorskip("deltalake")
N_KILLS = int(os.environ.get("TIDEGATE_KILLS", "3"))


class DeltaPlace(Place):
    """A journal, its record store, and tables beside it."""

    target = "lake"

    def settle(self) -> None:
        """Count what there is, and copy it."""
        tailer, store = self.follow(max_rows=20, n_compacted=3, copy_to=self.target)
        while tailer.poll(max_bytes=2_000).read_bytes:
            pass
        store.flush()
        tailer.close()
        store.close()
        self.copy()

    def copy(self) -> int:
        return DeltaCopy(self.root / "records", DeltaTables(str(self.root / self.target))).copy()

    def table(self, name: str = "delay") -> pl.DataFrame:
        return pl.read_delta(str(self.root / self.target / name))

    def check(self) -> None:
        """Every record is in the table once, and once in the files."""
        found = self.table()
        assert found.height == self.n_written
        assert found["prediction_id"].n_unique() == self.n_written
        assert sorted(found["prediction_id"].to_list()) == sorted(self.ids())
        with closing(Outbox(self.root / "records")) as outbox:
            assert outbox.waiting() == []


@pytest.fixture
def place(tmp_path: Path) -> Iterator[DeltaPlace]:
    with closing(DeltaPlace(tmp_path)) as place:
        yield place


def test_records_are_in_a_table_by_service_and_day(place: DeltaPlace) -> None:
    place.write(30)
    place.write(10, at_us=START_US + DAY_US)
    place.settle()
    place.write(10)
    place.settle()

    place.check()
    assert set(place.table()["day"].to_list()) == {DAY, date(2023, 11, 15)}
    days = {entry["partition"]["day"] for entry in _files(place)}
    assert days == {DAY, date(2023, 11, 15)}


def _files(place: DeltaPlace) -> Iterator[dict[str, dict[str, date]]]:
    table = deltalake.DeltaTable(str(place.root / place.target / "delay"))
    yield from pl.DataFrame(table.get_add_actions()).to_dicts()


@pytest.mark.slow
def test_records_from_before_are_copied_as_well(place: DeltaPlace) -> None:
    place.write(100)
    place.settled()
    place.settle()

    place.check()


@pytest.mark.slow
def test_what_waits_is_not_put_together_with_others_until_it_is_copied(place: DeltaPlace) -> None:
    for _ in range(6):
        place.write(10)
        tailer, store = place.follow(max_rows=20, n_compacted=3, copy_to=place.target)
        while tailer.poll(max_bytes=2_000).read_bytes:
            pass
        n_parts = len(store.parts())
        tailer.close()
        store.close()
    place.settle()
    place.check()
    place.write(10)
    place.settle()

    place.check()
    with closing(place.follow()[1]) as store:
        assert len(store.parts()) < n_parts


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_crash_around_the_commit_loses_and_doubles_nothing(
    place: DeltaPlace, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    place.write(50)
    with monkeypatch.context() as patched:

        def crash(*args: object, **kwargs: object) -> None:
            raise CrashError

        if when == "before":
            patched.setattr(deltalake, "write_deltalake", crash)
        else:
            patched.setattr(Outbox, "done", crash)
        with suppress(CrashError):
            place.settle()
    place.write(20)  # the next commit would have both
    place.settle()

    place.check()


def test_a_part_that_is_not_shown_yet_keeps_the_later_ones_back(place: DeltaPlace) -> None:
    place.write(60)
    tailer, store = place.follow(max_rows=20, copy_to=place.target)
    tailer.poll()
    store.flush()
    first = min(part.number for part in store.parts())
    store._index.execute("UPDATE part SET state = 'draft' WHERE number = ?", (first,))
    with closing(Outbox(place.root / "records")) as outbox:
        held = outbox.waiting()
    tailer.close()
    store.close()

    assert held == []


@pytest.mark.slow
def test_a_column_of_another_type_goes_to_a_table_of_its_contract(place: DeltaPlace) -> None:
    tables = DeltaTables(str(place.root / "lake"))
    old = pl.DataFrame({"x": [1.5], "day": [DAY]})
    wider = pl.DataFrame({"x": [2.5], "new": ["a"], "day": [DAY]})
    other = pl.DataFrame({"x": ["text"], "day": [DAY]})

    appended = [
        tables.append("s", "aaaa", {1: old}, sender="me"),
        tables.append("s", "bbbb", {2: wider}, sender="me"),
        tables.append("s", "cccc", {3: other}, sender="me"),
        tables.append("s", "cccc", {3: other}, sender="me"),
    ]

    assert appended == [1, 1, 1, 0]
    assert sorted(pl.read_delta(tables.address("s"))["x"].to_list()) == [1.5, 2.5]
    assert pl.read_delta(tables.address("s", "cccc"))["x"].to_list() == ["text"]


def test_types_that_delta_lacks_become_wider_ones(place: DeltaPlace) -> None:
    rows = pl.DataFrame(
        {
            "u8": pl.Series([255], dtype=pl.UInt8),
            "u16": pl.Series([65535], dtype=pl.UInt16),
            "u32": pl.Series([2**32 - 1], dtype=pl.UInt32),
            "u64": pl.Series([2**64 - 1], dtype=pl.UInt64),
            "took": pl.Series([7], dtype=pl.Int64).cast(pl.Duration("us")),
            "group": pl.Series(["a"], dtype=pl.Enum(["a", "b"])),
            "pair": pl.Series([[1, 2]], dtype=pl.Array(pl.UInt16, 2)),
            "day": [DAY],
        }
    )
    tables = DeltaTables(str(place.root / "lake"))
    for number in (1, 2):
        tables.append("s", "aaaa", {number: rows}, sender="me")

    found = pl.read_delta(tables.address("s")).row(0, named=True)
    assert (found["u8"], found["u16"], found["u32"], int(found["u64"])) == (255, 65535, 2**32 - 1, 2**64 - 1)
    assert (found["took"], found["group"], found["pair"]) == (7, "a", [1, 2])


@pytest.mark.slow
def test_a_place_that_was_named_before_is_not_filled_twice(place: DeltaPlace) -> None:
    place.write(20)
    place.settle()
    place.target = "elsewhere"
    place.settle()
    place.check()
    place.target = "lake"

    with closing(place.follow(copy_to="lake")[1]), closing(Outbox(place.root / "records")) as outbox:
        tables = DeltaTables(str(place.root / "lake"))
        rows = pl.DataFrame({"x": [1.0], "day": [DAY]})
        with pytest.raises(Conflict, match="already has records of this home"):
            tables.append("delay", "a", {1: rows}, sender=outbox.sender.name, former=outbox.sender.former)


def test_without_the_library_the_way_to_get_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "deltalake", None)

    with pytest.raises(MissingExtra, match=r"tidegate\[delta\]"):
        DeltaTables("lake")


COPIER = """
import sys
from pathlib import Path
from tests.bootstrap.test_delta import DeltaPlace

place = DeltaPlace(Path(sys.argv[1]))
tailer, store = place.follow(max_rows=20, n_compacted=3, copy_to=place.target)
print("ready", flush=True)
while True:
    progress = tailer.poll(max_bytes=2000)
    if not progress.read_bytes:
        store.flush()
    print(place.copy(), flush=True)
"""


@pytest.mark.slow
def test_a_copier_killed_again_and_again_copies_each_record_once(place: DeltaPlace) -> None:
    rng = random.Random(N_KILLS)
    for _ in range(N_KILLS):
        place.write(rng.randint(20, 60))
        process = subprocess.Popen(
            [sys.executable, "-c", COPIER, str(place.root)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        for _ in range(rng.randint(1, 5)):
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        process.stdout.close()
        process.wait()

    place.settle()
    place.check()
