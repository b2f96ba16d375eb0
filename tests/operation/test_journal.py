"""The journal as a person looks at it: filtered, in order of time, whole up to the first damage."""

from __future__ import annotations

from contextlib import closing
from operator import attrgetter

import msgspec
import pytest

from tests.journal.fake import START_US, FakeClock, new_ids, new_stream, new_turn, new_writer
from tidegate.core.error import NotFound
from tidegate.core.identifier import format_prediction_id, format_uuid
from tidegate.journal import codec
from tidegate.journal.ledger import Ledger
from tidegate.journal.reader import End, list_segments
from tidegate.journal.record import Event, Flag, Outcome, RecordKind, Refusal
from tidegate.journal.tailer import Tailer
from tidegate.operation.journal import JournalView, Wanted, check_segments, count, prediction_ids
from tidegate.route.route import bucket_of

SECOND_US = 1_000_000


def put(writer, stream, turn):
    writer.append([writer.stream(stream).encode(turn)])


def read(folder, **wanted):
    view = JournalView(folder, Wanted(**wanted))
    records = list(view.read())
    view.close()
    return records


@pytest.fixture
def folder(tmp_path):
    """Two workers' segments: predictions of two services, an outcome, a refusal and an event."""
    ids = new_ids(4)
    first, second = new_writer(tmp_path), new_writer(tmp_path, worker=1)
    put(first, new_stream(), new_turn(ids[:1], at_us=START_US + 2 * SECOND_US))
    put(second, new_stream(version=2), new_turn(ids[1:2], at_us=START_US + SECOND_US))
    put(second, new_stream("price"), new_turn(ids[2:3], at_us=START_US + 3 * SECOND_US))
    failed = {"errors": ["overloaded"], "outputs": None, "flags": int(Flag.FAILED)}
    put(first, new_stream(), new_turn(ids[3:], at_us=START_US + 4 * SECOND_US, **failed))
    late = Outcome("delay", "late", msgspec.Raw(b"true"), START_US + 5 * SECOND_US, ids[0], 0)
    first.append([codec.encode_outcomes([late])])
    first.append([codec.encode_refusals([Refusal("delay", "overloaded", 7, START_US + 6 * SECOND_US)])])
    first.append([codec.encode_event(Event("worker.stopped", START_US + 7 * SECOND_US))])
    first.close()
    second.close()
    return tmp_path


def test_records_of_all_workers_come_in_order_of_time(folder):
    records = read(folder)

    assert [record.at_us for record in records] == sorted(record.at_us for record in records)
    assert [record.kind.value for record in records] == [
        "prediction", "prediction", "prediction", "prediction", "outcome", "refusal", "event",
    ]  # fmt: skip


def test_a_prediction_says_what_was_asked_and_answered(folder):
    record = read(folder, version=2)[0]

    assert record.service == "delay"
    assert record.inputs == {"x": 0.0}
    assert record.outputs == {"p": 0.0}
    assert record.service_us == 100.0
    assert record.error is None


@pytest.mark.parametrize(
    ("wanted", "n_records"),
    [
        ({"service": "price"}, 1),
        ({"service": "delay"}, 5),
        ({"kind": RecordKind.EVENT}, 1),
        ({"kind": RecordKind.PREDICTION}, 4),
        ({"version": 1}, 3),
        ({"since_us": START_US + 3 * SECOND_US}, 5),
        ({"until_us": START_US + 3 * SECOND_US}, 2),
        ({"errors_only": True}, 2),
        ({"service": "nobody"}, 0),
    ],
)
def test_only_what_is_wanted_is_shown(folder, wanted, n_records):
    assert len(read(folder, **wanted)) == n_records


def test_a_prediction_and_its_outcome_are_found_by_its_id(folder):
    name = format_uuid(new_ids(1)[0])

    found = read(folder, prediction_id=name)

    assert [record.kind for record in found] == [RecordKind.PREDICTION, RecordKind.OUTCOME]
    assert found[1].detail == {"name": "late", "value": True}


