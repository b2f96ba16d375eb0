"""Tallies count what is in the turns, and add up however they are cut."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.journal.fake import START_US, new_ids, new_stream, new_turn
from tidegate.journal.codec import TurnEncoder
from tidegate.journal.decode import StreamCodec, Turns, mask_of
from tidegate.journal.record import Flag, RecordKind, Turn
from tidegate.journal.tally import US_PER_MINUTE, Tally, TallyKey, count_turns, merge, step_of, upper_us

MINUTE = START_US // US_PER_MINUTE
STREAM = new_stream()


def count(turns: list[Turn]) -> dict[TallyKey, Tally]:
    encoder = TurnEncoder(1, STREAM)
    found: dict[TallyKey, Tally] = {}
    for turn in turns:
        body = memoryview(encoder.encode(turn))[8:]
        count_turns(Turns(StreamCodec(STREAM), mask_of(body), [body]), found)
    return found


@st.composite
def some_turn(draw: st.DrawFn) -> Turn:
    n = draw(st.integers(1, 4))
    each: dict[str, Any] = {"min_size": n, "max_size": n}
    return new_turn(
        new_ids(n),
        arrived_us=draw(st.lists(st.integers(START_US, START_US + 3 * US_PER_MINUTE), **each)),
        rows_per_request=draw(st.lists(st.integers(1, 3), **each)),
        flags=draw(st.lists(st.integers(0, 63), **each)),
        service_time_us=draw(st.lists(st.floats(0, 1e7, width=32), **each)),
        errors=draw(st.one_of(st.none(), st.lists(st.sampled_from([None, "a", "b"]), **each))),
    )


@settings(max_examples=60, deadline=None)
@given(st.lists(some_turn(), min_size=1, max_size=6), st.data())
def test_parts_add_up_to_the_whole(turns: list[Turn], data: st.DataObject) -> None:
    parts = [data.draw(st.integers(0, 2)) for _ in turns]

    pieces = [
        count([turn for turn, part in zip(turns, parts, strict=True) if part == which]) for which in range(3)
    ]

    whole = count(turns)
    for key, tally in whole.items():
        assert merge(piece[key] for piece in pieces if key in piece) == tally
    assert sum(tally.requests for tally in whole.values()) == sum(len(turn.request_ids) for turn in turns)


def test_a_request_takes_as_long_as_its_caller_waits_not_its_model() -> None:
    turn = new_turn(new_ids(2), service_time_us=100.0, took_us=[150.0, 9000.0])

    (tally,) = count([turn]).values()

    assert tally.quantile_us(1.0) >= 9000
    assert tally.service_us == 9150


def test_each_count_is_of_what_it_says() -> None:
    turn = new_turn(
        new_ids(3),
        arrived_us=[START_US, START_US, START_US + US_PER_MINUTE],
        rows_per_request=[1, 4, 2],
        flags=[0, Flag.FALLBACK | Flag.LATE, Flag.FAILED | Flag.INVALID],
        service_time_us=[10.0, 20.4, 1000.0],
        errors=[None, None, "predictor_failed"],
        batch_rows=9,
    )

    found = count([turn])

    first = found[TallyKey("delay", 1, "stable", RecordKind.PREDICTION, MINUTE)]
    second = found[TallyKey("delay", 1, "stable", RecordKind.PREDICTION, MINUTE + 1)]
    assert (first.requests, first.rows, first.turns, first.batch_rows) == (2, 5, 1, 9)
    assert (first.fallback, first.late, first.failed, first.service_us) == (1, 1, 0, 30)
    assert (second.requests, second.rows, second.turns, second.failed, second.invalid) == (1, 2, 0, 1, 1)
    assert second.errors == {"predictor_failed": 1}
    assert len(found) == 2


@given(st.floats(0, 2.0**40, width=32))
def test_a_time_lies_in_its_step(service_us: float) -> None:
    step = int(step_of(np.array([service_us], np.float32))[0])

    assert service_us < upper_us(step)
    if step > 0:
        assert service_us >= upper_us(step - 1)


def test_times_that_are_none_are_counted_as_nothing() -> None:
    assert step_of(np.array([np.nan, -5.0], np.float32)).tolist() == [-1, -1]


def test_a_quantile_is_right_to_a_step() -> None:
    times = np.linspace(1, 10_000, 5000, dtype=np.float32)
    tally = Tally()
    for step in step_of(times).tolist():
        tally.service_times[step] = tally.service_times.get(step, 0) + 1

    for fraction in (0.5, 0.95, 0.99):
        exact = float(np.quantile(times, fraction))
        assert exact <= tally.quantile_us(fraction) <= exact * 1.26
    assert Tally().quantile_us(0.5) == 0.0


def test_a_tally_survives_its_stored_form() -> None:
    tally = Tally(requests=3, errors={"a": 1}, service_times={-1: 2, 40: 1})

    assert msgspec.msgpack.decode(msgspec.msgpack.encode(tally), type=Tally) == tally
    assert msgspec.json.decode(msgspec.json.encode(tally), type=Tally) == tally
