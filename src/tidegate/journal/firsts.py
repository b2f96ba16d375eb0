"""A bounded exact set of keys, and what is known of each: a few bytes a key, in plain arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Column = npt.NDArray[Any]

ENTRY = np.dtype([("key", "<u8"), ("bucket", "<f4"), ("requests", "<u4"), ("phase", "<i2"), ("bits", "<u4")])
"""What is known of a key: where it falls on the route's unit interval, its requests so far, the latest
phase it was seen in, and a bit for each thing that may happen to it once."""


class KeySet:
    """Keys in order, up to a limit.

    Attributes:
        max_keys: Most keys it takes.
        entries: What is known, sorted by key.
    """

    def __init__(self, max_keys: int) -> None:
        self.max_keys = max_keys
        self.entries = np.empty(0, ENTRY)

    def __len__(self) -> int:
        return len(self.entries)

    def find(self, keys: Column) -> tuple[Column, npt.NDArray[np.bool_]]:
        """Return each key's position, and whether it is there at all.

        Args:
            keys: Numbers of 64 bits, any order.
        """
        if not len(self.entries):
            return np.zeros(len(keys), np.intp), np.zeros(len(keys), bool)
        slots = np.minimum(np.searchsorted(self.entries["key"], keys), len(self.entries) - 1)
        return slots, self.entries["key"][slots] == keys

    def update(self, changes: Column) -> None:
        """Take in keys: requests add, bits join, phase and bucket are the latest.

        Args:
            changes: Of dtype `ENTRY`, each key once, sorted by key; no more new ones than there is room for.
        """
        slots, known = self.find(changes["key"])
        found, old = changes[known], slots[known]
        entries = self.entries
        entries["requests"][old] += found["requests"]
        entries["bits"][old] |= found["bits"]
        entries["phase"][old] = np.maximum(entries["phase"][old], found["phase"])
        entries["bucket"][old] = found["bucket"]
        fresh = changes[~known]
        if len(fresh):
            self.entries = np.insert(entries, np.searchsorted(entries["key"], fresh["key"]), fresh)