def test_a_request_of_several_rows_is_as_many_records(tmp_path):
    (request,) = new_ids(1)
    with closing(new_writer(tmp_path)) as writer:
        put(writer, new_stream(), new_turn([request], rows_per_request=[3]))

    records = read(tmp_path)

    assert [record.prediction_id for record in records] == [
        format_prediction_id(request, row) for row in range(3)
    ]
    assert [record.inputs["x"] for record in records] == [0, 1, 2]
    assert list(prediction_ids(tmp_path, "delay")) == [record.prediction_id for record in records]


def test_following_shows_each_record_once(tmp_path):
    ids = new_ids(3)
    view = JournalView(tmp_path)

    with closing(new_writer(tmp_path)) as writer:
        put(writer, new_stream(), new_turn(ids[:1]))
        first = [record.prediction_id for record in view.read()]
        put(writer, new_stream(), new_turn(ids[1:]))
        second = [record.prediction_id for record in view.read()]
        nothing = list(view.read())
    view.close()

    assert first == [format_uuid(ids[0])]
    assert second == [format_uuid(ids[1]), format_uuid(ids[2])]
    assert nothing == []


def test_a_damaged_segment_is_shown_up_to_the_damage_and_says_so(tmp_path):
    ids = new_ids(2)
    with closing(new_writer(tmp_path)) as writer:
        for one in ids:
            put(writer, new_stream(), new_turn([one]))
    (segment,) = list_segments(tmp_path)
    last = max(read(tmp_path), key=attrgetter("offset"))
    data = bytearray(segment.path.read_bytes())
    data[last.offset + 12] ^= 1
    segment.path.write_bytes(data)

    view = JournalView(tmp_path)
    shown = [record.prediction_id for record in view.read()]
    (checked,) = check_segments(tmp_path, tmp_path / "ledger.db")

    assert shown == [format_uuid(ids[0])]
    assert [damage.offset for damage in view.damages] == [last.offset]
    assert checked.end is End.DAMAGED
    assert checked.damage.startswith(f"at {last.offset}: ")


def test_counts_are_those_of_the_ledger(folder, tmp_path):
    ledger = Ledger(tmp_path / "ledger.db")
    Tailer(folder, ledger, clock=FakeClock(START_US + 60 * SECOND_US)).poll(settle_now=True)
    ledger.close()

    counted = count(tmp_path / "ledger.db", "delay")

    assert sum(tally.requests for _, tally in counted.tallies) == 3
    assert counted.outcomes.joined == 1
    assert all(each.counted_bytes for each in check_segments(folder, tmp_path / "ledger.db"))


def test_counts_before_there_is_a_ledger_are_refused_in_words(tmp_path):
    with pytest.raises(NotFound, match="no ledger"):
        count(tmp_path / "ledger.db")


def test_every_record_says_its_arm_its_share_and_where_its_key_fell(tmp_path):
    ids, keys = new_ids(3), [b"%d" % number * 16 for number in range(4)]
    writer = new_writer(tmp_path)
    alone = msgspec.structs.replace(new_stream(), salt="pepper")
    put(writer, alone, new_turn(ids[:1], at_us=START_US))
    put(writer, alone, new_turn(ids[1:2], at_us=START_US + 1, key_hashes=keys[:2], rows_per_request=[2]))
    candidate = msgspec.structs.replace(new_stream(arm="candidate"), salt="pepper", share=0.25)
    put(writer, candidate, new_turn(ids[2:], at_us=START_US + 2, key_hashes=keys[3:], buckets=[0.125]))
    writer.close()

    records = read(tmp_path)

    assert [(record.arm, record.share) for record in records] == [
        *[("stable", 1.0)] * 3,
        ("candidate", 0.25),
    ]
    assert [record.bucket for record in records] == [
        bucket_of(ids[0], "pepper"),
        bucket_of(keys[0], "pepper"),
        bucket_of(keys[1], "pepper"),
        0.125,
    ]
