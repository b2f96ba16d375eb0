"""Where the evidence of a release comes from: what the tailer counted."""

from __future__ import annotations

import sqlite3
from typing import Protocol

from tidegate.journal.ledger import Ledger, LedgerUnavailable
from tidegate.journal.matured import (
    MaturedCounts,
    OutcomeTallies,
    OutcomeWatch,
    forget_matured,
    outcome_tallies,
)
from tidegate.journal.pair import PairTally
from tidegate.journal.watch import ReleaseTallies, Watch
from tidegate.journal.watched import tallies, unwatch, watch, watches


class Source(Protocol):
    """Where the evidence comes from."""

    def watch(self, wanted: Watch) -> None:
        """Have the tailer count; nothing where it does."""
        ...

    def unwatch(self, release: str) -> None:
        """Have the tailer stop; nothing where it does not count."""
        ...

    def watched(self) -> frozenset[str]:
        """Return the names of what the tailer counts."""
        ...

    def tallies(self, release: str) -> ReleaseTallies:
        """Return what was counted."""
        ...

    def pairs(self, service: str, *, answered: int, shadow: int) -> PairTally:
        """Return the sum of all pairs of two versions."""
        ...

    def outcomes(self, wanted: OutcomeWatch) -> dict[str, OutcomeTallies]:
        """Return what was counted of outcomes that had the time to come, by event."""
        ...


class LedgerSource:
    """Implements `Source` over the ledger, in the process that writes it.

    Args:
        ledger: The tailer's.
        matured: Counts outcomes as they mature; None only reads what was counted.
    """

    def __init__(self, ledger: Ledger, matured: MaturedCounts | None = None) -> None:
        self._ledger = ledger
        self._matured = matured
        self._watched = {each.release for each in watches(ledger)}

    def watch(self, wanted: Watch) -> None:
        if wanted.release not in self._watched:
            watch(self._ledger, wanted)
            self._watched.add(wanted.release)

    def unwatch(self, release: str) -> None:
        if release in self._watched:
            unwatch(self._ledger, release)
            whole = release.rpartition(".")[0]
            forget_matured(self._ledger, whole)
            if self._matured is not None:
                self._matured.forget(whole)
            self._watched.discard(release)

    def watched(self) -> frozenset[str]:
        return frozenset(self._watched)

    def tallies(self, release: str) -> ReleaseTallies:
        try:
            return tallies(self._ledger, release)
        except sqlite3.Error as error:
            raise _unreadable(self._ledger, error) from error

    def pairs(self, service: str, *, answered: int, shadow: int) -> PairTally:
        total = PairTally()
        try:
            for _, tally in self._ledger.pairs(service, version=answered, shadow=shadow):
                total.add(tally)
        except sqlite3.Error as error:
            raise _unreadable(self._ledger, error) from error
        return total

    def outcomes(self, wanted: OutcomeWatch) -> dict[str, OutcomeTallies]:
        try:
            if self._matured is not None:
                self._matured.advance(wanted)
            return {each.name: outcome_tallies(self._ledger, wanted, each.name) for each in wanted.events}
        except sqlite3.Error as error:
            raise _unreadable(self._ledger, error) from error


def _unreadable(ledger: Ledger, error: sqlite3.Error) -> LedgerUnavailable:
    return LedgerUnavailable(
        f"The ledger {ledger.path} cannot be read: {error}.",
        hint="What it does not show is undecided; nothing is promoted meanwhile.",
        path=str(ledger.path),
    )
