"""Identifiers sort by time, differ, and survive being written out."""

from __future__ import annotations

import random
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.journal.fake import FakeClock
from tidegate.core.error import InvalidSetting
from tidegate.core.identifier import (
    check_name,
    format_prediction_id,
    format_uuid,
    parse_prediction_id,
    uuid7_factory,
    uuid7_time_ms,
)


@given(st.integers(0, 2**48 * 1000 - 1), st.integers())
def test_makes_uuids_of_version_7_that_tell_their_millisecond(now_us: int, seed: int) -> None:
    raw = uuid7_factory(FakeClock(now_us), random.Random(seed))()

    read = uuid.UUID(bytes=raw)
    assert read.version == 7
    assert read.variant == uuid.RFC_4122
    assert uuid7_time_ms(raw) == now_us // 1000
    assert format_uuid(raw) == str(read)


def test_never_makes_one_twice_and_sorts_by_time() -> None:
    clock = FakeClock()
    make = uuid7_factory(clock, random.Random(1))

    early = {make() for _ in range(5_000)}
    clock.forward(0.001)
    late = {make() for _ in range(5_000)}

    assert len(early | late) == 10_000
    assert max(early) < min(late)


@given(st.binary(min_size=16, max_size=16), st.integers(0, 999_999_999))
def test_prediction_ids_are_read_back(request: bytes, row: int) -> None:
    assert parse_prediction_id(format_prediction_id(request, row)) == (request, row)


@pytest.mark.parametrize(
    "text", ["", "x", "01a1fb5f", "01a1fb5f-36a1-7703-9851-02ee2c62da36.", "a" * 32 + ".-1"]
)
def test_refuses_what_is_no_prediction_id(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_prediction_id(text)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a b", "-a", "a-", "x" * 64, "a..b", "ä", "a\n"])
def test_refuses_names_that_cannot_stand_in_a_path(name: str) -> None:
    with pytest.raises(InvalidSetting, match="cannot be used"):
        check_name("service", name)


def test_a_service_takes_no_name_of_the_protocols_own():
    with pytest.raises(InvalidSetting, match="Open Inference Protocol's own"):
        check_name("service", "stats")

    assert check_name("arm", "stats") == "stats"


@pytest.mark.parametrize("text", ["nonsense", "01a1fb68", "01a1fb68-cfe4-7738-8a8e-6a3f7ba4a1ef00", ""])
def test_what_is_no_prediction_id_is_told_in_words(text: str) -> None:
    with pytest.raises(ValueError, match="32 hexadecimal digits"):
        parse_prediction_id(text)
