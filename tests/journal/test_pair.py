"""What a shadow would have answered is held against what was answered, each pair once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.journal.fake import START_US, FakeClock, new_ids, new_turn, new_writer
from tidegate.contract.batch import Batch
from tidegate.contract.field import DataType
from tidegate.contract.layout import Column, Layout
from tidegate.core.digest import Digest
from tidegate.journal import pair
from tidegate.journal.ledger import Ledger
from tidegate.journal.pair import PairTally, differ, merge_pairs
from tidegate.journal.record import Flag, RecordKind, Stream, Turn
from tidegate.journal.segment import JournalWriter
from tidegate.journal.tailer import Tailer

LAYOUT = Layout(
    (Column("x", DataType.FLOAT64), Column("origin", DataType.CATEGORY, categories=("EWR", "JFK"))),
    (Column("p", DataType.FLOAT64),),
)
DIGEST = Digest("sha256:" + "0" * 64)
ANSWERS = Stream("delay", 1, DIGEST, LAYOUT, shadows=(2,))
COPIES = Stream("delay", 2, DIGEST, LAYOUT, "shadow", 1.0, RecordKind.SHADOW, tolerances=(("p", 0.1),))


def turn(ids: list[bytes], ps: list[float], origins: list[str] | None = None, **changes: object) -> Turn:
    n = len(ps)
    origin = np.empty(n, object)
    origin[:] = origins or ["EWR"] * n
    made = new_turn(ids, batch_rows=n, **changes)
    made.inputs = Batch({"x": np.zeros(n), "origin": origin}, n)
    made.outputs = Batch({"p": np.array(ps)}, n)
    return made


def failed(ids: list[bytes], code: str) -> Turn:
    made = turn(ids, [0.0] * len(ids), errors=[code] * len(ids), flags=int(Flag.FAILED))
    made.inputs = made.outputs = None
    return made


class Journal:
    """A journal of one worker, and the tailer that follows it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.writer: JournalWriter = new_writer(folder / "journal", max_bytes=1 << 22)
        self.ledger = Ledger(folder / "ledger.db")
        self.tailer = self.restart()

    def write(self, stream: Stream, made: Turn) -> None:
        self.writer.append([self.writer.stream(stream).encode(made)])

    def restart(self) -> Tailer:
        clock = FakeClock(START_US + 60_000_000)
        self.tailer = Tailer(self.folder / "journal", self.ledger, clock=clock)
        return self.tailer

    def total(self) -> PairTally:
        return merge_pairs(tally for _, tally in self.ledger.pairs("delay"))


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    made = Journal(tmp_path)
    yield made
    made.tailer.close()
    made.ledger.close()
    made.writer.close()


def test_answers_that_differ_by_more_than_the_tolerance_disagree(journal: Journal) -> None:
    ids = new_ids(4)
    journal.write(ANSWERS, turn(ids, [0.1, 0.2, 0.3, 0.4], ["EWR", "JFK", "JFK", "EWR"]))
    journal.write(COPIES, turn(ids, [0.15, 0.5, 0.3, np.nan]))

    journal.tailer.poll()

    ((key, tally),) = journal.ledger.pairs("delay")
    assert (key.version, key.shadow, key.arm) == (1, 2, "stable")
    assert (tally.pairs, tally.compared, tally.disagree, tally.unpaired) == (4, 4, 2, 0)
    assert tally.by_field == {"origin": {"EWR": [2, 1, 0], "JFK": [2, 1, 0]}}
    assert tally.key_pairs == 4


def test_who_failed_alone_is_told_from_both(journal: Journal) -> None:
    ids = new_ids(6)
    journal.write(ANSWERS, turn(ids[:3], [0.1, 0.1, 0.1]))
    journal.write(ANSWERS, failed(ids[3:5], "predictor_failed"))
    fallback = turn(ids[5:], [0.5], flags=int(Flag.FALLBACK), errors=["output_violation"])
    journal.write(ANSWERS, fallback)
    journal.write(COPIES, turn(ids[:1], [0.1]))
    journal.write(COPIES, failed(ids[1:4], "predictor_failed"))
    journal.write(COPIES, turn(ids[4:], [0.1, 0.1]))

    journal.tailer.poll()

    tally = journal.total()
    assert (tally.compared, tally.shadow_worse, tally.shadow_better, tally.both_failed) == (1, 2, 2, 1)
    assert tally.errors == {"predictor_failed": 3}
    assert tally.answer_errors == {"predictor_failed": 2, "output_violation": 1}


