"""Retention of one home: what the controller clears, and what a person is told of it."""

from __future__ import annotations

import logging
import sqlite3
import time
from contextlib import closing
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from tidegate.bootstrap.local import Local
from tidegate.core.clock import SystemClock
from tidegate.core.error import TidegateError
from tidegate.core.principal import SYSTEM
from tidegate.journal.ledger import Ledger
from tidegate.journal.retention import RetentionPolicy, SegmentKeeper
from tidegate.journal.slice import roll_up
from tidegate.journal.tally import US_PER_MINUTE
from tidegate.operation.retention import KeptJournal, Maturity, kept_journal

if TYPE_CHECKING:
    from tidegate.adapter.parquet.record import RecordStore
    from tidegate.bootstrap.setting import Settings

_log = logging.getLogger("tidegate.retention")
_ROUND_S = 60.0
_ROLL_MINUTES = 60


class Retention:
    """Once a minute what is too old or too much; nothing that happens there ends the counting beside it."""

    def __init__(
        self,
        settings: Settings | None,
        ledger: Ledger,
        store: RecordStore | None,
        *,
        journal: Path,
        policy: RetentionPolicy,
        records_keep_days: int,
    ) -> None:
        """Take what is cleared.

        Args:
            settings: Where the database is that says how long outcomes take; None: no segment goes.
            ledger: The tailer's, in whose thread this runs.
            store: The files of records; None: no segment goes.
            journal: Folder of the segments.
            policy: When segments go.
            records_keep_days: Days after which files of records are deleted; 0: never.
        """
        self._ledger = ledger
        self._store = store
        self._policy = policy
        self._records_keep_days = records_keep_days
        self._cleared_on: date | None = None
        self._next_s = 0.0
        self._local = None if settings is None else Local(settings, principal=SYSTEM)
        self._rolled = 0
        self._maturity: Maturity | None = None
        self._keeper: SegmentKeeper | None = None
        if self._local is not None and store is not None and (policy.keep_days > 0 or policy.max_bytes > 0):
            self._keeper = SegmentKeeper(
                journal,
                ledger,
                clock=SystemClock(),
                stored=store.stored,
                mature_s=self._mature_s,
            )

    def _mature_s(self, service: str) -> float:
        if self._maturity is None:  # not before it is needed: the database may be away
            assert self._local is not None
            self._maturity = Maturity(self._local.unit, self._local.artifacts)
        return self._maturity(service)

    def tick(self) -> None:
        """Look, if it is time."""
        if time.monotonic() < self._next_s:
            return
        self._next_s = time.monotonic() + _ROUND_S
        try:
            self._look()
        except (TidegateError, OSError, sqlite3.Error) as error:
            _log.warning("retention.delayed: %s", error)
        except Exception:  # noqa: BLE001 - a fault here must be seen, and must not end the counting
            _log.exception("retention.failed")

    def _look(self) -> None:
        today = datetime.now(UTC).date()
        if self._store is not None and self._records_keep_days > 0 and self._cleared_on != today:
            self._store.retain(self._records_keep_days, today=today)
            self._cleared_on = today
        self._roll_up()
        if self._keeper is not None:
            gone = self._keeper.clear(self._policy)
            if gone.count:
                _log.info("journal.cleared segments=%d bytes=%d", gone.count, gone.size_bytes)

    def _roll_up(self) -> None:
        """Put counts by slice of old minutes together, an hour at a time."""
        now_minute = SystemClock().wall_us() // US_PER_MINUTE
        if now_minute // _ROLL_MINUTES != self._rolled:
            with self._ledger.transaction():
                if not roll_up(self._ledger.connection, now_minute):
                    self._rolled = now_minute // _ROLL_MINUTES

    def close(self) -> None:
        """Give the database back."""
        if self._local is not None:
            self._local.close()


def kept(local: Local) -> KeptJournal:
    """Return what is there of a home's journal, and why.

    Raises:
        NotFound: Nothing was counted yet.
        StoreUnavailable: The database cannot be reached.
    """
    index = local.home.records / "index.db"
    reached: dict[str, int] = {}
    if index.exists():
        with closing(sqlite3.connect(f"{index.absolute().as_uri()}?mode=ro", uri=True, timeout=30)) as opened:
            reached = dict(opened.execute("SELECT segment, position FROM reached"))
    return kept_journal(
        local.home.journal,
        local.home.ledger,
        clock=local.clock,
        stored=lambda segment: reached.get(segment, 0),
        mature_s=Maturity(local.unit, local.artifacts),
    )
