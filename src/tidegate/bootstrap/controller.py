"""The controller: follows the journal and keeps the ledger, beside the control plane."""

from __future__ import annotations

import fcntl
import logging
import threading
import time
from collections.abc import Callable
from typing import IO, TYPE_CHECKING

from tidegate.bootstrap.release import Releases
from tidegate.bootstrap.retention import Retention
from tidegate.bootstrap.trace import TracedSink, open_exporter
from tidegate.core.clock import SystemClock
from tidegate.core.error import Conflict
from tidegate.core.home import Home
from tidegate.journal.ledger import Ledger, LedgerUnavailable
from tidegate.journal.retention import RetentionPolicy
from tidegate.journal.tailer import Progress, Tailer

if TYPE_CHECKING:
    from tidegate.adapter.parquet.record import RecordStore
    from tidegate.bootstrap.setting import Settings

_log = logging.getLogger("tidegate.controller")

POLL_S = 0.25
"""Between two looks at the journal: what is shown is at most about that old. Every look has a price of its
own, so that what came in a quarter of a second costs a tenth of what it would one turn at a time."""
_BUSY_BYTES = 16 << 20
"""A look that has read so much has fallen behind, and goes on at once."""
_RETRY_S = 5.0
_STANDBY_S = 1.0


class Controller(threading.Thread):
    """Counts the journal of one home until it is told to stop."""

    def __init__(
        self,
        home: Home,
        *,
        settings: Settings | None = None,
        records_keep_days: int = 0,
        policy: RetentionPolicy | None = None,
        copy_to: str = "",
        on_lead: Callable[[], object] = lambda: None,
    ) -> None:
        """Take a home.

        Args:
            home: Whose journal is followed.
            settings: Where the database and the cell are, for releases; None leads none.
            records_keep_days: Days after which files of records are deleted; 0: never.
            policy: When segments are deleted; None: never.
            copy_to: Where files of records are copied to; "": nowhere.
            on_lead: Called once, when it is this process that counts.
        """
        super().__init__(name="controller", daemon=True)
        self._home = home
        self._settings = settings
        self._keep_days = records_keep_days
        self._policy = policy or RetentionPolicy()
        self._copy_to = copy_to
        self._on_lead = on_lead
        self._lock: IO[str] | None = None
        self._stopping = threading.Event()
        self.behind_bytes = 0
        """Bytes of the journal that were not counted at the last look."""
        self.failures = 0
        """Looks at the journal that failed."""
        self._next_s = 0.0

    def claim(self) -> bool:
        """Tell whether this process counts the journal.

        A home has a server for each cell, and one of them counts; when it ends another one goes on.
        """
        if self._lock is None:
            lock = self._home.counting.open("w")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                lock.close()
                return False
            self._lock = lock
        return True

    def run(self) -> None:
        """Follow; begin again after a fault, since serving must not depend on it."""
        while not self.claim():
            if self._stopping.wait(_STANDBY_S):
                return
        self._on_lead()
        while not self._stopping.is_set():
            try:
                self._follow()
            except Exception:  # noqa: BLE001 - whatever it is, it must be seen and must not end the counting
                _log.exception("controller.failed")
                self.failures += 1
                self._stopping.wait(_RETRY_S)
        if self._lock is not None:
            self._lock.close()

    def stop(self) -> None:
        """Count what is there, then end. Blocks until it has."""
        self._stopping.set()
        if self.is_alive():
            self.join()

    def _follow(self) -> None:
        ledger = Ledger(self._home.ledger)  # in this thread: a connection belongs to the one that made it
        store = self._open_store()
        traces = open_exporter(self._settings)
        sink = store if traces is None else TracedSink(store, traces)
        tailer = Tailer(self._home.journal, ledger, clock=SystemClock(), sink=sink)
        releases = (
            None
            if self._settings is None
            else Releases(self._settings, ledger, is_behind=lambda: self.behind_bytes > _BUSY_BYTES)
        )
        retention = Retention(
            self._settings,
            ledger,
            store,
            journal=self._home.journal,
            policy=self._policy,
            records_keep_days=self._keep_days,
        )
        try:
            while True:
                is_last = self._stopping.is_set()
                progress = self._look(tailer)
                self.behind_bytes = progress.behind_bytes
                if releases is not None and not is_last:
                    releases.tick()
                for damage in progress.damages:
                    _log.error(
                        "segment.damaged segment=%s offset=%d: %s",
                        damage.segment,
                        damage.offset,
                        damage.reason,
                    )
                if progress.unkept:
                    _log.error("records.unkept: %s", progress.unkept)
                if not is_last:
                    retention.tick()
                if is_last and not progress.read_bytes:
                    if store is not None:
                        store.flush()
                    return
                if progress.read_bytes < _BUSY_BYTES:
                    self._stopping.wait(POLL_S)
        finally:
            if releases is not None:
                releases.close()
            retention.close()
            tailer.close()
            if traces is not None:
                traces.close()
            ledger.close()
            if store is not None:
                store.close()

    def _look(self, tailer: Tailer) -> Progress:
        """Count and join; after a fault nothing for a while, in which what runs beside it goes on.

        Raises:
            Conflict: Another process writes the ledger.
            LedgerUnavailable: The ledger cannot be written; it is to be opened again.
        """
        if time.monotonic() >= self._next_s:
            try:
                return tailer.poll()
            except (Conflict, LedgerUnavailable):
                raise
            except Exception:  # noqa: BLE001 - releases and retention must not depend on it
                _log.exception("controller.failed")
                self.failures += 1
                self._next_s = time.monotonic() + _RETRY_S
        return Progress(behind_bytes=self.behind_bytes)

    def _open_store(self) -> RecordStore | None:
        """Open the files of records; without them the journal is counted all the same."""
        from tidegate.adapter.parquet.record import RecordStore, RecordsUnavailable

        try:
            return RecordStore(self._home.records, clock=SystemClock(), copy_to=self._copy_to)
        except RecordsUnavailable as error:
            _log.error("records.unavailable: %s", error)
            return None