def test_times_are_compared_where_the_calls_were_alike(journal: Journal) -> None:
    ids = new_ids(4)
    for position, (ours_us, theirs_us, batch_rows) in enumerate(
        [(100.0, 350.0, 1), (100.0, 40.0, 1), (100.0, 150.0, 1), (100.0, 900.0, 8)]
    ):
        one = [ids[position]]
        journal.write(ANSWERS, turn(one, [0.1], service_time_us=ours_us))
        copy = turn(one, [0.1], service_time_us=theirs_us)
        copy.batch_rows = batch_rows
        journal.write(COPIES, copy)

    journal.tailer.poll()

    tally = journal.total()
    assert (tally.timed, tally.slower, tally.faster) == (3, 1, 1)
    assert sum(tally.shadow_times.values()) == sum(tally.answer_times.values()) == 4


def test_of_each_key_the_first_pair_counts_also_after_a_restart(journal: Journal) -> None:
    ids = new_ids(6)
    keys = [(b"%d" % number).ljust(16, b".") for number in (1, 1, 2, 2, 3, 1)]
    for position in (0, 1, 2):
        journal.write(ANSWERS, turn([ids[position]], [0.1], key_hashes=[keys[position]]))
        journal.write(COPIES, turn([ids[position]], [0.9], key_hashes=[keys[position]]))
    journal.tailer.poll()
    journal.tailer.close()
    journal.restart()
    for position in (3, 4, 5):
        journal.write(ANSWERS, turn([ids[position]], [0.1], key_hashes=[keys[position]]))
        journal.write(COPIES, turn([ids[position]], [0.9], key_hashes=[keys[position]]))

    journal.tailer.poll()

    tally = journal.total()
    assert (tally.pairs, tally.key_pairs, tally.key_disagree, tally.key_ignored) == (6, 3, 3, 0)


def test_keys_are_bounded_and_what_finds_no_place_is_counted(journal: Journal) -> None:
    journal.tailer._pairing._max_keys = 2
    ids = new_ids(4)
    keys = [(b"%d" % number).ljust(16, b".") for number in range(4)]
    journal.write(ANSWERS, turn(ids, [0.1] * 4, key_hashes=keys))
    journal.write(COPIES, turn(ids, [0.1] * 4, key_hashes=keys))

    journal.tailer.poll()

    tally = journal.total()
    assert (tally.key_pairs, tally.key_ignored) == (2, 2)


def test_rows_of_a_request_are_compared_row_by_row(journal: Journal) -> None:
    ids = new_ids(2)
    journal.write(ANSWERS, turn(ids, [0.1, 0.2, 0.3, 0.4, 0.5], rows_per_request=[2, 3]))
    journal.write(COPIES, turn(ids[1:], [0.3, 0.4, 0.9], rows_per_request=[3]))

    journal.tailer.poll()

    tally = journal.total()
    assert (tally.pairs, tally.disagree, tally.key_pairs, tally.key_disagree) == (3, 1, 1, 0)


def test_a_shadow_is_paired_once_though_the_tailer_begins_again_in_between(journal: Journal) -> None:
    ids = new_ids(3)
    journal.write(ANSWERS, turn(ids, [0.1, 0.2, 0.3]))
    journal.tailer.poll()
    journal.tailer.close()
    journal.restart()
    journal.write(COPIES, turn(ids, [0.1, 0.2, 0.3]))

    journal.tailer.poll()
    journal.tailer.close()
    journal.tailer.poll()

    tally = journal.total()
    assert (tally.pairs, tally.unpaired) == (3, 0)


