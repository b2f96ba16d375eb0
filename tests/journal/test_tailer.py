"""Every record is counted once, whatever dies when."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.journal.fake import START_US, FakeClock, new_ids, new_stream, new_turn, new_writer
from tidegate.core.error import Conflict, NotFound
from tidegate.journal import tailer as tailer_module
from tidegate.journal.codec import FRAME_HEAD, encode_event, encode_outcomes, encode_refusals, frame
from tidegate.journal.ledger import Ledger, LedgerUnavailable, OutcomeCounts
from tidegate.journal.reader import End, list_segments
from tidegate.journal.record import Event, Outcome, Refusal
from tidegate.journal.tailer import Tailer
from tidegate.journal.tally import US_PER_MINUTE, merge

MINUTE = START_US // US_PER_MINUTE


def write(
    folder: Path, *sizes: int, worker: int = 0, service: str = "delay", max_bytes: int = 1 << 20
) -> None:
    """Write turns of these numbers of requests, one append each."""
    writer = new_writer(folder, worker=worker, max_bytes=max_bytes)
    encoder = writer.stream(new_stream(service))
    for position, size in enumerate(sizes):
        writer.append([encoder.encode(new_turn(new_ids(size, seed=1000 * worker + position)))])
    writer.close()


_opened: list[Ledger] = []


@pytest.fixture(autouse=True)
def _close_ledgers() -> Iterator[None]:
    yield
    while _opened:
        _opened.pop().close()


def open_tailer(folder: Path, *, batch_bytes: int = 1 << 20) -> tuple[Tailer, Ledger]:
    ledger = Ledger(folder / "ledger.db")
    _opened.append(ledger)
    return Tailer(
        folder / "journal", ledger, clock=FakeClock(START_US + 60_000_000), batch_bytes=batch_bytes
    ), ledger


def total(ledger: Ledger, service: str = "delay") -> int:
    return merge(tally for _, tally in ledger.tallies(service)).requests


def test_all_segments_of_all_workers_are_counted(tmp_path: Path) -> None:
    write(tmp_path / "journal", 1, 2, 3, worker=0)
    write(tmp_path / "journal", 4, 5, worker=1)
    write(tmp_path / "journal", 7, worker=2, service="churn")
    tailer, ledger = open_tailer(tmp_path)

    progress = tailer.poll()

    assert (progress.requests, progress.behind_bytes, progress.damages) == (22, 0, [])
    assert total(ledger) == 15
    assert total(ledger, "churn") == 7
    assert {segment.end for segment in ledger.segments()} == {End.COMPLETE}


def test_nothing_is_counted_again(tmp_path: Path) -> None:
    write(tmp_path / "journal", 1, 2, 3)
    tailer, ledger = open_tailer(tmp_path)
    tailer.poll()

    assert tailer.poll().read_bytes == 0
    tailer.close()
    assert tailer.poll().read_bytes == 0
    again, ledger = open_tailer(tmp_path)
    assert again.poll().read_bytes == 0
    assert total(ledger) == 6


def test_a_segment_is_followed_while_it_grows(tmp_path: Path) -> None:
    writer = new_writer(tmp_path / "journal", max_bytes=400)
    encoder = writer.stream(new_stream())
    tailer, ledger = open_tailer(tmp_path)
    seen = []
    for size in (1, 2, 3, 4, 5):
        writer.append([encoder.encode(new_turn(new_ids(size, seed=size)))])
        tailer.poll()
        seen.append(total(ledger))

    assert seen == [1, 3, 6, 10, 15]
    assert len(ledger.segments()) > 1
    writer.close()


def test_a_poll_reads_no_more_than_it_may(tmp_path: Path) -> None:
    write(tmp_path / "journal", *[1] * 200, max_bytes=4000)
    tailer, ledger = open_tailer(tmp_path, batch_bytes=1000)

    first = tailer.poll(max_bytes=5000)

    assert 0 < first.requests < 100
    assert first.behind_bytes > 0
    while tailer.poll(max_bytes=5000).behind_bytes:
        assert tailer.behind_bytes() > 0
    assert total(ledger) == 200


def test_more_segments_than_may_be_open_are_all_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tailer_module, "_MAX_OPEN", 2)
    write(tmp_path / "journal", *[1] * 60, max_bytes=300)
    tailer, ledger = open_tailer(tmp_path)
    n_segments = len(list_segments(tmp_path / "journal"))

    progress = tailer.poll()

    assert n_segments > 10
    assert progress.behind_bytes == 0
    assert total(ledger) == 60


def test_damage_is_reported_and_the_next_segment_goes_on(tmp_path: Path) -> None:
    write(tmp_path / "journal", 1, 2, 3, 4, max_bytes=600)
    damaged, *rest = list_segments(tmp_path / "journal")
    data = bytearray(damaged.path.read_bytes())
    data[-100] ^= 4
    damaged.path.write_bytes(data)
    tailer, ledger = open_tailer(tmp_path)

    progress = tailer.poll()

    assert rest
    assert [one.segment for one in progress.damages] == [damaged.name]
    assert [one.segment for one in ledger.damages()] == [damaged.name]
    assert 4 <= total(ledger) < 10
    assert tailer.poll().damages == []


def test_a_frame_that_cannot_be_understood_costs_itself_alone(tmp_path: Path) -> None:
    writer = new_writer(tmp_path / "journal")
    encoder = writer.stream(new_stream())
    good = [encoder.encode(new_turn(new_ids(1, seed=seed))) for seed in range(3)]
    body = bytearray(good[1][FRAME_HEAD.size :])
    body[8:12] = (40).to_bytes(4, "little")  # more requests than it has
    writer.append([good[0], frame(bytes(body)), good[2], frame(b"\x04\x01\x00\x00no json")])
    writer.close()
    tailer, ledger = open_tailer(tmp_path)

    progress = tailer.poll()

    assert total(ledger) == 2
    assert len(progress.damages) == 2
    assert all("cannot be understood" in one.reason for one in ledger.damages())


def test_a_turn_of_an_undeclared_stream_is_damage(tmp_path: Path) -> None:
    other = new_writer(tmp_path / "other")
    lost = other.stream(new_stream()).encode(new_turn(new_ids(1)))
    other.close()
    writer = new_writer(tmp_path / "journal")
    writer._declarations[lost[10:12]] = encode_event(Event("stand.in", 1))
    writer.append([lost])
    writer.close()
    tailer, _ = open_tailer(tmp_path)

    (damage,) = tailer.poll().damages

    assert "never declared" in damage.reason


def test_frames_of_the_future_are_passed_over(tmp_path: Path) -> None:
    writer = new_writer(tmp_path / "journal")
    encoder = writer.stream(new_stream())
    turn = encoder.encode(new_turn(new_ids(1)))
    newer = bytearray(turn[FRAME_HEAD.size :])
    newer[1] = 9
    writer.append([frame(bytes([77, 1, 0, 0])), turn, frame(bytes(newer))])
    writer.close()
    tailer, ledger = open_tailer(tmp_path)

    assert tailer.poll().damages == []
    assert total(ledger) == 1


def test_refusals_are_counted_by_minute_and_code(tmp_path: Path) -> None:
    writer = new_writer(tmp_path / "journal")
    for at_us in (START_US, START_US + 1, START_US + US_PER_MINUTE):
        writer.append([encode_refusals([Refusal("delay", "queue_full", 5, at_us)])])
    writer.close()
    tailer, ledger = open_tailer(tmp_path)

    tailer.poll()

    assert ledger.refusals("delay") == {
        ("delay", MINUTE, "queue_full"): 10,
        ("delay", MINUTE + 1, "queue_full"): 5,
    }
    assert ledger.refusals("other") == {}


def test_tallies_can_be_asked_for_by_part(tmp_path: Path) -> None:
    write(tmp_path / "journal", 1, 2)
    tailer, ledger = open_tailer(tmp_path)
    tailer.poll()

    assert ledger.tallies("delay", version=1, arm="stable", since_minute=MINUTE, until_minute=MINUTE + 1)
    assert not ledger.tallies("delay", version=2)
    assert not ledger.tallies("delay", arm="candidate")
    assert not ledger.tallies("delay", since_minute=MINUTE + 1)
    assert not ledger.tallies("delay", until_minute=MINUTE)
    reading = Ledger(tmp_path / "ledger.db", read_only=True)
    assert reading.tallies() == ledger.tallies()
    reading.close()


def test_two_tailers_do_not_both_count(tmp_path: Path) -> None:
    write(tmp_path / "journal", 1, 2)
    first, ledger = open_tailer(tmp_path)
    second, other = open_tailer(tmp_path)
    first.poll()
    assert second.poll().requests == 0
    write(tmp_path / "journal", 4, worker=1)
    first.poll()
    write(tmp_path / "journal", 5, worker=2)

    with pytest.raises(Conflict):
        second.poll()
    first.poll()
    assert total(ledger) == total(other) == 12


def test_a_ledger_that_is_not_there_is_not_made_by_reading(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        Ledger(tmp_path / "ledger.db", read_only=True)


class Crash(BaseException):
    """Stands for the end of the process: nothing may catch it."""


class CrashingConnection:
    """A connection whose process dies at its n-th statement, before or after it is done."""

    def __init__(self, connection: sqlite3.Connection, step: int, *, after: bool) -> None:
        self._connection = connection
        self._left = step
        self._after = after
        self.is_dead = False

    def _run(self, call: Callable[..., Any], *args: Any) -> Any:
        if self.is_dead:
            raise Crash
        self._left -= 1
        if self._left == 0 and not self._after:
            self._die()
        found = call(*args)
        if self._left == 0:
            found.close()  # from Python 3.13 on an open cursor, which the exception holds, keeps the lock
            self._die()
        return found

    def _die(self) -> None:
        self.is_dead = True
        self._connection.close()  # as the system does: what is not committed is gone
        raise Crash

    def execute(self, *args: Any) -> Any:
        return self._run(self._connection.execute, *args)

    def executemany(self, *args: Any) -> Any:
        return self._run(self._connection.executemany, *args)

    def close(self) -> None:
        self._connection.close()


def send_outcomes(folder: Path, requests: list[bytes]) -> None:
    writer = new_writer(folder, worker=9, clock=FakeClock(START_US + 10**6))
    outcomes = [Outcome("delay", "late", msgspec.Raw(b"true"), START_US, request) for request in requests]
    for outcome in [*outcomes, *outcomes[:2]]:
        writer.append([encode_outcomes([outcome])])
    writer.close()


def poll_often(tailer: Tailer) -> None:
    for _ in range(40):
        tailer.poll(max_bytes=300, settle_now=True)


def crash_points() -> Iterator[tuple[int, bool]]:
    for step in range(1, 160, 4):
        yield step, False
        yield step + 2, True


@pytest.mark.parametrize(("step", "after"), list(crash_points()))
def test_a_crash_between_any_two_steps_counts_nothing_twice(tmp_path: Path, step: int, after: bool) -> None:
    write(tmp_path / "journal", 1, 2, 3, 4, 5, max_bytes=500)
    send_outcomes(tmp_path / "journal", new_ids(5, seed=4))
    tailer, ledger = open_tailer(tmp_path, batch_bytes=300)
    connection = CrashingConnection(ledger.connection, step, after=after)
    ledger.connection = connection  # type: ignore[assignment]  # has what the ledger calls
    with pytest.raises(Crash):
        poll_often(tailer)

    restarted, ledger = open_tailer(tmp_path, batch_bytes=300)
    poll_often(restarted)

    assert merge(tally for _, tally in ledger.tallies()).requests == 15
    assert merge(tally for _, tally in ledger.tallies()).joined == 5
    assert ledger.outcome_counts() == OutcomeCounts(delivered=7, joined=5, repeated=2)
    assert restarted.behind_bytes() == 0


def test_a_ledger_that_cannot_be_written_says_so_and_goes_on_later(tmp_path: Path) -> None:
    write(tmp_path / "journal", 1, 2)
    tailer, ledger = open_tailer(tmp_path)
    ledger.connection.execute("PRAGMA query_only = 1")

    with pytest.raises(LedgerUnavailable, match="cannot be written"):
        tailer.poll()
    ledger.connection.execute("PRAGMA query_only = 0")
    tailer.poll()

    assert total(ledger) == 3


def test_a_file_that_is_no_ledger_is_not_opened(tmp_path: Path) -> None:
    (tmp_path / "ledger.db").write_bytes(b"not a database at all" * 100)

    with pytest.raises(LedgerUnavailable, match="cannot be opened"):
        Ledger(tmp_path / "ledger.db")


def test_a_ledger_at_rest_can_be_read(tmp_path: Path) -> None:
    write(tmp_path / "journal", 1, 2)
    tailer, ledger = open_tailer(tmp_path)
    tailer.poll()
    ledger.close()

    reading = Ledger(tmp_path / "ledger.db", read_only=True)

    assert total(reading) == 3
    reading.close()
