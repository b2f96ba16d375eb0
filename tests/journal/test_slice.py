"""Counts by slice add up to the counts, whatever comes in which order."""

from __future__ import annotations

import json
import random
from collections import Counter
from itertools import pairwise
from pathlib import Path

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.journal.fake import START_US, FakeClock, new_ids, new_writer
from tidegate.cli.main import cli
from tidegate.contract.batch import Batch
from tidegate.contract.field import DataType, Field, Role
from tidegate.contract.layout import journal_layout
from tidegate.contract.schema import Contract, Schema
from tidegate.contract.slicing import MAX_VALUES, Slicing, slicing_of
from tidegate.control.journal import JournalCollector
from tidegate.control.metric import exposition
from tidegate.core.digest import Digest
from tidegate.journal.codec import encode_outcomes
from tidegate.journal.ledger import Ledger
from tidegate.journal.record import Flag, Outcome, Stream, Turn
from tidegate.journal.slice import OTHER, SliceTally, add_sliced, read_slices, roll_up
from tidegate.journal.tailer import Tailer
from tidegate.journal.tally import US_PER_MINUTE

CONTRACT = Contract(
    Schema(
        (
            Field("carrier", DataType.CATEGORY, categories=("AA", "UA")),
            Field("origin", DataType.STRING, optional=True),
            Field("hour", DataType.INT64, ge=0, lt=24),
            Field("age", DataType.FLOAT64, ge=0, le=100),
            Field("amount", DataType.FLOAT64),
            Field("night", DataType.BOOL, roles=(Role.PROTECTED,)),
            Field("sex", DataType.CATEGORY, categories=("f", "m"), roles=(Role.PROTECTED,), sensitive=True),
            Field("name", DataType.STRING, sensitive=True),
        )
    ),
    Schema((Field("p", DataType.FLOAT64, ge=0, le=1),)),
)
SLICING = slicing_of(
    CONTRACT, ["carrier", "origin", "hour", "age", "amount", "name"], judged="p", outcome="late"
)
STREAM = Stream("delay", 1, Digest("sha256:" + "0" * 64), journal_layout(CONTRACT), slicing=SLICING)


class Place:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.clock = FakeClock(START_US + 1_000_000)
        self.ledger = Ledger(root / "ledger.db")
        self.tailer = Tailer(root / "journal", self.ledger, clock=self.clock)
        self.n_written = 0

    def write(
        self, rows: list[dict[str, object]], *, at_us: int = START_US, **changes: object
    ) -> list[bytes]:
        ids = new_ids(len(rows), at_us=at_us, seed=self.n_written)
        self.n_written += len(rows)
        columns = {
            field.name: np.array([row.get(field.name) for row in rows], dtype=field.type.dtype)
            for field in CONTRACT.input.fields
            if field.name != "name"
        }
        scores = np.array([row.get("p", 0.5) for row in rows], dtype=np.float64)
        turn = Turn(
            ids,
            [at_us] * len(rows),
            Batch(columns, len(rows)),
            Batch({"p": scores}, len(rows)),
            service_time_us=100.0,
            batch_rows=len(rows),
        )
        for name, value in changes.items():
            setattr(turn, name, value)
        writer = new_writer(self.root / "journal", clock=self.clock)
        writer.append([writer.stream(STREAM).encode(turn)])
        writer.close()
        self.clock.forward(0.001)
        return ids

    def tell(self, request: bytes, value: object, *, name: str = "late") -> None:
        writer = new_writer(self.root / "journal", clock=self.clock)
        raw = msgspec.Raw(json.dumps(value).encode())
        writer.append([encode_outcomes([Outcome("delay", name, raw, self.clock.now_us, request)])])
        writer.close()
        self.clock.forward(0.001)

    def count(self) -> dict[str, dict[str, SliceTally]]:
        while self.tailer.poll(settle_now=True).read_bytes:
            pass
        return self.read()

    def read(self) -> dict[str, dict[str, SliceTally]]:
        total: dict[str, dict[str, SliceTally]] = {}
        for _, sliced in read_slices(self.ledger.connection, "delay"):
            add_sliced(total, sliced)
        return total

    def close(self) -> None:
        self.tailer.close()
        self.ledger.close()


