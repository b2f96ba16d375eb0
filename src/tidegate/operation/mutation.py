"""The one way in which anything is changed: once per idempotency key, audited, all or nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Generic, Protocol, TypeVar

import msgspec

from tidegate.core.clock import Clock
from tidegate.core.digest import Digest, canonical_json, digest_bytes, stored_form
from tidegate.core.error import Conflict
from tidegate.core.principal import Principal
from tidegate.governance.audit import AuditEvent, AuditLog
from tidegate.operation.key import check_key
from tidegate.registry.store import CommitUnknown, DecisionStore, StoreUnavailable, VersionStore
from tidegate.release.book import ReleaseStore
from tidegate.release.lease import LeaseStore

T = TypeVar("T")

_LOOKS = 2
"""How often a commit of unknown outcome is looked up again before the caller is told."""


class StoredMutation(msgspec.Struct, frozen=True):
    """What is remembered of a mutation, so that repeating it changes nothing.

    Attributes:
        key: Its idempotency key.
        action: What was done.
        request: Digest of what was asked, by whom.
        result: What came out, JSON.
        sequence: The audit entry it appended.
        at_us: When, microseconds UTC.
    """

    key: str
    action: str
    request: Digest
    result: bytes
    sequence: int
    at_us: int


class MutationStore(Protocol):
    """Where mutations are remembered."""

    def find(self, key: str) -> StoredMutation | None:
        """Return the mutation done under `key`, or None."""
        ...

    def add(self, mutation: StoredMutation) -> None:
        """Remember a mutation.

        Raises:
            Conflict: Its key is taken.
        """
        ...


class Transaction(Protocol):
    """Everything in the metadata database, seen and changed at one point in time."""

    @property
    def versions(self) -> VersionStore: ...

    @property
    def decisions(self) -> DecisionStore: ...

    @property
    def audit(self) -> AuditLog: ...

    @property
    def mutations(self) -> MutationStore: ...

    @property
    def releases(self) -> ReleaseStore: ...

    @property
    def leases(self) -> LeaseStore: ...

    @property
    def records(self) -> Mapping[str, Digest]:
        """Digests of what this transaction added, by `version:NAME@NUMBER` or `decision:ID`."""
        ...


class UnitOfWork(Protocol):
    """Gives transactions over the metadata database."""

    def write(self) -> AbstractContextManager[Transaction]:
        """Open a transaction that commits at the end of its block, or not at all if the block raises.

        Raises:
            StoreUnavailable: The database cannot be reached; nothing was changed.
            CommitUnknown: The connection failed during the commit.
        """
        ...

    def read(self) -> AbstractContextManager[Transaction]:
        """Open a transaction that sees one state of the database throughout, and changes nothing.

        Raises:
            StoreUnavailable: The database cannot be reached.
        """
        ...


class Intent(msgspec.Struct, frozen=True, kw_only=True):
    """What someone wants changed.

    Attributes:
        action: `noun.verb`.
        principal: Who.
        key: Idempotency key: the same key means the same change, done once.
        request: The change itself, plain data: two intents of one key must agree on it.
        service: The service concerned, if one.
    """

    action: str
    principal: Principal
    key: str
    request: Any
    service: str | None = None

    @property
    def digest(self) -> Digest:
        """Digest of who wants what."""
        return digest_bytes(canonical_json([self.action, self.principal, self.service, self.request]))


class Effect(msgspec.Struct, Generic[T], frozen=True):
    """What a change came to.

    Attributes:
        result: For the caller, now and at every repetition: a msgspec struct or plain data.
        subject: What was changed, for the audit log.
        detail: More for the audit log, plain JSON values.
    """

    result: T
    subject: str
    detail: dict[str, Any] = {}


class Outcome(msgspec.Struct, Generic[T], frozen=True):
    """What a mutation gives back.

    Attributes:
        result: The effect's.
        sequence: Its audit entry.
        replayed: It had been done before under this key; nothing was changed now.
    """

    result: T
    sequence: int
    replayed: bool


def run(
    unit: UnitOfWork,
    intent: Intent,
    *,
    perform: Callable[[Transaction], Effect[T]],
    result: type[T],
    clock: Clock,
) -> Outcome[T]:
    """Change something once.

    Args:
        unit: Where.
        intent: What, by whom, under which key.
        perform: Makes the change through the transaction and through nothing else: it may be called
            again after a failed commit.
        result: Type of the effect's result, read back from JSON.
        clock: Says when.

    Raises:
        Conflict: The key was used for something else.
        InvalidSetting: The key cannot be used.
        StoreUnavailable: The database cannot be reached; nothing was changed.
        CommitUnknown: The database was lost during the commit and could not be asked again. Repeat
            with the same key.
    """
    check_key(intent.key)
    try:
        return _attempt(unit, intent, perform=perform, result=result, clock=clock)
    except CommitUnknown as error:
        unknown = error
    # The chain's lock makes the next attempt wait for whatever became of this one, and the key then
    # says which it was.
    for _ in range(_LOOKS):
        try:
            return _attempt(unit, intent, perform=perform, result=result, clock=clock)
        except CommitUnknown as error:
            unknown = error
        except StoreUnavailable as error:
            raise unknown from error
    raise unknown


def _attempt(
    unit: UnitOfWork,
    intent: Intent,
    *,
    perform: Callable[[Transaction], Effect[T]],
    result: type[T],
    clock: Clock,
) -> Outcome[T]:
    request = intent.digest
    with unit.write() as transaction:
        transaction.audit.lock()  # first, so that of two intents of one key the second sees the first
        stored = transaction.mutations.find(intent.key)
        if stored is not None:
            _check_same(stored, intent, request)
            return Outcome(msgspec.json.decode(stored.result, type=result), stored.sequence, replayed=True)
        effect = perform(transaction)
        at_us = clock.wall_us()
        entry = transaction.audit.append(
            AuditEvent(
                at_us=at_us,
                principal=intent.principal,
                action=intent.action,
                subject=effect.subject,
                key=intent.key,
                service=intent.service,
                detail={**effect.detail, "request": request, "records": dict(transaction.records)},
            )
        )
        value = canonical_json(stored_form(effect.result, f"result of {intent.action}"))
        transaction.mutations.add(
            StoredMutation(intent.key, intent.action, request, value, entry.sequence, at_us)
        )
    return Outcome(msgspec.json.decode(value, type=result), entry.sequence, replayed=False)


def _check_same(stored: StoredMutation, intent: Intent, request: Digest) -> None:
    if stored.request != request:
        raise Conflict(
            f"The idempotency key {intent.key!r} was used before, for {stored.action!r} with other content "
            f"or by someone else (audit entry {stored.sequence}).",
            hint="Use a new key for a new change; repeat a change with exactly what it was first asked with.",
            key=intent.key,
            action=stored.action,
            sequence=stored.sequence,
        )
