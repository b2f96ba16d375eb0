"""A segment goes only when nothing needs it, and then for good, whatever dies when."""

from __future__ import annotations

import itertools
import os
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest

from tests.journal.fake import START_US, FakeClock, new_ids, new_stream, new_turn, new_writer
from tidegate.journal.codec import encode_outcomes
from tidegate.journal.ledger import Ledger
from tidegate.journal.reader import list_segments
from tidegate.journal.record import Outcome
from tidegate.journal.retention import RetentionPolicy, SegmentKeeper, cleared
from tidegate.journal.tailer import Tailer
from tidegate.journal.tally import merge
from tidegate.journal.watch import Watch
from tidegate.journal.watched import unwatch, watch

DAY_S = 86_400
OLD = RetentionPolicy(keep_days=1)


class CrashError(BaseException):
    """The process is gone."""


class Place:
    """A journal of three small segments, its ledger, and files that hold all of it unless told otherwise."""

    def __init__(self, root: Path) -> None:
        self.folder = root / "journal"
        self.clock = FakeClock(START_US)
        self.ledger_path = root / "ledger.db"
        self.in_files = 1 << 60
        self.mature_s = float(DAY_S)
        self.ids: list[bytes] = []
        self.open()

    def open(self) -> None:
        self.ledger = Ledger(self.ledger_path)
        self.tailer = Tailer(self.folder, self.ledger, clock=self.clock)
        self.keeper = SegmentKeeper(
            self.folder,
            self.ledger,
            clock=self.clock,
            stored=lambda name: self.in_files,
            mature_s=lambda service: self.mature_s,
        )

    def reopen(self) -> None:
        self.close()
        self.open()

    def close(self) -> None:
        self.tailer.close()
        self.ledger.close()

    def write(self, n_segments: int = 3, **options: object) -> None:
        for _ in range(n_segments):
            writer = new_writer(self.folder, clock=self.clock)
            encoder = writer.stream(new_stream())
            ids = new_ids(4, at_us=self.clock.now_us, seed=len(self.ids))
            self.ids += ids
            writer.append([encoder.encode(new_turn(ids, at_us=self.clock.now_us, **options))])
            writer.close()
            self.clock.forward(1)

    def outcome(self, request: bytes) -> None:
        writer = new_writer(self.folder, clock=self.clock, worker=1)
        writer.append(
            [encode_outcomes([Outcome("delay", "late", msgspec.Raw(b"1"), self.clock.now_us, request)])]
        )
        writer.close()

    @property
    def requests(self) -> int:
        return merge(tally for _, tally in self.ledger.tallies()).requests

    def reasons(self) -> set[str]:
        return {each.reason for each in self.keeper.segments()}


@pytest.fixture
def place(tmp_path: Path):  # type: ignore[no-untyped-def]
    found = Place(tmp_path)
    yield found
    found.close()


def test_a_segment_that_is_old_counted_stored_and_mature_goes(place: Place) -> None:
    place.write()
    place.tailer.poll()
    place.clock.forward(3 * DAY_S)

    gone = place.keeper.clear(OLD)
    again = place.tailer.poll()

    assert gone.count == 3
    assert cleared(place.ledger) == gone
    assert list_segments(place.folder) == []
    assert (again.rows, place.requests) == (0, 12)


@pytest.mark.parametrize("policy", [RetentionPolicy(), RetentionPolicy(keep_days=-1, max_bytes=-1)])
def test_nothing_goes_without_a_policy(place: Place, policy: RetentionPolicy) -> None:
    place.write()
    place.tailer.poll()
    place.clock.forward(1000 * DAY_S)

    assert place.keeper.clear(policy).count == 0
    assert place.reasons() == {""}


def test_what_is_not_counted_stays(place: Place) -> None:
    place.write()
    place.clock.forward(1000 * DAY_S)

    assert place.keeper.clear(OLD).count == 0
    assert place.reasons() == {"not counted yet"}


def test_what_grows_stays(place: Place) -> None:
    writer = new_writer(place.folder, clock=place.clock)
    writer.append([writer.stream(new_stream()).encode(new_turn(new_ids(2)))])
    place.tailer.poll()
    place.clock.forward(1000 * DAY_S)

    assert place.keeper.clear(OLD).count == 0
    assert place.reasons() == {"it grows, or is not counted to its end"}


def test_what_is_not_in_files_stays(place: Place) -> None:
    place.write()
    place.tailer.poll()
    place.clock.forward(1000 * DAY_S)
    place.in_files = 10

    assert place.keeper.clear(OLD).count == 0
    assert place.reasons() == {"its records are not in files yet"}


