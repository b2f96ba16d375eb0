"""Stored values as plain JSON values, for people and for the ledger."""

from __future__ import annotations

import base64
import math
from typing import Any

import numpy as np

from tidegate.contract.batch import Batch


def plain(value: Any) -> Any:
    """Return a column's element as a JSON value.

    Arrays become lists, NaN and infinities None, bytes base64.
    """
    if isinstance(value, np.ndarray):
        return [plain(one) for one in value.tolist()] if value.dtype.kind in "fO" else value.tolist()
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, list):
        return [plain(one) for one in value]
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return value


def finite(value: Any) -> float | None:
    """Return a number, true as 1; None where it is none, or none that can be counted with."""
    if not isinstance(value, bool | int | float):
        return None
    try:
        number = float(value)
    except OverflowError:  # JSON has integers of any length
        return None
    return number if math.isfinite(number) else None


def plain_row(batch: Batch | None, row: int) -> dict[str, Any]:
    """Return one row by column name; empty without a batch."""
    if batch is None:
        return {}
    return {name: plain(column[row]) for name, column in batch.columns.items()}