@pytest.fixture
def place(tmp_path: Path):  # type: ignore[no-untyped-def]
    found = Place(tmp_path)
    yield found
    found.close()


def row(**values: object) -> dict[str, object]:
    given = {"carrier": "AA", "origin": "JFK", "hour": 7, "age": 33.0, "amount": 12.0, "night": False}
    return given | {"sex": "f", **values}


def test_what_is_declared_or_protected_is_counted_apart_and_nothing_sensitive() -> None:
    assert [each.field for each in SLICING.fields] == [
        "carrier", "origin", "hour", "age", "amount", "night", "sex",
    ]  # fmt: skip


def test_each_value_has_its_counts(place: Place) -> None:
    place.write([row(p=0.25), row(carrier="UA", p=0.5), row(carrier="UA", origin=None, hour=23, p=1.0)])

    found = place.count()

    assert {value: tally.rows for value, tally in found["carrier"].items()} == {"AA": 1, "UA": 2}
    assert found["carrier"]["UA"].mean_score == 0.75
    assert found["carrier"]["UA"].service_us == 200
    assert set(found["origin"]) == {"JFK", "missing"}
    assert set(found["hour"]) == {"7", "23"}
    assert set(found["age"]) == {"30 to 40"}
    assert set(found["amount"]) == {"10 to 20"}
    assert set(found["night"]) == {"false"}
    assert set(found["sex"]) == {"0"}  # its code, never its name


def test_flags_are_counted_for_their_rows_only(place: Place) -> None:
    place.write([row(), row(carrier="UA")], flags=[0, Flag.FAILED | Flag.FALLBACK])

    found = place.count()["carrier"]

    assert (found["UA"].failed, found["UA"].fallback) == (1, 1)
    assert (found["AA"].failed, found["AA"].fallback) == (0, 0)


def test_outcomes_give_the_loss_of_each_slice_and_corrections_replace_it(place: Place) -> None:
    first, second, third = place.write([row(p=0.5), row(carrier="UA", p=0.2), row(carrier="UA", p=0.2)])
    place.tell(first, True)
    place.tell(second, False)
    place.tell(second, True)  # corrected
    place.tell(second, True)  # repeated
    place.tell(third, 3.0, name="revenue")
    place.tell(third, {"minutes": 3})  # nothing that a probability could be held against

    found = place.count()["carrier"]

    assert (found["AA"].joined, found["UA"].joined) == (1, 1)
    assert found["AA"].mean_loss == pytest.approx(0.25)
    assert found["UA"].mean_loss == pytest.approx(0.64)
    assert found["UA"].mean_outcome == 1.0


@pytest.mark.parametrize("value", [1e200, -1e308, 10**400], ids=["square", "least", "no float"])
def test_an_outcome_too_great_for_a_loss_is_joined_and_those_after_it_are_counted(
    place: Place, value: float
) -> None:
    first, second = place.write([row(p=0.5), row(p=0.5)])
    place.tell(first, value)
    place.tell(second, True)
    found = place.count()["carrier"]["AA"]
    place.tell(first, True)  # corrected

    assert (found.joined, found.mean_loss, found.mean_outcome) == (1, 0.25, 1.0)
    assert place.count()["carrier"]["AA"].joined == 2
    assert [one.value for one in place.ledger.joined("delay")] == [True, True]


def test_a_field_with_too_many_values_has_one_count_for_the_rest_also_after_a_restart(place: Place) -> None:
    place.write([row(origin=f"A{n}") for n in range(MAX_VALUES)])
    place.count()
    place.close()
    again = Place(place.root)
    again.n_written = place.n_written
    again.clock.now_us = place.clock.now_us
    again.write([row(origin=f"B{n}") for n in range(10)] + [row(origin="A3")])

    found = again.count()["origin"]
    again.close()
    place.tailer, place.ledger = again.tailer, again.ledger

    assert len(found) == MAX_VALUES + 1
    assert found[OTHER].rows == 10
    assert found["A3"].rows == 2


