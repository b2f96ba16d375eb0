"""Outcomes as they mature: counted once, when their requests are old enough, by arm and by pair."""

from __future__ import annotations

from collections import Counter as Bag
from pathlib import Path
from random import Random

import msgspec
import numpy as np
import pytest

from tests.journal.fake import START_US, FakeClock, new_ids, new_stream, new_turn, new_writer
from tidegate.contract.batch import Batch
from tidegate.journal.experiment import ArmCount, ExperimentCounts, ExperimentWatch, arm_counts
from tidegate.journal.ledger import Ledger
from tidegate.journal.matured import (
    SLACK_MS,
    MaturedCounts,
    OutcomeEvent,
    OutcomeWatch,
    forget_matured,
    outcome_tallies,
)
from tidegate.journal.record import RecordKind
from tidegate.journal.tailer import Tailer

WRONG = OutcomeEvent("wrong", "late", against="p")
REFUND = OutcomeEvent("refunds", "refund")
WATCH = OutcomeWatch("r1", "delay", 1, 2, since_us=START_US, horizon_s=60.0, events=(WRONG, REFUND))
SLACK_S = SLACK_MS / 1000


class Place:
    """A journal, its ledger, and users who ask twice a second and say later what came of it."""

    def __init__(self, folder: Path, *, keyed: bool = True) -> None:
        self.folder = folder / "journal"
        self.clock = FakeClock()
        self.ledger = Ledger(folder / "ledger.db")
        self.tailer = Tailer(self.folder, self.ledger, clock=self.clock)
        self.writer = new_writer(self.folder)
        self.random = Random(1)
        self.keyed = keyed
        self.users = [(self.random.randbytes(16), self.random.random()) for _ in range(80)]
        self.asked: list[tuple[bytes, bytes, str, float, float | None, bool | None, bool | None]] = []
        self.counts = self.count_anew()

    def count_anew(self) -> MaturedCounts:
        return MaturedCounts(self.ledger, self.folder, clock=self.clock)

    def ask(self, n: int, *, share: float = 0.5, shadows: bool = False, knows: float = 0.8) -> None:
        for _ in range(n):
            self.clock.forward(0.5)
            (request,) = new_ids(1, at_us=self.clock.now_us, seed=self.random.randrange(10**6))
            key, bucket = self.random.choice(self.users) if self.keyed else (request, self.random.random())
            arm = "candidate" if bucket < share else "stable"
            says, shadow = self.random.random(), self.random.random() if shadows else None
            part = share if arm == "candidate" else 1 - share
            self.record(arm, says, request=request, key=key, bucket=bucket, share=part)
            if shadow is not None:
                self.record("shadow", shadow, request=request, key=key, bucket=bucket)
            late = self.random.random() < 0.5 if self.random.random() < knows else None
            refund = True if self.random.random() < 0.2 else None
            self.asked.append((request, key, arm, says, shadow, late, refund))
            self.tell(request, "late", late)
            self.tell(request, "refund", refund)

    def record(self, arm, says, *, request, key, bucket, share=1.0) -> None:
        version = 1 if arm == "stable" else 2
        kind = RecordKind.SHADOW if arm == "shadow" else RecordKind.PREDICTION
        stream = msgspec.structs.replace(new_stream(version=version, arm=arm, kind=kind), share=share)
        turn = new_turn([request], at_us=self.clock.now_us, buckets=[bucket])
        turn.outputs = Batch({"p": np.array([says])}, 1)
        if self.keyed:
            turn.key_hashes = [key]
        self.writer.append([self.writer.stream(stream).encode(turn)])

    def tell(self, request: bytes, name: str, value: bool | None) -> None:
        if value is not None:
            self.ledger.connection.execute(
                "INSERT INTO truth VALUES ('delay', ?, 0, ?, ?, 1, 1, 0, 0)",
                (request, name, "true" if value else "false"),
            )

    def look(self, n: int = 40) -> None:
        self.tailer.poll()
        for _ in range(n):
            self.counts.advance(WATCH)

    def found(self, event: OutcomeEvent) -> tuple[Bag[str], Bag[str]]:
        tallies = outcome_tallies(self.ledger, WATCH, event.name)
        events = Bag(
            candidate=sum(each.fresh_candidate + each.back_candidate for each in tallies.events),
            stable=sum(each.fresh_stable + each.back_stable for each in tallies.events),
        )
        keys = Bag(
            candidate=sum(each.candidate for each in tallies.keys),
            stable=sum(each.stable for each in tallies.keys),
        )
        return +events, +keys

    def expected(self, event: OutcomeEvent, *, n: int | None = None) -> tuple[Bag[str], Bag[str]]:
        first_event: dict[bytes, str] = {}
        first_seen: dict[bytes, str] = {}
        for request, key, arm, says, _, late, refund in self.asked[:n]:
            who = key if self.keyed else request
            if event is WRONG and late is None:
                continue
            first_seen.setdefault(who, arm)
            if (refund is True) if event is REFUND else abs(says - late) > 0.5:
                first_event.setdefault(who, arm)
        return Bag(first_event.values()), Bag(first_seen.values())

    def close(self) -> None:
        self.tailer.close()
        self.ledger.close()


@pytest.fixture(params=[True, False], ids=["keyed", "each request"])
def place(request, tmp_path):
    found = Place(tmp_path, keyed=request.param)
    yield found
    found.close()


