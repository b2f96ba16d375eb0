"""What of a journal is kept, and until when: as the services declare it."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import msgspec

from tidegate.core.clock import Clock
from tidegate.journal.ledger import Ledger
from tidegate.journal.retention import ClearedSegments, HeldSegment, SegmentKeeper, cleared
from tidegate.operation.journal import unreadable
from tidegate.operation.mutation import UnitOfWork
from tidegate.registry.artifact import ArtifactStore
from tidegate.service.manifest import Manifest

_DAY_S = 86_400.0


class Maturity:
    """How long the outcomes of a service may take: the longest that any of its versions declares."""

    def __init__(self, unit: UnitOfWork, artifacts: ArtifactStore) -> None:
        self._unit = unit
        self._artifacts = artifacts
        self._known: dict[str, tuple[int, float]] = {}

    def __call__(self, service: str) -> float:
        """Return seconds; a day for a service that declares nothing, or of which nothing is known.

        Raises:
            StoreUnavailable: The database cannot be reached.
        """
        number, longest_s = self._known.get(service, (0, 0.0))
        with self._unit.read() as transaction:
            new = transaction.versions.page(service, after=(service, number))
        for version in new:
            manifest = Manifest.from_json(self._artifacts.read_bytes(version.manifest))
            longest_s = max(longest_s, manifest.objectives.outcome_within_s or _DAY_S)
            number = version.number
        self._known[service] = (number, longest_s)
        return longest_s or _DAY_S


class KeptJournal(msgspec.Struct, frozen=True):
    """What is there of a journal, and what went.

    Attributes:
        segments: Those that are there, oldest first, each with why it must stay.
        cleared: Those that went so far, in all.
    """

    segments: list[HeldSegment]
    cleared: ClearedSegments

    @property
    def size_bytes(self) -> int:
        """Of all segments that are there."""
        return sum(each.size_bytes for each in self.segments)


def kept_journal(
    folder: Path,
    ledger: Path,
    *,
    clock: Clock,
    stored: Callable[[str], int],
    mature_s: Callable[[str], float],
) -> KeptJournal:
    """Return what is there of a journal; see `SegmentKeeper` for the arguments.

    Raises:
        NotFound: Nothing was counted yet.
        LedgerUnavailable: The ledger cannot be read.
    """
    with closing(Ledger(ledger, read_only=True)) as opened:
        keeper = SegmentKeeper(folder, opened, clock=clock, stored=stored, mature_s=mature_s)
        try:
            return KeptJournal(keeper.segments(), cleared(opened))
        except sqlite3.Error as error:
            raise unreadable(ledger, error) from error
