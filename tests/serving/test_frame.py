"""Batches survive the way to a runner and back."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.contract.batch import Batch
from tidegate.serving.frame import Answer, Ask, FrameBuffer, encode, pack, unpack


def ragged(*arrays: Any) -> Any:
    column = np.empty(len(arrays), dtype=object)
    for position, array in enumerate(arrays):
        column[position] = array
    return column


COLUMNS = {
    "f": np.array([1.5, np.nan, -0.0]),
    "h": np.array([1, 2, 3], np.float16),
    "b": np.array([True, False, True]),
    "i": np.array([1, -2, 3], np.int8),
    "v": np.arange(6, dtype=np.float32).reshape(3, 2),
    "t": np.arange(12, dtype=np.int64).reshape(3, 2, 2),
    "s": np.array(["a", None, "é"], object),
    "y": np.array([b"\0\xff", b"", None], object),
    "r": ragged(np.array([1.0, 2.0]), np.array([]), np.array([3.0])),
    "same": ragged(np.array([1, 2]), np.array([3, 4]), np.array([5, 6])),
    "words": np.array([["a", "b"], ["c", "d"], ["e", "f"]], object),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_keeps_a_column_as_it_is(name: str) -> None:
    column = COLUMNS[name]

    back = unpack(pack(Batch({name: column}, 3)), 3)[name]

    assert back.dtype == column.dtype
    assert back.shape == column.shape
    for one, other in zip(back.ravel().tolist(), column.ravel().tolist(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_keeps_a_block_in_one_piece() -> None:
    block = np.arange(6.0).reshape(3, 2)
    batch = Batch({"a": block[:, 0], "b": block[:, 1]}, 3, blocks=[(("a", "b"), block)])

    back = unpack(pack(batch), 3)

    np.testing.assert_array_equal(back.matrix(("a", "b"), np.float64), block)
    np.testing.assert_array_equal(back["b"], block[:, 1])
    assert len(pack(batch)) == 1


@given(st.lists(st.integers(1, 30), min_size=1, max_size=4), st.lists(st.integers(1, 90), min_size=1))
def test_cuts_a_stream_into_its_messages_wherever_it_was_split(sizes: list[int], steps: list[int]) -> None:
    asks = [Ask(n, 1.0, n, pack(Batch({"x": np.zeros(n)}, n))) for n in sizes]
    stream = b"".join(map(encode, asks))
    buffer = FrameBuffer()
    found: list[Ask | Answer] = []

    at = 0
    for step in itertools.cycle(steps):
        found += buffer.feed(stream[at : at + step])
        at += step
        if at >= len(stream):
            break

    assert [message.id for message in found] == sizes


@pytest.mark.parametrize("garbage", [b"\xff" * 8, b"\x01\x00\x00\x00\xc1", b"\x03\x00\x00\x00abc"])
def test_refuses_what_is_not_a_message(garbage: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        FrameBuffer().feed(garbage)
