"""First events of keys: each counted once, under the weight it had, whatever dies when."""

from __future__ import annotations

import sqlite3
from collections import Counter as Bag
from pathlib import Path
from random import Random

import msgspec
import pytest

from tests.journal.fake import START_US, FakeClock, new_ids, new_stream, new_turn, new_writer
from tidegate.journal.ledger import Ledger
from tidegate.journal.record import Flag
from tidegate.journal.tailer import Tailer
from tidegate.journal.watch import CONTRACT, ERRORS, FALLBACK, LATENCY, Watch
from tidegate.journal.watched import tallies, unwatch, watch, watches

RELEASE = "r1"
WATCH = Watch(RELEASE, "delay", stable=1, candidate=2, latency_us=500.0)


class Traffic:
    """Requests of sticky users to two arms, and what they should count to."""

    def __init__(self, folder: Path, *, n_users: int, seed: int = 0, keyed: bool = True) -> None:
        self.random = Random(seed)
        self.keyed = keyed
        self.users = [(self.random.randbytes(16), self.random.random()) for _ in range(n_users)]
        self.writer = new_writer(folder)
        self.n_sent = 0
        self.first: dict[tuple[str, bytes], str] = {}
        self.seen: dict[bytes, str] = {}

    def send(self, share: float, n: int, *, failing: float = 0.1) -> None:
        streams = {
            arm: msgspec.structs.replace(new_stream(version=version, arm=arm), share=part)
            for arm, version, part in (("stable", 1, 1 - share), ("candidate", 2, share))
        }
        for request in new_ids(
            n, at_us=START_US + self.n_sent * 1_000_000, seed=self.random.randrange(10**6)
        ):
            key, bucket = self.random.choice(self.users) if self.keyed else (request, self.random.random())
            arm = "candidate" if bucket < share else "stable"
            failed = self.random.random() < failing * (2 if arm == "candidate" else 1)
            slow = self.random.random() < failing
            turn = new_turn(
                [request],
                buckets=[bucket],
                flags=int(Flag.FALLBACK | Flag.INVALID) if failed else 0,
                errors=["contract_violation"] if failed else None,
                service_time_us=900.0 if slow else 100.0,
            )
            if self.keyed:
                turn.key_hashes = [key]
            self.writer.append([self.writer.stream(streams[arm]).encode(turn)])
            self.seen.setdefault(key, arm)
            for name, happened in ((ERRORS, failed), (CONTRACT, failed), (FALLBACK, failed), (LATENCY, slow)):
                if happened:
                    self.first.setdefault((name, key), arm)
            self.n_sent += 1

    def expected(self, name: str) -> Bag[str]:
        return Bag(arm for (event, _), arm in self.first.items() if event == name)


def counted(ledger: Ledger, name: str) -> Bag[str]:
    rows = tallies(ledger, RELEASE).events[name]
    return Bag(
        {
            "candidate": sum(row.fresh_candidate + row.back_candidate for row in rows),
            "stable": sum(row.fresh_stable + row.back_stable for row in rows),
        }
    )


@pytest.fixture
def place(tmp_path: Path):
    ledger = Ledger(tmp_path / "ledger.db")
    tailer = Tailer(tmp_path / "journal", ledger, clock=FakeClock())
    yield tmp_path / "journal", ledger, tailer
    tailer.close()
    ledger.close()


@pytest.mark.parametrize("keyed", [True, False])
def test_first_events_are_those_of_a_plain_count_over_several_phases(place, keyed):
    folder, ledger, tailer = place
    watch(ledger, WATCH)
    traffic = Traffic(folder, n_users=60, keyed=keyed)
    for share in (0.1, 0.3, 0.5):
        for _ in range(3):
            traffic.send(share, 60)
            tailer.poll()
    traffic.writer.close()

    for name in (ERRORS, CONTRACT, FALLBACK, LATENCY):
        assert counted(ledger, name) == traffic.expected(name)
    found = tallies(ledger, RELEASE)
    assert sum(key.candidate + key.stable for key in found.keys) == len(traffic.seen)
    assert sum(key.candidate for key in found.keys) == Bag(traffic.seen.values())["candidate"]
    assert (found.candidate + found.stable, found.carried, found.ignored) == (540, 0, 0)
    assert [key.share for key in found.keys] == (
        [0.1, 0.3, 0.5] if not keyed else [0.1, 0.3, 0.5][: len(found.keys)]
    )


def test_a_tailer_that_begins_again_goes_on_where_it_stopped(place):
    folder, ledger, tailer = place
    watch(ledger, WATCH)
    traffic = Traffic(folder, n_users=50, seed=3)
    for share in (0.2, 0.5):
        for _ in range(4):
            traffic.send(share, 40)
            tailer.close()
            tailer.poll()

    assert counted(ledger, ERRORS) == traffic.expected(ERRORS)
    assert sum(key.candidate + key.stable for key in tallies(ledger, RELEASE).keys) == len(traffic.seen)