def test_nothing_counts_before_it_is_old_enough_and_then_once(place):
    place.ask(100)  # over 50 s
    place.look()
    young = [place.found(event) for event in (WRONG, REFUND)]
    place.clock.forward(60.0 + SLACK_S - 20.0)
    place.look()
    part = place.found(WRONG)
    place.clock.forward(30.0)
    place.look()
    place.look()

    assert young == [(Bag(), Bag()), (Bag(), Bag())]
    assert part == place.expected(WRONG, n=59) or part == place.expected(WRONG, n=60)
    assert place.found(WRONG) == place.expected(WRONG)
    assert place.found(REFUND) == place.expected(REFUND)


def test_a_process_that_begins_again_goes_on_where_the_ledger_stands(place):
    for _ in range(6):
        place.ask(40)
        place.look()
        place.counts = place.count_anew()
    place.clock.forward(100.0)
    for _ in range(60):
        place.look(1)
        place.counts = place.count_anew()

    assert place.found(WRONG) == place.expected(WRONG)
    assert place.found(REFUND) == place.expected(REFUND)


def test_pairs_share_their_outcome_and_each_key_counts_once(place):
    place.ask(200, share=0.0, shadows=True)
    place.clock.forward(100.0)
    place.look()

    worse, better, n, known = 0, 0, 0, set()
    for request, key, _, says, shadow, late, _ in place.asked:
        who = key if place.keyed else request
        if late is None or who in known:
            continue
        known.add(who)
        stable, candidate = abs(says - late) > 0.5, abs(shadow - late) > 0.5
        n, worse, better = n + 1, worse + (candidate > stable), better + (stable > candidate)
    tallies = outcome_tallies(place.ledger, WATCH, WRONG.name)
    assert (tallies.pairs, tallies.worse, tallies.better) == (n, worse, better)
    assert tallies.keys == []  # no arm of the candidate's answered


def test_a_wall_clock_that_jumps_ahead_makes_nothing_older(tmp_path):
    place = Place(tmp_path)
    place.look()
    place.ask(20)
    steady = place.clock.monotonic_s
    place.clock.monotonic_s = lambda: steady() - 3600.0
    place.clock.forward(3600.0)
    place.look()

    assert place.found(REFUND) == (Bag(), Bag())
    place.close()


@pytest.mark.parametrize("event", [WRONG, REFUND], ids=lambda each: each.name)
def test_an_experiment_counts_each_keys_first_known_outcome_and_all_keys(place, event):
    arms = {"stable": 1, "candidate": 2}
    watch = ExperimentWatch("e1", "delay", arms, since_us=START_US, horizon_s=60.0, event=event)
    for _ in range(5):
        place.ask(60)
        place.tailer.poll()
        counts = ExperimentCounts(place.ledger, place.folder, clock=place.clock)
        counts.advance(watch)
    place.clock.forward(100.0)
    for _ in range(40):
        counts.advance(watch)

    drawn, known = {}, {}
    for request, key, arm, says, _, late, refund in place.asked:
        who = key if place.keyed else request
        drawn.setdefault(who, arm)
        if event is REFUND:
            known.setdefault(who, (arm, refund is True))
        elif late is not None:
            known.setdefault(who, (arm, abs(says - late) > 0.5))
    expected = {}
    for arm in arms:
        values = [float(value) for whose, value in known.values() if whose == arm]
        n_keys = sum(whose == arm for whose in drawn.values())
        expected[arm] = ArmCount(n_keys, len(values), sum(values), sum(values))
    assert arm_counts(place.ledger, "e1", arms) == expected


def test_what_has_ended_keeps_its_counts_and_drops_its_keys(place):
    place.ask(50)
    place.clock.forward(200.0)
    place.look()
    before = place.found(WRONG)
    forget_matured(place.ledger, "r1")

    (n_keys,) = place.ledger.connection.execute("SELECT count(*) FROM watch_key").fetchone()
    assert n_keys == 0
    assert place.found(WRONG) == before


@pytest.mark.parametrize("value", ["9" * 400, "1e200"], ids=["no float", "square"])
def test_an_outcome_too_great_to_count_with_stops_neither_releases_nor_experiments(place, value):
    place.ask(60, knows=1.0)
    ledger = place.ledger.connection
    (told,) = ledger.execute("SELECT count(*) FROM truth WHERE name = 'late'").fetchone()
    ledger.execute("UPDATE truth SET value = ? WHERE name = 'late'", (value,))
    ledger.execute(
        "UPDATE truth SET value = 'true' WHERE request = (SELECT min(request) FROM truth) AND name = 'late'"
    )
    place.clock.forward(60.0 + SLACK_S)
    place.look()
    arms = {"stable": 1, "candidate": 2}
    watch = ExperimentWatch(
        "e1", "delay", arms, since_us=START_US, horizon_s=60.0, event=OutcomeEvent("is", "late"), number=True
    )
    counts = ExperimentCounts(place.ledger, place.folder, clock=place.clock)
    for _ in range(5):
        counts.advance(watch)

    tallies = outcome_tallies(place.ledger, WATCH, "wrong")
    assert told == 60
    assert sum(each.fresh_candidate + each.fresh_stable for each in tallies.events) > 0
    assert [
        sum(getattr(each, name) for each in arm_counts(place.ledger, "e1", arms).values())
        for name in ("known", "total", "squares")
    ] == [1, 1.0, 1.0]


def test_outcomes_without_a_name_are_the_one_that_the_service_is_judged_by_and_no_other(place):
    place.ask(60)
    place.ledger.connection.execute("UPDATE truth SET name = 'outcome' WHERE name = 'late'")
    place.tailer.poll()
    place.clock.forward(100.0)
    judged = msgspec.structs.replace(WRONG, unnamed=True)
    for _ in range(40):
        place.counts.advance(msgspec.structs.replace(WATCH, events=(judged, REFUND)))

    assert place.found(WRONG) == place.expected(WRONG)
    assert place.found(REFUND) == place.expected(REFUND)
