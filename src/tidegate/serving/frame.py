"""Batches as bytes between a worker and a runner. Plain columns; nothing is ever unpickled."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from tidegate.contract.batch import Batch

LENGTH = struct.Struct("<I")
MAX_FRAME_BYTES = 1 << 30


class Part(msgspec.Struct, array_like=True):
    """One column, or the columns of one block.

    Attributes:
        names: Names of the columns; several for a block, whose columns they are in order.
        dtype: Numpy dtype string; "O" for text, bytes and arrays of varying length.
        shape: Shape of the array.
        data: Its bytes in C order, or for "O" its elements.
        block: The array is a block, each of its columns one of `names`.
    """

    names: tuple[str, ...]
    dtype: str
    shape: tuple[int, ...]
    data: bytes | list[Any]
    block: bool = False


class Ask(msgspec.Struct, array_like=True, tag="ask"):
    """Rows for the model.

    Attributes:
        id: The worker's number for it.
        deadline_s: When the last of its answers stops being of use, seconds on the machine's
            monotonic clock; infinity for check inputs, which have no caller.
        n_rows: How many rows.
        parts: The columns.
        criticality: How much it matters; see `Criticality`.
    """

    id: int
    deadline_s: float
    n_rows: int
    parts: list[Part]
    criticality: int = 2


class Cancel(msgspec.Struct, array_like=True, tag="cancel"):
    """Nobody waits for the answer to an Ask any more; if it still waits itself, no answer comes.

    Attributes:
        id: The Ask's number.
    """

    id: int


MOVING = "moving"
"""Error of an answer to no Ask: the runner hands over to another, which listens in its place."""


class Answer(msgspec.Struct, array_like=True, tag="answer"):
    """What became of the Asks of one worker that went into one call of the model together.

    Attributes:
        ids: The Asks' numbers.
        n_rows: Rows of each.
        parts: Output columns, of one Ask's rows after another's; empty if they failed.
        predict_us: Duration of that call, microseconds.
        batch_rows: Rows of that call.
        waiting_rows: Rows left waiting in the runner after it.
        error: Code of the failure, or "".
        message: The failure in words.
        standing: Whether the runner's queue stands: more comes than can be answered.
        peers: How many workers are connected.
        bad_rows: Positions of rows that the model is not asked about, since it did not survive them; of
            a single Ask.
        is_shared: Whether other versions did not survive them either.
    """

    ids: list[int]
    n_rows: list[int]
    parts: list[Part] = []
    predict_us: float = 0.0
    batch_rows: int = 0
    waiting_rows: int = 0
    error: str = ""
    message: str = ""
    standing: bool = False
    peers: int = 1
    bad_rows: list[int] = []
    is_shared: bool = False


Message = Ask | Cancel | Answer

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Message)


def encode(message: Message) -> bytes:
    """Return a message with its length before it."""
    body = _encoder.encode(message)
    return LENGTH.pack(len(body)) + body


class FrameBuffer:
    """Cuts a byte stream into messages."""

    def __init__(self) -> None:
        self._pending = bytearray()

    def feed(self, data: bytes | memoryview) -> list[Message]:
        """Take bytes and return the messages that are complete now.

        Raises:
            ValueError: The stream is not made of messages.
        """
        pending = self._pending
        pending += data
        messages: list[Message] = []
        at = 0
        while len(pending) - at >= 4:
            (length,) = LENGTH.unpack_from(pending, at)
            if length > MAX_FRAME_BYTES:
                raise ValueError(f"a message of {length} bytes exceeds the bound")
            if len(pending) - at - 4 < length:
                break
            messages.append(_decoder.decode(memoryview(pending)[at + 4 : at + 4 + length]))
            at += 4 + length
        del pending[:at]
        return messages


def pack(batch: Batch) -> list[Part]:
    """Return a batch's columns as parts, blocks whole."""
    parts: list[Part] = []
    packed: set[str] = set()
    for names, block in batch.blocks():
        if block.dtype == object:
            continue  # its columns go one by one
        parts.append(Part(names, block.dtype.str, block.shape, np.ascontiguousarray(block).tobytes(), True))
        packed.update(names)
    for name, column in batch.columns.items():
        if name in packed:
            continue
        if column.dtype == object:
            elements = [_element(value) for value in column.ravel().tolist()]
            parts.append(Part((name,), "O", column.shape, elements))
        else:
            parts.append(
                Part((name,), column.dtype.str, column.shape, np.ascontiguousarray(column).tobytes())
            )
    return parts


def unpack(parts: list[Part], n_rows: int) -> Batch:
    """Return the batch that was packed."""
    columns: dict[str, Any] = {}
    blocks: list[tuple[tuple[str, ...], Any]] = []
    for part in parts:
        if part.dtype == "O":
            columns[part.names[0]] = _objects(part.shape, [_restored(value) for value in part.data])
            continue
        assert isinstance(part.data, bytes)
        array = np.frombuffer(part.data, dtype=part.dtype).reshape(part.shape)
        if part.block:
            blocks.append((part.names, array))
            columns.update(zip(part.names, array.T, strict=True))
        else:
            columns[part.names[0]] = array
    return Batch(columns, n_rows, blocks=blocks)


def _objects(shape: Sequence[int], elements: list[Any]) -> npt.NDArray[Any]:
    out = np.empty(len(elements), dtype=object)
    for position, element in enumerate(elements):  # a slice would take arrays of one length apart
        out[position] = element
    return out.reshape(shape)


def _element(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        if value.dtype == object:
            return ["O", list(value.shape), value.ravel().tolist()]
        return [value.dtype.str, list(value.shape), value.tobytes()]
    return value


def _restored(value: Any) -> Any:
    if not isinstance(value, list):
        return value
    dtype, shape, data = value
    if dtype == "O":
        return _objects(shape, data)
    return np.frombuffer(data, dtype=dtype).reshape(shape)