@pytest.mark.slow
@settings(max_examples=40)
@given(
    rows=st.lists(
        st.tuples(st.sampled_from(["AA", "UA"]), st.integers(0, 23), st.integers(0, 3)),
        min_size=1,
        max_size=30,
    ),
    cuts=st.lists(st.integers(0, 30), max_size=3),
)
def test_any_partition_into_frames_and_minutes_adds_up_to_the_whole(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[tuple[str, int, int]],
    cuts: list[int],
) -> None:
    place = Place(tmp_path_factory.mktemp("home"))
    for low, high in pairwise(sorted({0, len(rows), *(min(cut, len(rows)) for cut in cuts)})):
        minutes = [START_US + minute * US_PER_MINUTE for *_, minute in rows[low:high]]
        place.write([row(carrier=c, hour=h) for c, h, _ in rows[low:high]], arrived_us=minutes)
    found = place.count()
    by_minute = {key.minute for key, _ in read_slices(place.ledger.connection, "delay")}
    place.close()

    assert {v: t.rows for v, t in found["carrier"].items()} == Counter(c for c, _, _ in rows)
    assert {v: t.rows for v, t in found["hour"].items()} == Counter(str(h) for _, h, _ in rows)
    assert by_minute == {START_US // US_PER_MINUTE + minute for *_, minute in rows}


def test_old_minutes_become_hours_and_old_hours_days_without_a_change_of_the_sum(place: Place) -> None:
    rng = random.Random(0)
    for _ in range(30):
        at_us = START_US - rng.randint(0, 50 * 1440) * US_PER_MINUTE
        place.write([row(carrier=rng.choice(["AA", "UA"]))], at_us=at_us)
    before = place.count()
    now = START_US // US_PER_MINUTE

    with place.ledger.transaction():
        n_gone = roll_up(place.ledger.connection, now)
        again = roll_up(place.ledger.connection, now)
    keys = [key.minute for key, _ in read_slices(place.ledger.connection, "delay")]

    assert place.read() == before
    assert n_gone > 0
    assert again == 0
    assert all(minute % 60 == 0 for minute in keys if minute < now - 1500)
    assert all(minute % 1440 == 0 for minute in keys if minute < now - 37 * 1440)


def test_a_person_and_prometheus_read_what_was_counted(place: Place) -> None:
    first, second, _ = place.write([row(p=0.5), row(carrier="UA", p=0.0), row(carrier="UA", p=0.0)])
    place.tell(first, True)
    place.tell(second, True)
    place.count()

    shown = CliRunner().invoke(cli, ["journal", "slices", "delay", "--json", "--home", str(place.root)])
    worst = json.loads(shown.output)[0]
    collector = JournalCollector(place.root / "journal", place.root / "ledger.db", clock=place.clock)
    metrics = exposition(place.root, collector).decode()

    assert (worst["field"], worst["rows"], worst["mean_loss"], worst["rest_loss"]) == ("age", 3, 0.625, None)
    carriers = [each for each in json.loads(shown.output) if each["field"] == "carrier"]
    assert [(each["value"], each["mean_loss"], each["rest_loss"]) for each in carriers] == [
        ("UA", 1.0, 0.25),
        ("AA", 0.25, 1.0),
    ]
    assert 'tidegate_slice_rows{field="carrier",service="delay",value="UA"} 2.0' in metrics
    assert 'tidegate_slice_score_mean{field="carrier",service="delay",value="AA"} 0.5' in metrics
    assert "tidegate_journal_bytes" in metrics


def test_a_service_that_declares_nothing_is_not_counted_apart(place: Place) -> None:
    assert Slicing() == slicing_of(Contract(CONTRACT.output, CONTRACT.output), [])
