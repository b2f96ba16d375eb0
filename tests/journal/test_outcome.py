"""Outcomes join their predictions once, however they are delivered."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.journal.fake import START_US, FakeClock, new_ids, new_stream, new_turn, new_writer
from tidegate.contract.batch import Batch
from tidegate.contract.field import DataType
from tidegate.contract.layout import Column, Layout
from tidegate.core.digest import Digest
from tidegate.core.identifier import format_prediction_id
from tidegate.journal import index as index_module
from tidegate.journal.codec import encode_outcomes
from tidegate.journal.ledger import JoinedOutcome, Ledger, OutcomeCounts
from tidegate.journal.outcome import OutcomeBook, describe_pending, history
from tidegate.journal.record import UNNAMED, Flag, Outcome, RecordKind, Stream
from tidegate.journal.segment import JournalWriter
from tidegate.journal.tailer import Progress, Tailer
from tidegate.journal.tally import merge


def new_outcome(request: bytes = b"", value: Any = True, **changes: Any) -> Outcome:
    fields: dict[str, Any] = {
        "service": "delay",
        "name": "late",
        "value": msgspec.Raw(msgspec.json.encode(value)),
        "received_us": START_US + 1_000_000,
        "request": request,
    }
    return Outcome(**(fields | changes))


class Scene:
    """A journal with its writer, and a ledger with its tailer."""

    def __init__(self, root: Path, **settings: Any) -> None:
        self.root = root
        self.clock = FakeClock(START_US)
        self.writer: JournalWriter = new_writer(root / "journal", clock=self.clock)
        self.ledger = Ledger(root / "ledger.db")
        self.settings = settings
        self.tailer = Tailer(root / "journal", self.ledger, clock=self.clock, **settings)
        self.n_made = 0

    def predict(self, n: int = 1, stream: Stream | None = None, **changes: Any) -> list[bytes]:
        ids = changes.pop("ids", None) or new_ids(n, at_us=self.clock.now_us, seed=self.n_made)
        self.n_made += 1
        turn = new_turn(ids, at_us=self.clock.now_us, **changes)
        self.writer.append([self.writer.stream(stream or new_stream()).encode(turn)])
        return ids

    def send(self, *outcomes: Outcome) -> None:
        self.writer.append([encode_outcomes(outcomes)])

    def poll(self, **options: Any) -> Progress:
        return self.tailer.poll(settle_now=options.pop("settle_now", True), **options)

    def restart(self) -> None:
        self.tailer.close()
        self.ledger.close()
        self.ledger = Ledger(self.root / "ledger.db")
        self.tailer = Tailer(self.root / "journal", self.ledger, clock=self.clock, **self.settings)

    def joined(self, service: str = "delay", **options: Any) -> list[JoinedOutcome]:
        return list(self.ledger.joined(service, **options))

    def counts(self) -> dict[str, int]:
        counts = msgspec.structs.asdict(self.ledger.outcome_counts())
        return {what: count for what, count in counts.items() if count}

    def close(self) -> None:
        self.tailer.close()
        self.ledger.close()
        self.writer.close()


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    made = Scene(tmp_path)
    yield made
    made.close()


def test_an_outcome_joins_its_prediction_with_what_was_predicted(scene: Scene) -> None:
    stream = new_stream(version=4, arm="candidate")
    first, second = scene.predict(2, stream, rows_per_request=[1, 3])
    scene.clock.forward(60)

    scene.send(new_outcome(second, 0.5, row=2, name="delay"))
    scene.poll()

    (found,) = scene.joined()
    assert found.prediction_id == format_prediction_id(second, 2)
    assert (found.version, found.arm, found.kind) == (4, "candidate", RecordKind.PREDICTION)
    assert (found.name, found.value, found.revision) == ("delay", 0.5, 1)
    assert found.outputs == {"p": pytest.approx(0.3)}
    assert found.minute == START_US // 60_000_000
    assert scene.counts() == {"delivered": 1, "joined": 1}
    assert merge(tally for _, tally in scene.ledger.tallies(version=4)).joined == 1
    assert first != second


def test_what_a_fallback_answered_tells_nothing_of_the_version(scene: Scene) -> None:
    (own,) = scene.predict()
    (instead,) = scene.predict(flags=int(Flag.FALLBACK), answered_by="version:3")

    scene.send(new_outcome(own, 1), new_outcome(instead, 0))
    scene.poll()

    assert [one.value for one in scene.joined()] == [1]
    assert {one.value: one.instead for one in scene.joined(fallbacks=True)} == {1: False, 0: True}
    assert merge(tally for _, tally in scene.ledger.tallies()).joined == 1


def test_a_repeated_outcome_is_counted_once(scene: Scene) -> None:
    (request,) = scene.predict()
    outcome = new_outcome(request, True, outcome_id="o-1")

    scene.send(outcome, outcome)
    scene.poll()
    scene.send(outcome)
    scene.poll()
    scene.restart()
    scene.send(outcome)
    scene.poll()

    assert len(scene.joined()) == 1
    assert scene.counts() == {"delivered": 4, "joined": 1, "repeated": 3}


def test_the_same_value_by_another_delivery_is_repeated(scene: Scene) -> None:
    (request,) = scene.predict()

    scene.send(new_outcome(request, {"a": 1, "b": 2}, outcome_id="o-1"))
    scene.send(new_outcome(request, {"b": 2, "a": 1}, outcome_id="o-2"))
    scene.poll()

    assert scene.counts() == {"delivered": 2, "joined": 1, "repeated": 1}
    assert [one.state for one in history(scene.ledger, "delay", (request, 0))] == ["current", "repeated"]


def test_a_corrected_outcome_keeps_its_history(scene: Scene) -> None:
    (request,) = scene.predict()
    scene.send(new_outcome(request, 1, received_us=START_US + 1))
    scene.poll()
    before = scene.joined()[0].changed

    scene.send(new_outcome(request, 2, received_us=START_US + 2))
    scene.poll()

    (found,) = scene.joined(after=before)
    assert (found.value, found.revision) == (2, 2)
    assert scene.counts() == {"delivered": 2, "joined": 1, "corrected": 1}
    kept = history(scene.ledger, "delay", (request, 0))
    assert [(one.value, one.state) for one in kept] == [(1, "superseded"), (2, "current")]
    assert scene.joined(after=found.changed) == []


def test_an_older_outcome_that_comes_later_does_not_replace_a_newer(scene: Scene) -> None:
    (request,) = scene.predict()
    scene.send(new_outcome(request, "new", received_us=START_US + 9))
    scene.poll()

    scene.send(new_outcome(request, "old", received_us=START_US + 1))
    scene.poll()

    assert [(one.value, one.revision) for one in scene.joined()] == [("new", 2)]
    kept = history(scene.ledger, "delay", (request, 0))
    assert [(one.value, one.state) for one in kept] == [("old", "superseded"), ("new", "current")]


def test_a_key_used_again_for_another_value_is_a_conflict(scene: Scene) -> None:
    (request,) = scene.predict()

    scene.send(new_outcome(request, 1, outcome_id="o-1"))
    scene.send(new_outcome(request, 2, outcome_id="o-1"))
    scene.poll()

    assert [one.value for one in scene.joined()] == [1]
    assert scene.counts() == {"delivered": 2, "joined": 1, "conflicting": 1}


def test_an_outcome_that_comes_before_its_prediction_waits(scene: Scene) -> None:
    (request,) = new_ids(1, seed=99)
    scene.send(new_outcome(request, received_us=START_US))
    scene.clock.forward(5)
    scene.poll()
    assert scene.counts() == {"delivered": 1, "pending": 1}
    assert describe_pending(scene.ledger)[0]["prediction_id"] == format_prediction_id(request, 0)

    scene.predict(ids=[request])
    scene.clock.forward(600)
    scene.poll(settle_now=False)

    assert scene.counts() == {"delivered": 1, "joined": 1}


def test_an_outcome_of_nothing_becomes_unknown(tmp_path: Path) -> None:
    scene = Scene(tmp_path, give_up_s=100)
    (real,) = scene.predict()
    scene.send(
        new_outcome(new_ids(1, seed=99)[0]),
        new_outcome(b"\xff" * 16),
        new_outcome(real, row=1),
        new_outcome(real, service="other"),
    )
    scene.poll()
    assert scene.counts() == {"delivered": 4, "pending": 4}

    for _ in range(10):
        scene.clock.forward(30)
        scene.poll(settle_now=False)

    assert scene.counts() == {"delivered": 4, "unknown": 4}
    assert scene.joined() == []
    scene.close()


@pytest.mark.parametrize("outcome_id", ["", "o-1"])
def test_an_outcome_given_up_as_unknown_is_tried_again_when_it_is_delivered_again(
    tmp_path: Path, outcome_id: str
) -> None:
    scene = Scene(tmp_path, give_up_s=100)
    (request,) = new_ids(1, seed=99)
    scene.send(new_outcome(request, outcome_id=outcome_id))
    scene.poll()
    scene.clock.forward(200)
    scene.poll()
    assert scene.counts() == {"delivered": 1, "unknown": 1}

    scene.predict(ids=[request])
    late = new_outcome(request, outcome_id=outcome_id, received_us=scene.clock.now_us)
    scene.send(late)
    scene.poll()
    scene.send(late)
    scene.poll()

    assert [one.received_us for one in scene.joined()] == [scene.clock.now_us]
    assert scene.counts() == {"delivered": 3, "unknown": 1, "joined": 1, "repeated": 1}
    scene.close()


def test_outcomes_wait_for_shadows_to_settle(scene: Scene) -> None:
    (request,) = scene.predict()
    scene.clock.forward(10)
    scene.send(new_outcome(request, received_us=scene.clock.now_us))
    scene.poll(settle_now=False)
    assert scene.counts() == {"delivered": 1, "pending": 1}

    scene.clock.now_us -= 10_000_000
    scene.predict(ids=[request], stream=new_stream(version=2, arm="shadow", kind=RecordKind.SHADOW))
    scene.clock.forward(12)
    scene.poll(settle_now=False)

    assert [(one.version, one.kind) for one in scene.joined()] == [
        (1, RecordKind.PREDICTION),
        (2, RecordKind.SHADOW),
    ]
    assert scene.counts() == {"delivered": 1, "joined": 1}


def keyed(request: bytes, hashes: list[bytes]) -> dict[str, Any]:
    return {"ids": [request], "rows_per_request": [len(hashes)], "key_hashes": hashes}


def test_a_key_and_a_time_name_the_latest_prediction_before_it(scene: Scene) -> None:
    ana, bob = b"a" * 16, b"b" * 16
    ids = new_ids(3)
    for position, hashes in enumerate([[ana, bob], [bob, ana], [bob]]):
        scene.predict(**keyed(ids[position], hashes))
        scene.clock.forward(100)

    scene.send(
        new_outcome(key_hash=ana, event_us=START_US + 100_000_000, name="at"),
        new_outcome(key_hash=ana, event_us=START_US + 99_999_999, name="before"),
        new_outcome(key_hash=bob, event_us=START_US + 10**12, name="last"),
        new_outcome(key_hash=bob, event_us=START_US - 1, name="never"),
        new_outcome(key_hash=b"c" * 16, event_us=START_US + 10**12, name="nobody"),
    )
    scene.poll()

    assert {one.name: one.prediction_id for one in scene.joined()} == {
        "at": format_prediction_id(ids[1], 1),
        "before": format_prediction_id(ids[0], 0),
        "last": format_prediction_id(ids[2], 0),
    }
    assert scene.counts() == {"delivered": 5, "joined": 3, "pending": 2}


def test_a_contract_with_a_time_finds_keys_by_it(scene: Scene) -> None:
    layout = Layout((Column("at", DataType.TIMESTAMP),), (Column("p", DataType.FLOAT64),), event_time="at")
    stream = Stream("delay", 1, Digest(""), layout)
    (request,) = new_ids(1)
    scene.predict(1, stream, ids=[request], inputs=Batch({"at": np.array([500])}, 1), key_hashes=[b"a" * 16])

    scene.send(new_outcome(key_hash=b"a" * 16, event_us=499), new_outcome(key_hash=b"a" * 16, event_us=501))
    scene.poll()

    assert scene.counts() == {"delivered": 2, "joined": 1, "pending": 1}


def test_keys_are_found_across_blocks_and_forgotten_after_the_window(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_module, "_KEY_BLOCK_ROWS", 2)
    scene = Scene(tmp_path, key_window_s=1000)
    ids = new_ids(8)
    for request in ids:
        scene.predict(**keyed(request, [b"a" * 16]))
        scene.poll()
        scene.clock.forward(300)

    at = [START_US + 300_000_000 * position for position in range(8)]
    scene.send(*(new_outcome(key_hash=b"a" * 16, event_us=at_us, name=f"{n}") for n, at_us in enumerate(at)))
    scene.poll()

    joined = {int(one.name): one.prediction_id for one in scene.joined()}
    assert joined == {n: format_prediction_id(ids[n], 0) for n in joined}
    assert {4, 5, 6, 7} <= set(joined) < set(range(8))
    scene.close()


@pytest.mark.parametrize("is_kept", [False, True], ids=["new ledger", "ledger of an older program"])
def test_an_event_in_the_far_future_does_not_make_the_others_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_kept: bool
) -> None:
    monkeypatch.setattr(index_module, "_KEY_BLOCK_ROWS", 2)
    scene = Scene(tmp_path, key_window_s=1000)
    layout = Layout((Column("at", DataType.TIMESTAMP),), (Column("p", DataType.FLOAT64),), event_time="at")
    stream = Stream("delay", 1, Digest(""), layout)
    ana, bob = b"a" * 16, b"b" * 16
    far_us = START_US + 10**15
    ids = new_ids(8)

    def ask(request: bytes, event_us: int, key: bytes) -> None:
        scene.predict(
            ids=[request], stream=stream, inputs=Batch({"at": np.array([event_us])}, 1), key_hashes=[key]
        )
        scene.poll()
        scene.clock.forward(1)

    def tell(name: str, key: bytes, event_us: int) -> None:
        scene.send(new_outcome(key_hash=key, event_us=event_us, name=name))

    ask(ids[0], far_us, bob)
    if is_kept:
        scene.ledger.connection.execute("UPDATE key_block SET max_us = ?", (far_us,))
    ask(ids[1], START_US + 500_000_000, ana)  # ahead, too, and not by far
    for request in ids[2:7]:
        ask(request, scene.clock.now_us, ana)
    tell("far", bob, far_us)
    tell("near", ana, scene.clock.now_us)
    tell("ahead", ana, START_US + 600_000_000)
    tell("before", bob, far_us - 1)
    scene.poll()

    assert {one.name: one.prediction_id for one in scene.joined()} == {
        "far": format_prediction_id(ids[0], 0),
        "near": format_prediction_id(ids[6], 0),
        "ahead": format_prediction_id(ids[1], 0),
    }

    scene.clock.forward(2000)
    for _ in range(3):
        ask(ids[7], scene.clock.now_us, ana)
    tell("later", bob, far_us)
    scene.poll()
    assert is_kept or "later" not in {one.name for one in scene.joined()}
    scene.close()


def test_predictions_that_failed_are_not_found_by_key(scene: Scene) -> None:
    scene.predict(1, key_hashes=[b"a" * 16], outputs=None, flags=int(Flag.FAILED))

    scene.send(new_outcome(key_hash=b"a" * 16, event_us=START_US + 10))
    scene.poll()

    assert scene.counts() == {"delivered": 1, "pending": 1}


@settings(max_examples=25)
@given(seed=st.integers(0, 2**32))
def test_any_order_of_delivery_ends_the_same(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    rng = random.Random(seed)
    scene = Scene(tmp_path_factory.mktemp("scene"), batch_bytes=500)
    ids = new_ids(12, seed=seed)
    outcomes = [
        new_outcome(request, value, received_us=START_US + order, outcome_id=f"{position}-{value}")
        for position, request in enumerate(ids)
        for order, value in enumerate(range(position % 3))
    ]
    steps: list[Any] = [*ids, *outcomes, *rng.sample(outcomes, 5)]
    rng.shuffle(steps)

    for step in steps:
        if isinstance(step, bytes):
            scene.predict(ids=[step])
        else:
            scene.send(step)
        if rng.random() < 0.3:
            scene.poll()
        if rng.random() < 0.1:
            scene.restart()
    scene.poll()

    assert {one.prediction_id: (one.value, one.revision) for one in scene.joined()} == {
        format_prediction_id(request, 0): (position % 3 - 1, position % 3)
        for position, request in enumerate(ids)
        if position % 3
    }
    counts = scene.ledger.outcome_counts("delay")
    assert counts == OutcomeCounts(delivered=17, joined=8, corrected=4, repeated=5)
    scene.close()


def test_what_became_of_outcomes_is_counted_from_a_minute_on(scene: Scene) -> None:
    first, second = scene.predict(2)
    later_us = START_US + 3_600_000_000
    (unknown,) = new_ids(1, seed=9)
    scene.send(
        new_outcome(first, 1, received_us=START_US),
        new_outcome(second, 1, received_us=later_us),
        new_outcome(unknown, 1, received_us=START_US),
    )
    scene.poll()

    whole = scene.ledger.outcome_counts("delay")
    recent = scene.ledger.outcome_counts("delay", since_minute=later_us // 60_000_000)

    assert (whole.delivered, whole.joined, whole.pending) == (3, 2, 1)
    assert (recent.delivered, recent.joined, recent.pending) == (1, 1, 0)


@pytest.mark.parametrize("polls", [True, False])
def test_without_a_key_a_value_that_is_told_again_after_another_stands_again(
    scene: Scene, polls: bool
) -> None:
    (request,) = scene.predict()
    for order, value in enumerate([True, False, True, True]):
        scene.send(new_outcome(request, value, received_us=START_US + order))
        if polls:
            scene.poll()
    scene.poll()

    assert [one.value for one in scene.joined()] == [True]
    kept = history(scene.ledger, "delay", (request, 0))
    assert [(one.value, one.state) for one in kept] == [(False, "superseded"), (True, "current")]
    counts = scene.counts()
    assert counts.pop("corrected") + counts.pop("repeated") == 3
    assert counts == {"delivered": 4, "joined": 1}


def test_a_value_with_its_key_is_the_same_delivery_whatever_was_told_since(scene: Scene) -> None:
    (request,) = scene.predict()
    for order, value in enumerate([1, 2, 1]):
        scene.send(new_outcome(request, value, received_us=START_US + order, outcome_id=f"o-{value}"))
        scene.poll()

    assert [one.value for one in scene.joined()] == [2]
    assert scene.counts() == {"delivered": 3, "joined": 1, "corrected": 1, "repeated": 1}


@settings(max_examples=25)
@given(seed=st.integers(0, 2**32))
def test_any_order_of_delivery_ends_with_the_value_received_last(
    tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    rng = random.Random(seed)
    scene = Scene(tmp_path_factory.mktemp("scene"), batch_bytes=500)
    (request,) = scene.predict()
    values = [rng.randrange(3) for _ in range(rng.randint(1, 8))]
    outcomes = [
        new_outcome(request, value, received_us=START_US + order, outcome_id=rng.choice(["", "", f"{order}"]))
        for order, value in enumerate(values)
    ]
    rng.shuffle(outcomes)

    for outcome in [*outcomes, *rng.sample(outcomes, len(outcomes) // 2)]:
        scene.send(outcome)
        if rng.random() < 0.5:
            scene.poll()
        if rng.random() < 0.1:
            scene.restart()
    scene.poll()

    assert [one.value for one in scene.joined()] == values[-1:]
    states = [one.state for one in history(scene.ledger, "delay", (request, 0))]
    assert states.count("current") == 1
    counts = scene.counts()
    assert counts["delivered"] == sum(counts.values()) - counts["delivered"]
    scene.close()


@pytest.mark.parametrize(
    ("first", "second", "what"),
    [(1, 1.0, "repeated"), ({"a": [2.0]}, {"a": [2]}, "repeated"), (1e300, int(1e300), "repeated"),
     (1, True, "corrected"), (0.0, False, "corrected"), (1, 1.5, "corrected")],
)  # fmt: skip
@pytest.mark.parametrize("ids", [("", ""), ("o-1", "o-2")])
def test_numbers_are_the_same_by_value(
    scene: Scene, first: Any, second: Any, what: str, ids: tuple[str, str]
) -> None:
    (request,) = scene.predict()
    for order, (value, outcome_id) in enumerate(zip((first, second), ids, strict=True)):
        scene.send(new_outcome(request, value, received_us=START_US + order, outcome_id=outcome_id))
    scene.poll()

    assert scene.counts() == {"delivered": 2, "joined": 1, what: 1}


def test_many_outcomes_are_joined_in_rounds(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tidegate.journal.tailer._JOIN_LIMIT", 7)
    ids = [request for _ in range(20) for request in scene.predict(5)]

    scene.send(*(new_outcome(request, position) for position, request in enumerate(ids)))
    progress = scene.poll()

    assert progress.settled == 100
    assert {one.prediction_id: one.value for one in scene.joined()} == {
        format_prediction_id(request, 0): position for position, request in enumerate(ids)
    }


def test_predictions_are_found_in_a_large_journal_by_few_blocks(scene: Scene) -> None:
    ids = []
    for _ in range(300):
        ids += scene.predict(10)
        scene.clock.forward(7)
    scene.poll()

    scene.send(*(new_outcome(request) for request in ids[::97]))
    scene.poll()

    assert len(scene.joined()) == len(ids[::97])
    (n_blocks,) = scene.ledger.connection.execute("SELECT count(*) FROM block").fetchone()
    assert 1 < n_blocks < 300


@pytest.mark.parametrize(
    "changes",
    [{"value": msgspec.Raw(b'"\xff"')}, {"event_us": 10**30}],
    ids=["no UTF-8", "far time"],
)
def test_outcome_that_cannot_be_read_is_counted_and_does_not_stop_the_others(tmp_path, changes):
    scene = Scene(tmp_path)
    (request,) = scene.predict()
    scene.send(msgspec.structs.replace(new_outcome(request), **changes), new_outcome(request, value=True))

    scene.poll()

    assert scene.counts() == {"delivered": 2, "unreadable": 1, "joined": 1}


@pytest.mark.parametrize(("late_s", "unnamed_s", "values"), [(1, 2, [False]), (2, 1, [True]), (1, 1, [True])])
def test_an_outcome_without_a_name_stands_for_a_named_one_unless_that_came_later(
    scene: Scene, late_s: int, unnamed_s: int, values: list[bool]
) -> None:
    (request,) = scene.predict()
    scene.send(
        new_outcome(request, True, received_us=START_US + late_s * 1_000_000),
        new_outcome(request, False, name=UNNAMED, received_us=START_US + unnamed_s * 1_000_000),
        new_outcome(request, 7, name="other", received_us=START_US + 9_000_000),
    )
    scene.poll()

    assert [one.value for one in scene.joined(name="late", unnamed=True)] == values
    assert [one.value for one in scene.joined(name="late")] == [True]
    assert len(scene.joined()) == 3


def test_an_outcome_that_cannot_be_counted_is_set_aside_and_the_others_are_joined(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    join = OutcomeBook._join

    def fails(book: OutcomeBook, outcome: Any, *args: Any, **options: Any) -> Any:
        found = join(book, outcome, *args, **options)
        return found if outcome.value != '"odd"' else 1 / 0

    monkeypatch.setattr(OutcomeBook, "_join", fails)
    ids = scene.predict(4)
    scene.send(*(new_outcome(one, value) for one, value in zip(ids, [1, "odd", "odd", 4], strict=True)))

    progress = scene.poll()
    scene.send(new_outcome(ids[0], 5, received_us=START_US + 2_000_000))
    scene.poll()

    assert progress.settled == 4
    assert sorted(one.value for one in scene.joined()) == [4, 5]
    assert scene.counts() == {"delivered": 5, "joined": 2, "corrected": 1, "unreadable": 2}
    assert merge(tally for _, tally in scene.ledger.tallies()).joined == 2
