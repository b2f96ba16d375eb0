"""The controller: follows the journal and keeps the ledger, beside the control plane."""

from __future__ import annotations

import logging
import threading

from tidegate.core.clock import SystemClock
from tidegate.core.home import Home
from tidegate.journal.ledger import Ledger
from tidegate.journal.tailer import Tailer

_log = logging.getLogger("tidegate.controller")

POLL_S = 0.25
"""Between two looks at a journal that stands still: what is shown is at most about that old."""
_RETRY_S = 5.0


class Controller(threading.Thread):
    """Counts the journal of one home until it is told to stop."""

    def __init__(self, home: Home) -> None:
        super().__init__(name="controller", daemon=True)
        self._home = home
        self._stopping = threading.Event()

    def run(self) -> None:
        """Follow; begin again after a fault, since serving must not depend on it."""
        while not self._stopping.is_set():
            try:
                self._follow()
            except Exception:  # noqa: BLE001 - whatever it is, it must be seen and must not end the counting
                _log.exception("controller.failed")
                self._stopping.wait(_RETRY_S)

    def stop(self) -> None:
        """Count what is there, then end. Blocks until it has."""
        self._stopping.set()
        if self.is_alive():
            self.join()

    def _follow(self) -> None:
        ledger = Ledger(self._home.ledger)  # in this thread: a connection belongs to the one that made it
        tailer = Tailer(self._home.journal, ledger, clock=SystemClock())
        try:
            while True:
                is_last = self._stopping.is_set()
                progress = tailer.poll()
                for damage in progress.damages:
                    _log.error(
                        "segment.damaged segment=%s offset=%d: %s",
                        damage.segment,
                        damage.offset,
                        damage.reason,
                    )
                if is_last and not progress.read_bytes:
                    return
                if not progress.read_bytes:
                    self._stopping.wait(POLL_S)
        finally:
            tailer.close()
            ledger.close()
