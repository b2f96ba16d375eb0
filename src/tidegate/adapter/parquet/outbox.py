"""The outbox: parts of the record store that are still to be copied to another place, each exactly once.

Its rows are written in the transaction that makes a part one, and taken away when the other place has
it. Until then a part is not put together with others, so that its number tells what is in it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from secrets import token_hex
from typing import NamedTuple

import polars as pl

from tidegate.adapter.parquet.part import REPLACED, WHOLE, Part, part_of

SCHEMA = """
CREATE TABLE IF NOT EXISTS outbox (number INTEGER PRIMARY KEY);
CREATE TABLE IF NOT EXISTS copied (
    target TEXT NOT NULL, store TEXT NOT NULL, epoch INTEGER NOT NULL, active INTEGER NOT NULL
);
"""


class Sender(NamedTuple):
    """Who copies: the other place tells by it what it has already.

    Attributes:
        store: Identity of the record store, drawn once.
        epoch: Grows each time another place is named, so that what was copied before is not taken for it.
    """

    store: str
    epoch: int

    @property
    def name(self) -> str:
        """Under which the number of the last part is kept."""
        return f"tidegate-{self.store}-{self.epoch}"

    @property
    def former(self) -> tuple[str, ...]:
        """Names under which the same store copied before."""
        return tuple(f"tidegate-{self.store}-{epoch}" for epoch in range(1, self.epoch))


def begin(index: sqlite3.Connection, target: str) -> None:
    """Have all parts copied to a place from now on, those there are included; "" copies none.

    Nothing happens where the place is the one it was. Within a transaction.
    """
    row = index.execute("SELECT target, store, epoch, active FROM copied").fetchone()
    if row is not None and row[0] == target and row[3]:
        return
    index.execute("DELETE FROM outbox")
    if not target:
        index.execute("UPDATE copied SET active = 0")
        return
    store, epoch = (token_hex(8), 1) if row is None else (row[1], row[2] + 1)
    index.execute("DELETE FROM copied")
    index.execute("INSERT INTO copied VALUES (?, ?, ?, 1)", (target, store, epoch))
    index.execute("INSERT INTO outbox SELECT number FROM part WHERE state != 'replaced'")


class Outbox:
    """What is still to be copied, read beside the process that writes the store."""

    def __init__(self, folder: Path) -> None:
        """Open a store's index that `begin` was called on."""
        self.folder = folder
        self._index = sqlite3.connect(folder / "index.db", isolation_level=None, timeout=30)
        store, epoch = self._index.execute("SELECT store, epoch FROM copied").fetchone()
        self.sender = Sender(store, epoch)

    def close(self) -> None:
        """Give the index back."""
        self._index.close()

    def waiting(self) -> list[Part]:
        """Return the parts that can be copied, by service and number.

        Of each service up to the first that is not there yet: the other place knows one number, up to
        which it has all.
        """
        rows = self._index.execute(
            "SELECT number, service, day, contract, rows, bytes, state FROM part JOIN outbox USING (number)"
            " WHERE state != ? ORDER BY service, number",
            (REPLACED,),
        )
        found: list[Part] = []
        stopped = ""
        for *row, state in rows:
            part = part_of(tuple(row))
            if state != WHOLE:
                stopped = part.service
            elif part.service != stopped:
                found.append(part)
        return found

    def rows(self, part: Part, *, day: str) -> pl.DataFrame:
        """Return the records of a part, with the day of their arrival as a column of that name."""
        table = pl.read_parquet(part.path(self.folder), hive_partitioning=False)
        return table.with_columns(pl.lit(part.day).alias(day))

    def done(self, numbers: Sequence[int]) -> None:
        """Take parts away that the other place has."""
        self._index.executemany("DELETE FROM outbox WHERE number = ?", [(number,) for number in numbers])

    def drop_gone(self) -> int:
        """Take parts away whose files retention has deleted; return how many there were."""
        return self._index.execute(
            "DELETE FROM outbox WHERE number NOT IN (SELECT number FROM part)"
        ).rowcount
