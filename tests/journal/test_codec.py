"""What is encoded comes back, alone and put together with others."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.journal.strategy import streams, turns
from tidegate.contract.batch import Batch
from tidegate.contract.field import DataType
from tidegate.contract.layout import Column, Layout
from tidegate.core.digest import Digest
from tidegate.journal import codec
from tidegate.journal.decode import (
    StreamCodec,
    Turns,
    decode_event,
    decode_outcomes,
    decode_refusals,
    decode_stream,
    mask_of,
)
from tidegate.journal.record import Event, Outcome, Refusal, Stream, Turn


def body_of(frame: bytes) -> memoryview:
    return memoryview(frame)[codec.FRAME_HEAD.size :]


def plain(values: Any) -> list[Any]:
    return [value.tolist() if isinstance(value, np.ndarray) else value for value in list(values)]


def as_stored(column: Column, value: Any) -> Any:
    """A plain value as a reader sees it."""
    if not column.group_only or value is None:
        return value
    if isinstance(value, list):
        return [as_stored(column, one) for one in value]
    return str(column.categories.index(value))


def assert_same(columns: tuple[Column, ...], expected: Batch | None, got: Batch | None) -> None:
    if expected is None or got is None:
        assert expected is got
        return
    for column in columns:
        left = [as_stored(column, value) for value in plain(expected[column.name])]
        np.testing.assert_equal(plain(got[column.name]), left)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
@pytest.mark.parametrize("lone", [False, True])  # lone requests take a shorter way through the decoder
def test_turns_put_together_give_every_value_back(data: st.DataObject, lone: bool) -> None:
    stream = data.draw(streams())
    encoder = codec.TurnEncoder(7, stream)
    given_turns = data.draw(st.lists(turns(stream, lone=lone), min_size=1, max_size=4))
    bodies = [body_of(encoder.encode(turn)) for turn in given_turns]
    groups: dict[int, list[int]] = {}
    for position, body in enumerate(bodies):
        groups.setdefault(mask_of(body), []).append(position)

    for mask, positions in groups.items():
        got = Turns(StreamCodec(stream), mask, [bodies[position] for position in positions])
        chosen = [given_turns[position] for position in positions]

        check_requests(chosen, got)
        for side, columns in (("inputs", stream.layout.inputs), ("outputs", stream.layout.outputs)):
            expected = [batch for turn in chosen if (batch := getattr(turn, side)) is not None]
            assert_same(columns, Batch.concat(expected) if expected else None, getattr(got, side))


def check_requests(chosen: list[Turn], got: Turns) -> None:
    sizes = [len(turn.request_ids) for turn in chosen]
    assert got.request_ids == b"".join(b"".join(turn.request_ids) for turn in chosen)
    assert got.arrived_us.tolist() == [at for turn in chosen for at in turn.arrived_us]
    assert got.rows.tolist() == [
        n for t, size in zip(chosen, sizes, strict=True) for n in t.rows_per_request or [1] * size
    ]
    for name, values in (("flags", got.flags), ("service_time_us", got.service_us)):
        flat: list[Any] = []
        for turn, size in zip(chosen, sizes, strict=True):
            one = getattr(turn, name)
            flat += one if isinstance(one, list) else [one] * size
        assert values.tolist() == flat
    assert got.heads["batch_rows"].tolist() == [turn.batch_rows for turn in chosen]
    for name, found in (("errors", got.errors), ("caller_ids", got.caller_ids)):
        given = [getattr(turn, name) for turn in chosen]
        assert found == (None if given[0] is None else [one for values in given for one in values])
    took = [turn.took_us for turn in chosen]
    if took[0] is not None:
        assert got.took_us.tolist() == [one for values in took for one in values]
    else:
        assert got.took_us is got.service_us
    for name, joined in (
        ("key_hashes", got.key_hashes),
        ("trace_ids", got.trace_ids),
        ("parent_ids", got.parent_ids),
    ):
        given = [getattr(turn, name) for turn in chosen]
        assert joined == (None if given[0] is None else b"".join(one for values in given for one in values))
    buckets = [turn.buckets for turn in chosen]
    assert (None if got.buckets is None else got.buckets.tolist()) == (
        None if buckets[0] is None else [one for values in buckets for one in values]
    )
    assert (got.answered_by or [""] * len(chosen)) == [turn.answered_by for turn in chosen]


@settings(max_examples=30, deadline=None)
@given(streams())
def test_a_stream_declaration_comes_back(stream: Stream) -> None:
    assert decode_stream(body_of(codec.encode_stream(3, stream))) == stream


def test_row_numbers_count_within_each_request() -> None:
    stream = Stream("s", 1, Digest(""), Layout((), ()))
    turn = Turn([bytes(16), bytes(16)], [1, 2], None, rows_per_request=[2, 3])

    frame = codec.TurnEncoder(1, stream).encode(turn)

    got = Turns(StreamCodec(stream), mask_of(body_of(frame)), [body_of(frame)])
    assert got.row_in_request.tolist() == [0, 1, 0, 1, 2]
    assert got.request_of_row.tolist() == [0, 0, 1, 1, 1]


def test_other_frames_come_back() -> None:
    outcomes = [
        Outcome("s", "paid", msgspec.Raw(b'{"a":1.5}'), 9, b"r" * 16, 3, outcome_id="o-1", principal="ana")
    ]
    refusals = [Refusal("s", "queue_full", 12, 99)]
    event = Event("route.changed", 5, "s", {"generation": 4})

    assert decode_outcomes(body_of(codec.encode_outcomes(outcomes))) == outcomes
    assert decode_refusals(body_of(codec.encode_refusals(refusals))) == refusals
    assert decode_event(body_of(codec.encode_event(event))) == event


def test_a_value_outside_the_categories_is_stored_as_none() -> None:
    layout = Layout((Column("c", DataType.CATEGORY, (), ("a", "b")),), ())
    stream = Stream("s", 1, Digest(""), layout)
    batch = Batch({"c": np.array(["b", "zzz", None], dtype=object)}, 3)

    frame = codec.TurnEncoder(1, stream).encode(Turn([bytes(16)] * 3, [0, 0, 0], batch))

    got = Turns(StreamCodec(stream), mask_of(body_of(frame)), [body_of(frame)])
    assert got.inputs is not None
    assert got.inputs["c"].tolist() == ["b", None, None]


def test_a_block_is_given_back_as_one() -> None:
    names = ("x", "y")
    stream = Stream("s", 1, Digest(""), Layout(tuple(Column(n, DataType.FLOAT64) for n in names), ()))
    matrix = np.arange(6.0).reshape(3, 2)
    batch = Batch({"x": matrix[:, 0], "y": matrix[:, 1]}, 3, blocks=[(names, matrix)])

    frame = codec.TurnEncoder(1, stream).encode(Turn([bytes(16)] * 3, [0, 0, 0], batch))

    got = Turns(StreamCodec(stream), mask_of(body_of(frame)), [body_of(frame)])
    assert got.inputs is not None
    block = got.inputs.block(names)
    assert block is not None
    assert block.tolist() == matrix.tolist()


def test_a_frame_larger_than_a_reader_believes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec, "MAX_BODY_BYTES", 10)

    with pytest.raises(codec.InvalidSetting, match="11"):
        codec.frame(bytes(11))


def test_half_of_a_surrogate_pair_does_not_stop_the_journal() -> None:
    stream = Stream("s", 1, Digest(""), Layout((), (Column("t", DataType.STRING),)))
    batch = Batch({"t": np.array(["a\ud800", None], dtype=object)}, 2)

    frame = codec.TurnEncoder(1, stream).encode(Turn([bytes(16)] * 2, [0, 0], None, batch))

    got = Turns(StreamCodec(stream), mask_of(body_of(frame)), [body_of(frame)])
    assert got.outputs is not None
    assert got.outputs["t"].tolist() == ["a?", None]
