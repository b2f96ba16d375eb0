"""Splits: which rows train and which judge. Every split is disjoint, and says which rows it leaves out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from tidegate.core.error import InvalidSetting

Rows = npt.NDArray[np.int64]
"""Row numbers, ascending."""


class Split(NamedTuple):
    """Row numbers of a table, each row in exactly one of them.

    Attributes:
        train: To learn from.
        test: To judge by.
        gap: In neither: between the two in time, or not yet known.
    """

    train: Rows
    test: Rows
    gap: Rows


def temporal_split(table: pl.DataFrame, column: str, *, test_share: float = 0.2, gap_us: int = 0) -> Split:
    """Split by time: all of the test comes after all of the training, with a gap between.

    The gap keeps out what a model could not have learnt from yet: rows whose outcome was not known when
    the test begins, and windows that reach over the border. Rows of one moment are never parted, so that
    the test may have a few more rows than asked for.

    Args:
        table: The rows, in any order.
        column: A time, or integer microseconds; without nulls.
        test_share: Share of the rows that is tested on, in (0, 1).
        gap_us: Microseconds before the first test row in which no training row may lie.

    Raises:
        InvalidSetting: The column has no time, or a part would be empty.
    """
    _check_share(test_share)
    at = _moments(table, column)
    if not len(at):
        raise InvalidSetting("A table without rows cannot be split.")
    border = np.sort(at)[-max(1, round(test_share * len(at)))]
    return _split_at(at, start=int(border), end=None, gap_us=gap_us)


def _split_at(at: Rows, *, start: int, end: int | None, gap_us: int) -> Split:
    if gap_us < 0:
        raise InvalidSetting(f"A gap cannot be negative. Got {gap_us}.")
    test = at >= start if end is None else (at >= start) & (at < end)
    train = at < start - gap_us
    if not train.any() or not test.any():
        raise InvalidSetting(
            f"The split leaves {int(train.sum())} rows to train on and {int(test.sum())} to test on.",
            hint="Shorten the gap, or take another share.",
        )
    return Split(np.flatnonzero(train), np.flatnonzero(test), np.flatnonzero(~train & ~test))


def rolling_splits(
    table: pl.DataFrame, column: str, *, n_folds: int, test_us: int, gap_us: int = 0
) -> Iterator[Split]:
    """Give splits whose origin moves forward in time: each tests the next stretch with all before it.

    The last stretch ends behind the newest row. Rows after a fold's stretch stand in its gap.

    Args:
        table: The rows, in any order.
        column: A time, or integer microseconds; without nulls.
        n_folds: How many stretches.
        test_us: Length of a stretch, microseconds.
        gap_us: As in `temporal_split`.

    Raises:
        InvalidSetting: The column has no time, or a part of a fold would be empty.
    """
    if n_folds < 1 or test_us < 1:
        raise InvalidSetting("Rolling splits need at least one fold, and stretches of 1 microsecond or more.")
    at = _moments(table, column)
    if not len(at):
        raise InvalidSetting("A table without rows cannot be split.")
    end = int(at.max()) + 1
    for fold in range(n_folds, 0, -1):
        start = end - fold * test_us
        yield _split_at(at, start=start, end=start + test_us, gap_us=gap_us)


def group_split(
    table: pl.DataFrame, columns: Sequence[str], *, test_share: float = 0.2, salt: str = ""
) -> Split:
    """Split so that all rows of a group fall on one side.

    A group's side follows from its key alone: it stays the same when rows are added.

    Args:
        table: The rows.
        columns: Make up the key; a missing value is a value.
        test_share: Expected share of the groups that is tested on, in (0, 1).
        salt: Another one gives another split.

    Raises:
        InvalidSetting: The share is none, or a column is missing.
    """
    _check_share(test_share)
    _check_columns(table, columns)
    test = np.zeros(len(table), np.bool_)
    keys = table.select(columns)
    for rows in strata(table, columns):
        test[rows] = _position(repr(keys.row(int(rows[0]))), salt) < test_share
    return Split(np.flatnonzero(~test), np.flatnonzero(test), np.empty(0, np.int64))


def _position(key: str, salt: str) -> float:
    digest = hashlib.sha256(f"{key}\x00{salt}".encode(errors="surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def stratified_split(
    table: pl.DataFrame, columns: Sequence[str], *, test_share: float = 0.2, seed: int = 0
) -> Split:
    """Split at random so that each stratum has its share on both sides, to within one row.

    Args:
        table: The rows.
        columns: Make up the stratum, such as the label; a missing value is a value.
        test_share: Share of each stratum that is tested on, in (0, 1).
        seed: Another one gives another split.

    Raises:
        InvalidSetting: The share is none, or a column is missing.
    """
    _check_share(test_share)
    _check_columns(table, columns)
    draw = np.random.default_rng(seed)
    test = np.zeros(len(table), np.bool_)
    for rows in strata(table, columns):
        exact = test_share * len(rows)
        # Rounding at random: a share of many strata of one row is that share of them, not none.
        n_test = int(exact) + int(draw.random() < exact - int(exact))
        test[draw.permutation(rows)[:n_test]] = True
    return Split(np.flatnonzero(~test), np.flatnonzero(test), np.empty(0, np.int64))


def strata(table: pl.DataFrame, columns: Sequence[str]) -> Iterator[Rows]:
    """Give the row numbers of each distinct combination of values, in the order they first stand."""
    numbered = table.select(columns).with_row_index("\x00row")
    grouped = numbered.group_by(columns, maintain_order=True).agg(pl.col("\x00row"))
    for rows in grouped["\x00row"]:
        yield rows.to_numpy().astype(np.int64)


def shared_keys(table: pl.DataFrame, split: Split, columns: Sequence[str]) -> pl.DataFrame:
    """Return the keys that stand on both sides of a split: what a model may have learnt by heart."""
    _check_columns(table, columns)
    keys = table.select(columns)
    return (
        keys[split.test]
        .unique(maintain_order=True)
        .join(keys[split.train].unique(), on=list(columns), how="semi", nulls_equal=True)
    )


def _moments(table: pl.DataFrame, column: str) -> Rows:
    _check_columns(table, [column])
    at = table[column]
    if at.null_count():
        raise InvalidSetting(
            f"Column {column!r} is missing in {at.null_count()} rows: they have no place in time."
        )
    if at.dtype.is_integer():
        return at.cast(pl.Int64).to_numpy()
    if isinstance(at.dtype, pl.Datetime | pl.Date):
        return at.dt.epoch("us").to_numpy()
    raise InvalidSetting(f"Column {column!r} is {at.dtype}, not a time.")


def _check_share(share: float) -> None:
    if not 0 < share < 1:
        raise InvalidSetting(f"The share to test on must lie between 0 and 1. Got {share}.")


def _check_columns(table: pl.DataFrame, columns: Sequence[str]) -> None:
    for column in columns:
        if column not in table.columns:
            raise InvalidSetting(
                f"There is no column {column!r}.", hint=f"Columns: {', '.join(table.columns[:20])}."
            )
    if not columns:
        raise InvalidSetting("Name at least one column.")
