"""Verify the audit log, and read it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import msgspec

from tidegate.core.digest import Digest
from tidegate.governance.audit import AuditEntry, Head, Verification, verify
from tidegate.operation.mutation import Transaction, UnitOfWork
from tidegate.registry.store import StoredDecision
from tidegate.registry.version import Version

_PAGE = 1000
_Row = TypeVar("_Row")


class AuditReport(msgspec.Struct, frozen=True):
    """What verifying the audit log, and the records it speaks of, found.

    Attributes:
        chain: The chain's own verification.
        n_records: How many versions and decisions were compared with their entries.
        discrepancies: Versions and decisions that are not as the log says, in words.
    """

    chain: Verification
    n_records: int = 0
    discrepancies: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        return self.chain.fault is None and not self.discrepancies


def verify_audit(unit: UnitOfWork, *, anchors: Sequence[Head] = ()) -> AuditReport:
    """Check every entry of the audit log, and every version and decision against its entry.

    Args:
        unit: The metadata database.
        anchors: Heads that were kept elsewhere.
    """
    expected: dict[str, Digest] = {}
    with unit.read() as transaction:
        entries = _noting(_all_entries(transaction), expected)
        chain = verify(entries, heads=(transaction.audit.head(), *anchors))
        if chain.fault is not None:
            return AuditReport(chain)
        n_records = len(expected)
        return AuditReport(chain, n_records, tuple(_discrepancies(transaction, expected)))


def audit_head(unit: UnitOfWork) -> Head:
    """Return the head of the log: what to keep elsewhere as an anchor."""
    with unit.read() as transaction:
        return transaction.audit.head()


def list_entries(
    unit: UnitOfWork, *, service: str | None = None, after: int = 0, limit: int = _PAGE
) -> list[AuditEntry]:
    """Return entries in order of their sequence, those above `after`."""
    with unit.read() as transaction:
        return transaction.audit.page(after=after, service=service, limit=limit)


def _all_entries(transaction: Transaction) -> Iterator[AuditEntry]:
    yield from _pages(lambda last: transaction.audit.page(after=last.sequence if last else 0, limit=_PAGE))


def _noting(entries: Iterator[AuditEntry], expected: dict[str, Digest]) -> Iterator[AuditEntry]:
    """Pass entries on, and note the digests of the records they speak of."""
    for entry in entries:
        records = entry.detail.get("records")
        if isinstance(records, dict):
            expected.update(records)
        yield entry


def _discrepancies(transaction: Transaction, expected: dict[str, Digest]) -> Iterator[str]:
    for name, digest in _stored(transaction):
        recorded = expected.pop(name, None)
        if recorded is None:
            yield f"{name} has no entry in the audit log"
        elif recorded != digest:
            yield f"{name} is not what was recorded"
    yield from (f"{name} is missing" for name in expected)


def _stored(transaction: Transaction) -> Iterator[tuple[str, Digest]]:
    def next_versions(last: Version | None) -> list[Version]:
        return transaction.versions.page(after=(last.service, last.number) if last else ("", 0), limit=_PAGE)

    def next_decisions(last: StoredDecision | None) -> list[StoredDecision]:
        return transaction.decisions.page(after=last.id if last else 0, limit=_PAGE)

    for version in _pages(next_versions):
        yield f"version:{version.label}", version.digest
    for decision in _pages(next_decisions):
        yield f"decision:{decision.id}", decision.digest


def _pages(following: Callable[[_Row | None], list[_Row]]) -> Iterator[_Row]:
    last: _Row | None = None
    while rows := following(last):
        yield from rows
        last = rows[-1]
