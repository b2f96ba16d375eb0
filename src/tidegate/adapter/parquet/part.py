"""A part: one file of the record store, and how its index lists it."""

from __future__ import annotations

import sqlite3
from datetime import date
from pathlib import Path

import msgspec

DRAFT, WHOLE, REPLACED = "draft", "whole", "replaced"
"""States of a part: not shown yet, shown, and to be deleted."""


class Part(msgspec.Struct, frozen=True):
    """One file of the store.

    Attributes:
        number: Grows with time.
        service: Whose records.
        day: Day of their arrival, UTC.
        contract: First eight digits of the contract's fingerprint: one set of columns.
        rows: Records in it.
        size_bytes: Its size.
    """

    number: int
    service: str
    day: date
    contract: str
    rows: int
    size_bytes: int

    def path(self, folder: Path) -> Path:
        """Return where the file is."""
        return folder / self.service / self.day.isoformat() / f"{self.number:010d}-{self.contract}.parquet"


def read_parts(
    index: sqlite3.Connection,
    service: str | None = None,
    *,
    since: date | None = None,
    until: date | None = None,
) -> list[Part]:
    """Return the files that an index lists; see `RecordStore.parts`."""
    rows = index.execute(
        "SELECT number, service, day, contract, rows, bytes FROM part WHERE state != ?"
        " AND (? IS NULL OR service = ?) AND (? IS NULL OR day >= ?) AND (? IS NULL OR day <= ?)"
        " ORDER BY service, day, number",
        (REPLACED, service, service, _iso(since), _iso(since), _iso(until), _iso(until)),
    )
    return [part_of(row) for row in rows]


def _iso(day: date | None) -> str | None:
    return None if day is None else day.isoformat()


def part_of(row: tuple[int, str, str, str, int, int]) -> Part:
    """Return a row of the index as a part."""
    number, service, day, contract, rows, size = row
    return Part(number, service, date.fromisoformat(day), contract, rows, size)


def row_of(part: Part) -> tuple[int, str, str, str, int, int]:
    """Return a part as the index has it, without its state."""
    return part.number, part.service, part.day.isoformat(), part.contract, part.rows, part.size_bytes
