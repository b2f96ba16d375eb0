"""Records with what became of them: each prediction once, and no outcome spoils another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import date
from pathlib import Path
from typing import Any

import msgspec
import polars as pl
import pytest

from tests.journal.fake import START_US, FakeClock, new_ids, new_stream, new_turn, new_writer
from tests.monitoring.stream import CONTRACT, subject
from tidegate.adapter.parquet.history import StoredHistory
from tidegate.adapter.parquet.record import RecordStore
from tidegate.evaluation.declaration import Evaluation
from tidegate.journal.codec import encode_outcomes
from tidegate.journal.ledger import Ledger
from tidegate.journal.record import Outcome
from tidegate.journal.tailer import Tailer
from tidegate.monitoring.subject import LABEL, LABELLED_AT, subject_of

DAY = date(2023, 11, 14)
Sent = Sequence[tuple[int, str, Any, int]]
"""Row, name, value and seconds after the prediction."""
Known = Callable[[Sent], pl.DataFrame]


@pytest.fixture
def known(tmp_path: Path) -> Known:
    """Return a function that makes four predictions, reports outcomes, and returns the records."""

    def report(sent: Sent) -> pl.DataFrame:
        clock = FakeClock()
        ids = new_ids(4)
        with closing(new_writer(tmp_path / "journal", clock=clock)) as writer:
            writer.append([writer.stream(new_stream()).encode(new_turn(ids))])
            for row, name, value, after_s in sent:
                told = msgspec.Raw(msgspec.json.encode(value))
                outcome = Outcome("delay", name, told, START_US + after_s * 1_000_000, ids[row])
                writer.append([encode_outcomes([outcome])])
        with (
            closing(RecordStore(tmp_path / "records", clock=clock)) as store,
            closing(Ledger(tmp_path / "ledger.db")) as ledger,
            closing(Tailer(tmp_path / "journal", ledger, clock=clock, sink=store)) as tailer,
        ):
            while tailer.poll(settle_now=True).read_bytes:
                pass
            store.flush()
        history = StoredHistory(tmp_path / "records", tmp_path / "ledger.db", "delay", outcome="late")
        return history.records(DAY, DAY).sort("output.p")

    return report


@pytest.mark.parametrize("odd", ["maybe", [1, 2], {"late": True}, 10**400])
def test_an_outcome_that_is_no_number_leaves_the_others_as_they_are(known: Known, odd: Any) -> None:
    table = known([(0, "late", True, 1), (1, "late", False, 1), (2, "late", odd, 1), (3, "late", 1.0, 1)])

    assert subject().prepared(table)[LABEL].to_list() == [1, 0, None, 1]
    assert len(subject().unreadable(table)) == 1


@pytest.mark.parametrize("classes", [(), ("no", "yes")])
def test_an_event_is_read_however_it_is_told(known: Known, classes: tuple[str, ...]) -> None:
    yes = classes[1] if classes else "true"
    table = known([(0, "late", yes, 1), (1, "late", False, 1), (2, "late", "True", 1), (3, "late", 0, 1)])
    watched = subject_of("loans", CONTRACT, evaluation=Evaluation(classes=classes))

    assert watched.prepared(table)[LABEL].to_list() == [1, 0, 1, 0]


@pytest.mark.parametrize(
    ("classes", "values", "labels"),
    [
        (("1", "2"), (1, 2, 2.0, 0), [0, 1, 1, None]),
        (("-1", "1"), (1, -1, 1, 0), [1, 0, 1, None]),
        (("1", "2"), ("1", "2", "x", "2"), [0, 1, None, 1]),
        (("no", "yes"), (1, 0, 1, 2), [1, 0, 1, None]),
    ],
)
def test_an_event_whose_classes_are_numbers_is_read_by_them(
    known: Known, classes: tuple[str, ...], values: tuple[Any, ...], labels: list[float | None]
) -> None:
    table = known([(row, "late", value, 1) for row, value in enumerate(values)])
    watched = subject_of("loans", CONTRACT, evaluation=Evaluation(classes=classes))

    assert watched.prepared(table)[LABEL].to_list() == labels
    assert len(watched.unreadable(table)) == labels.count(None)


@pytest.mark.parametrize(
    ("sent", "value", "after_s"),
    [
        ([(0, "late", 1, 1), (0, "outcome", 0, 2)], 0, 2),
        ([(0, "outcome", 0, 1), (0, "late", 1, 2)], 1, 2),
        ([(0, "outcome", 0, 1), (0, "late", 1, 1)], 1, 1),
        ([(0, "late", 1, 1), (0, "outcome", 0, 2), (0, "late", 2, 3), (0, "other", 9, 4)], 2, 3),
    ],
)
def test_of_two_outcomes_of_a_prediction_the_latest_counts(
    known: Known, sent: Sent, value: float, after_s: int
) -> None:
    table = known(sent)

    assert table[LABEL].to_list() == [value, None, None, None]
    assert table[LABELLED_AT].dt.epoch("us").to_list()[0] == START_US + after_s * 1_000_000