def test_an_answer_that_is_read_after_its_shadow_is_paired_all_the_same(journal: Journal) -> None:
    ids = new_ids(3)
    journal.write(COPIES, turn(ids, [0.1, 0.2, 0.3]))
    journal.tailer.poll()
    lost = journal.total()
    journal.write(ANSWERS, turn(ids[:2], [0.1, 0.9]))
    journal.write(COPIES, turn(new_ids(1, seed=9), [0.1]))

    journal.tailer.poll()

    tally = journal.total()
    assert (lost.pairs, lost.unpaired) == (0, 3)
    assert (tally.pairs, tally.disagree, tally.unpaired) == (2, 1, 2)


def test_what_is_kept_is_bounded(journal: Journal) -> None:
    journal.tailer._pairing._max_kept = 10
    for seed in range(8):
        journal.write(ANSWERS, turn(new_ids(3, seed=seed), [0.1] * 3))
        journal.write(COPIES, turn(new_ids(1, seed=100 + seed), [0.1]))
        journal.tailer.poll()

    assert len(journal.tailer._pairing._kept) <= 10
    assert journal.total().unpaired == 8


counts = st.integers(0, 9)
tallies = st.builds(
    PairTally,
    pairs=counts,
    disagree=counts,
    slower=counts,
    errors=st.dictionaries(st.sampled_from("ab"), counts),
    shadow_times=st.dictionaries(counts, counts),
    by_field=st.dictionaries(
        st.sampled_from("xy"),
        st.dictionaries(st.sampled_from("uv"), st.lists(counts, min_size=3, max_size=3)),
    ),
)


@settings(max_examples=50)
@given(parts=st.lists(tallies, min_size=1, max_size=5), data=st.data())
def test_merging_does_not_depend_on_the_order(parts: list[PairTally], data: st.DataObject) -> None:
    copies = msgspec.convert(msgspec.to_builtins(parts), list[PairTally], strict=False)
    shuffled = data.draw(st.permutations(copies))

    assert merge_pairs(parts) == merge_pairs(shuffled)


@pytest.mark.parametrize(
    ("ones", "others", "tolerance", "unlike"),
    [
        ([1.0, 2.0], [1.05, 2.2], 0.1, [False, True]),
        ([1.0, 100.0], [1.04, 106.0], None, [False, True]),
        ([np.nan, np.nan], [np.nan, 1.0], 0.1, [False, True]),
        ([np.inf, np.inf], [np.inf, -np.inf], 0.1, [False, True]),
        ([True, False], [True, True], None, [False, True]),
        ([1, 2], [1, 3], 0.0, [False, True]),
        ([[1.0, 2.0], [1.0, 2.0]], [[1.0, 2.0], [1.0, 3.0]], 0.1, [False, True]),
    ],
)
def test_numbers_differ_by_more_than_their_tolerance(ones, others, tolerance, unlike) -> None:  # type: ignore[no-untyped-def]
    assert differ(np.array(ones), np.array(others), tolerance).tolist() == unlike


def test_texts_and_arrays_of_any_length_differ_by_what_they_hold() -> None:
    ones, others = np.empty(4, object), np.empty(4, object)
    ones[:] = ["a", None, np.array([1.0, 2.0]), np.array([1.0])]
    others[:] = ["b", None, np.array([1.0, 2.01]), np.array([1.0, 2.0])]

    assert differ(ones, others, 0.1).tolist() == [True, False, False, True]


def test_what_no_longer_matters_is_forgotten(journal: Journal) -> None:
    for version in range(2, 2 + pair.KEPT_SHADOWS + 3):
        answers = msgspec.structs.replace(ANSWERS, shadows=(version,))
        copies = msgspec.structs.replace(COPIES, version=version)
        ids = new_ids(1, seed=version)
        at_us = START_US + version * 60_000_000
        journal.write(answers, turn(ids, [0.1], key_hashes=[b"k" * 16], at_us=at_us))
        journal.write(copies, turn(ids, [0.1], key_hashes=[b"k" * 16], at_us=at_us))
        journal.tailer.poll()

    (kept,) = journal.ledger.connection.execute("SELECT count(*) FROM pair_key").fetchone()
    assert kept == pair.KEPT_SHADOWS
    assert journal.total().key_pairs == pair.KEPT_SHADOWS + 3
