"""Rows that come in small tables, kept as few larger ones."""

from __future__ import annotations

import polars as pl

_MANY = 32
"""Tables of one size that become one. A table of one row takes as much memory as one of a hundred."""


class TableStack:
    """Tables one after the other; what has come in pieces of a row each does not stay so.

    Every row is copied once for each power of `_MANY` that the pile reaches: three times for 32,768.
    """

    def __init__(self) -> None:
        self._levels: list[list[pl.DataFrame]] = [[]]

    def push(self, table: pl.DataFrame) -> None:
        """Put rows behind those that are there."""
        self._levels[0].append(table)
        for number, level in enumerate(self._levels):
            if len(level) < _MANY:
                return
            merged = pl.concat(level, rechunk=True)
            level.clear()
            if number + 1 == len(self._levels):
                self._levels.append([])
            self._levels[number + 1].append(merged)

    @property
    def n_tables(self) -> int:
        """Tables that are held."""
        return sum(map(len, self._levels))

    def whole(self) -> pl.DataFrame:
        """Return all rows in the order in which they came."""
        tables = [table for level in reversed(self._levels) for table in level]
        return pl.concat(tables) if len(tables) > 1 else tables[0]
