"""Copies the record store to Delta Lake tables, beside the controller."""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from tidegate.adapter.delta.table import DAY, DeltaTables
from tidegate.adapter.parquet.outbox import Outbox
from tidegate.adapter.parquet.part import Part
from tidegate.core.error import TidegateError

_log = logging.getLogger("tidegate.delta")
_ROUND_S = 60.0  # about as often as there are new parts; each commit is a file for every reader of the table
_RETRY_S = 5.0
_MOST_ROWS = 500_000  # of one commit: some 200 MB of 40 columns


def check_delta(target: str) -> None:
    """Pass if records can be copied to a place.

    Raises:
        MissingExtra: The library is not installed.
    """
    DeltaTables(target)


def make_copy(records: Path, target: str) -> DeltaCopy | None:
    """Return what copies records to a place, once it is started; None if no place is named."""
    return DeltaCopy(records, DeltaTables(target)) if target else None


class DeltaCopy(threading.Thread):
    """Appends what waits in the outbox, once a minute; a table that cannot be written holds up no other."""

    def __init__(self, records: Path, tables: DeltaTables) -> None:
        super().__init__(name="delta", daemon=True)
        self._records = records
        self._tables = tables
        self._stopping = threading.Event()
        self.waiting = 0
        """Parts that were not copied at the end of the last round."""

    def run(self) -> None:
        """Copy, until told to stop."""
        while not self._stopping.is_set():
            pause_s = _RETRY_S
            try:
                self.copy()
                pause_s = _ROUND_S
            except (TidegateError, OSError, sqlite3.Error, TypeError) as error:
                # TypeError: the controller has not told the store yet where to copy to
                _log.warning("delta.delayed: %s", error)
            except Exception:  # noqa: BLE001 - whatever it is, it must be seen and must not end the copying
                _log.exception("delta.failed")
            self._stopping.wait(pause_s)

    def stop(self) -> None:
        """End after the present round."""
        self._stopping.set()

    def copy(self) -> int:
        """Copy what waits once; return how many rows were appended."""
        n_rows = 0
        outbox = Outbox(self._records)
        try:
            gone = outbox.drop_gone()
            if gone:
                _log.error("delta.lost: %d files were deleted by retention before they were copied", gone)
            waiting = outbox.waiting()
            self.waiting = len(waiting)
            for service, parts in groupby(waiting, key=lambda part: part.service):
                try:
                    for group in _groups(parts):
                        n_rows += self._copy(outbox, service, group)
                        self.waiting -= len(group)
                except TidegateError as error:
                    _log.warning("delta.delayed service=%s: %s", service, error)
        finally:
            outbox.close()
        return n_rows

    def _copy(self, outbox: Outbox, service: str, parts: list[Part]) -> int:
        rows = {part.number: outbox.rows(part, day=DAY) for part in parts}
        n_rows = self._tables.append(
            service, parts[0].contract, rows, sender=outbox.sender.name, former=outbox.sender.former
        )
        outbox.done([part.number for part in parts])
        return n_rows


def _groups(parts: Iterator[Part]) -> Iterator[list[Part]]:
    """Put parts that follow each other and have one set of columns together, up to a bound."""
    group: list[Part] = []
    for part in parts:
        n_rows = sum(each.rows for each in group) + part.rows
        if group and (part.contract != group[0].contract or n_rows > _MOST_ROWS):
            yield group
            group = []
        group.append(part)
    if group:
        yield group