def test_a_commit_that_fails_is_counted_once_when_it_is_repeated(place, monkeypatch):
    folder, ledger, tailer = place
    watch(ledger, WATCH)
    traffic = Traffic(folder, n_users=30, seed=5)
    traffic.send(0.5, 80)
    tailer.poll()
    traffic.send(0.5, 80)
    with monkeypatch.context() as patch:
        patch.setattr(
            Ledger, "add_refusals", lambda *_: (_ for _ in ()).throw(sqlite3.OperationalError("full"))
        )
        with pytest.raises(Exception, match="full"):
            tailer.poll()

    tailer.poll()

    assert counted(ledger, ERRORS) == traffic.expected(ERRORS)
    assert tallies(ledger, RELEASE).candidate + tallies(ledger, RELEASE).stable == 160


def test_keys_beyond_the_limit_are_left_out_in_both_arms_and_counted(place):
    folder, ledger, tailer = place
    watch(ledger, msgspec.structs.replace(WATCH, max_keys=20))
    traffic = Traffic(folder, n_users=200, seed=7)
    traffic.send(0.5, 300, failing=0.5)
    tailer.poll()

    found = tallies(ledger, RELEASE)

    assert sum(key.candidate + key.stable for key in found.keys) == 20
    assert found.ignored > 200
    assert sum(counted(ledger, ERRORS).values()) <= 20


def test_rows_that_their_own_key_did_not_draw_are_left_out(place):
    folder, ledger, tailer = place
    watch(ledger, WATCH)
    writer = new_writer(folder)
    stream = msgspec.structs.replace(new_stream(version=2, arm="candidate"), share=0.1)
    turn = new_turn(
        new_ids(1), rows_per_request=[2], buckets=[0.05, 0.7], key_hashes=[b"a" * 16, b"b" * 16], errors=["x"]
    )
    writer.append([writer.stream(stream).encode(turn)])
    tailer.poll()

    found = tallies(ledger, RELEASE)

    assert (found.candidate, found.carried) == (2, 1)
    assert counted(ledger, ERRORS)["candidate"] == 1


def test_records_of_another_service_version_or_share_are_no_evidence(place):
    folder, ledger, tailer = place
    watch(ledger, WATCH)
    writer = new_writer(folder)
    for service, version, arm, share in (
        ("churn", 2, "candidate", 0.1),
        ("delay", 3, "candidate", 0.1),
        ("delay", 2, "pinned", 0.1),
        ("delay", 1, "stable", 1.0),
    ):
        stream = msgspec.structs.replace(new_stream(service, version=version, arm=arm), share=share)
        turn = new_turn(new_ids(1, seed=version), buckets=[0.05], errors=["x"])
        writer.append([writer.stream(stream).encode(turn)])
    tailer.poll()

    found = tallies(ledger, RELEASE)

    assert (found.candidate, found.stable) == (0, 0)


def test_weights_are_the_share_for_new_keys_and_a_range_around_the_truth_for_known_ones(place):
    folder, ledger, tailer = place
    watch(ledger, WATCH)
    traffic = Traffic(folder, n_users=400, seed=9)
    for _ in range(12):
        traffic.send(0.3, 100, failing=0.05)
        tailer.poll()

    rows = [row for row in tallies(ledger, RELEASE).events[ERRORS] if row.back_candidate + row.back_stable]

    assert rows
    assert all(row.share == 0.3 and row.low <= row.high for row in rows)
    assert all(row.low > 0.2 and row.high < 0.4 for row in rows)
    # stable's failing users are taken away more slowly than the candidate's: its part of those at risk falls
    assert min(row.low for row in rows) < 0.3


def test_the_cut_names_what_had_been_read(place):
    folder, ledger, tailer = place
    watch(ledger, WATCH)
    traffic = Traffic(folder, n_users=5)
    traffic.send(0.5, 3)
    tailer.poll()

    (position,) = tallies(ledger, RELEASE).cut.values()

    assert position == next(folder.iterdir()).stat().st_size


def test_what_is_no_longer_watched_stays_as_it_was_counted(place):
    folder, ledger, tailer = place
    watch(ledger, WATCH)
    watch(ledger, WATCH)
    traffic = Traffic(folder, n_users=20)
    traffic.send(0.5, 30)
    tailer.poll()
    before = tallies(ledger, RELEASE)

    unwatch(ledger, RELEASE)
    traffic.send(0.5, 30)
    tailer.poll()

    after = tallies(ledger, RELEASE)
    assert watches(ledger) == []
    assert (after.events, after.keys) == (before.events, before.keys)