def test_what_is_damaged_stays(place: Place) -> None:
    place.write(1)
    (entry,) = list_segments(place.folder)
    os.truncate(entry.path, entry.path.stat().st_size - 3)
    place.tailer.poll()
    place.clock.forward(1000 * DAY_S)

    assert place.keeper.clear(OLD).count == 0
    assert "damaged" in place.reasons().pop()


def test_outcomes_have_their_time_before_the_prediction_goes(place: Place) -> None:
    place.mature_s = 30.0 * DAY_S
    place.write()
    place.tailer.poll()
    place.clock.forward(30 * DAY_S)
    size = RetentionPolicy(keep_days=1, max_bytes=1)

    before = place.keeper.clear(size)
    told = place.reasons()
    place.clock.forward(2 * 3600)

    assert before.count == 0
    assert told == {"outcomes of delay may still come"}
    assert place.keeper.clear(size).count == 3


def test_predictions_with_keys_stay_as_long_as_keys_are_looked_up(place: Place) -> None:
    place.write(key_hashes=[bytes([n]) * 16 for n in range(1, 5)])
    place.tailer.poll()
    place.clock.forward(6 * DAY_S)
    early = place.keeper.clear(OLD)
    place.clock.forward(2 * DAY_S)

    assert early.count == 0
    assert place.keeper.clear(OLD).count == 3


def test_an_outcome_that_waits_keeps_its_prediction(place: Place) -> None:
    place.write()
    place.tailer.poll()
    place.clock.forward(3 * DAY_S)
    place.outcome(place.ids[0])
    place.tailer.poll()

    assert "an outcome waits to be joined" in place.reasons()
    place.clock.forward(10)
    place.tailer.poll()
    place.keeper.clear(OLD)
    counts = place.ledger.outcome_counts()
    assert (counts.joined, counts.unknown) == (1, 0)
    assert place.reasons() <= {"", "it grows, or is not counted to its end"}


def test_a_release_that_is_under_way_keeps_its_services_segments(place: Place) -> None:
    place.write()
    place.tailer.poll()
    place.clock.forward(3 * DAY_S)
    watch(place.ledger, Watch("r1", "delay", 1, 2))
    early = place.keeper.clear(OLD)
    unwatch(place.ledger, "r1")

    assert early.count == 0
    assert place.keeper.clear(OLD).count == 3


def test_above_the_size_the_oldest_go_and_the_others_stay(place: Place) -> None:
    place.write(5)
    place.tailer.poll()
    place.clock.forward(3 * DAY_S)
    sizes = [each.size_bytes for each in place.keeper.segments()]
    names = [each.name for each in place.keeper.segments()]

    gone = place.keeper.clear(RetentionPolicy(max_bytes=sum(sizes[2:])))

    assert gone.count == 2
    assert [each.name for each in place.keeper.segments()] == names[2:]


def test_a_copy_that_comes_back_is_not_counted_again(place: Place) -> None:
    place.write(1)
    place.tailer.poll()
    (entry,) = list_segments(place.folder)
    copy = entry.path.read_bytes()
    place.clock.forward(3 * DAY_S)
    place.keeper.clear(OLD)
    place.reopen()
    entry.path.write_bytes(copy)

    assert place.tailer.poll().rows == 0
    assert place.requests == 4
    assert "copy" in place.reasons().pop()


@pytest.mark.parametrize("step", range(6))
def test_a_crash_between_any_two_steps_loses_and_doubles_nothing(
    place: Place, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """A step is a file that is deleted, the folder that is made durable, or a transaction."""
    place.write()
    place.tailer.poll()
    place.clock.forward(3 * DAY_S)
    left = itertools.count(step, -1)

    def dying(real):  # type: ignore[no-untyped-def]
        def act(*args, **kwargs):  # type: ignore[no-untyped-def]
            if next(left) <= 0:
                raise CrashError
            return real(*args, **kwargs)

        return act

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", dying(Path.unlink))
        patched.setattr(os, "fsync", dying(os.fsync))
        patched.setattr(Ledger, "transaction", dying(Ledger.transaction))
        with suppress(CrashError):
            place.keeper.clear(OLD)
    place.reopen()
    place.tailer.poll()

    assert place.requests == 12
    place.keeper.clear(OLD)
    assert cleared(place.ledger).count == 3
    assert list_segments(place.folder) == []
    assert place.ledger.segments() == []
    assert place.tailer.poll().rows == 0
    assert place.requests == 12
