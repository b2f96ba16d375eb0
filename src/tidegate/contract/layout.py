"""What of a contract's rows the journal stores, in which order and how."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from tidegate.contract.batch import Column
from tidegate.contract.field import DataType, Field, Role
from tidegate.contract.gather import block_groups
from tidegate.contract.schema import Contract, Schema

NO_CATEGORY = 0xFFFF
"""The code of a missing category."""

Side = Literal["input", "output"]


class StoredColumn(msgspec.Struct, frozen=True, omit_defaults=True, dict=True):
    """One column of the journal.

    Attributes:
        name: The field's name; inputs and outputs have separate name spaces.
        side: `input` or `output`.
        type: Element type, by which a reader knows what the stored numbers mean.
        storage: `text`, `bytes`, or the little-endian numpy dtype of a stored element: `|b1`,
            `<i1` to `<f8`, `<u2` for the code of a category, `<i8` for microseconds.
        shape: Shape of one row's value; None is a free dimension.
        categories: What the codes stand for, in order. Empty for a field that is sensitive: its
            code is stored for the sake of fairness, and its value is nowhere in the journal.
    """

    name: str
    side: Side
    type: DataType
    storage: str
    shape: tuple[int | None, ...] = ()
    categories: tuple[str, ...] = ()
    coded: bool = False

    @property
    def dtype(self) -> np.dtype[Any] | None:
        """The stored dtype; None for text and bytes, whose lengths vary."""
        return None if self.storage in ("text", "bytes") else np.dtype(self.storage)

    @cached_property
    def _codes(self) -> dict[str | None, int]:
        return {**{value: code for code, value in enumerate(self.categories)}, None: NO_CATEGORY}
