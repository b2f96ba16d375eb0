"""Answers kept for a while: the same input to the same version need not be computed twice.

Exact: the key is a digest of the whole request's rows under the version's contract. Who asks for what
is being computed right now waits for it instead of having it computed again (single flight).
"""

from __future__ import annotations

from collections import OrderedDict
from hashlib import blake2b
from typing import NamedTuple

import msgspec
import numpy as np

from tidegate.contract.batch import Batch
from tidegate.contract.objective import Cache
from tidegate.contract.schema import Contract
from tidegate.serving.call import Call

_ENTRY_BYTES = 500  # what an entry takes beside its columns: key, objects, its places in both dicts
_OBJECT_BYTES = 60  # a text in a column, beside its characters
_encode = msgspec.msgpack.Encoder(enc_hook=lambda value: value.tolist()).encode


class Kept(NamedTuple):
    """An answer, until when it may be given, and what it takes."""

    outputs: Batch
    until_s: float
    n_bytes: int


class ResponseCache:
    """The answers of one version, the least recently used given up first."""

    def __init__(self, declared: Cache, contract: Contract, *, version: int) -> None:
        """Make an empty cache.

        Args:
            declared: How long and how much.
            contract: Of the version.
            version: Its number.
        """
        self._ttl_s = declared.ttl_s
        self._max_bytes = declared.max_bytes
        self._names = contract.input.names
        self._prefix = f"{contract.fingerprint}/{version}/".encode()
        self._kept: OrderedDict[bytes, Kept] = OrderedDict()
        self._flights: dict[bytes, list[Call]] = {}
        self.n_bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    def key(self, inputs: Batch) -> bytes:
        """Return the digest of a request's rows; the same however they came."""
        digest = blake2b(self._prefix, digest_size=16)
        digest.update(inputs.n_rows.to_bytes(4, "little"))
        for name in self._names:
            column = inputs.columns.get(name)
            if column is None:  # an optional field that was left out
                digest.update(b"-")
            elif column.dtype == object:
                digest.update(_encode(column.tolist()))
            else:
                digest.update(column.dtype.str.encode())
                digest.update(np.ascontiguousarray(column).data)
        return digest.digest()

    def find(self, key: bytes, now_s: float) -> Batch | None:
        """Return the answer that is kept, or None."""
        kept = self._kept.get(key)
        if kept is None:
            return None
        if kept.until_s <= now_s:
            self._drop(key)
            return None
        self._kept.move_to_end(key)
        return kept.outputs

    def keep(self, key: bytes, outputs: Batch, now_s: float) -> None:
        """Keep an answer; one that is too large for the whole cache is not kept."""
        n_bytes = _ENTRY_BYTES + sum(_size(column) for column in outputs.columns.values())
        if n_bytes > self._max_bytes:
            return
        if key in self._kept:
            self._drop(key)
        # rows of a larger batch are views on it, and would keep all of it
        own = Batch({name: column.copy() for name, column in outputs.columns.items()}, outputs.n_rows)
        self._kept[key] = Kept(own, now_s + self._ttl_s, n_bytes)
        self.n_bytes += n_bytes
        while self.n_bytes > self._max_bytes:
            self._drop(next(iter(self._kept)))

    def board(self, key: bytes, call: Call) -> bool:
        """Let a call wait for the same answer if it is being computed; else it is the one to compute it.

        Returns:
            Whether it waits.
        """
        flight = self._flights.get(key)
        if flight is None:
            self._flights[key] = []
            return False
        flight.append(call)
        return True

    def land(self, key: bytes) -> list[Call]:
        """Return who has waited for an answer that is there now, or will not come."""
        return self._flights.pop(key, [])

    def _drop(self, key: bytes) -> None:
        self.n_bytes -= self._kept.pop(key).n_bytes


def _size(column: np.ndarray) -> int:
    if column.dtype != object:
        return int(column.nbytes)
    return sum(
        _OBJECT_BYTES + (value.nbytes if isinstance(value, np.ndarray) else len(str(value)))
        for value in column.tolist()
    )
