"""The audit chain: each entry carries the hash of the one before, so that no past is altered unseen.

Pure: entries come in, entries and findings go out. Whoever can rewrite the whole log can also
recompute it; an anchor kept elsewhere (`Head`) is what that person cannot reach.

Source: Haber & Stornetta, "How to Time-Stamp a Digital Document", J. Cryptology 3(2), 1991.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import StrEnum
from typing import Any, Protocol

import msgspec

from tidegate.core.digest import Digest, canonical_json, digest_bytes, is_digest, stored_form
from tidegate.core.error import Corrupt, InvalidSetting
from tidegate.core.identifier import check_name
from tidegate.core.principal import Principal

GENESIS = Digest("sha256:" + "0" * 64)
"""What the first entry names as the hash before it."""

_TEXT = re.compile(r"[^\x00-\x1f\x7f\ud800-\udfff]*\Z")


class AuditBroken(Corrupt):
    """The audit chain does not hold."""

    code = "audit_broken"


class AuditEvent(msgspec.Struct, frozen=True, kw_only=True):
    """Something that was done, before it has its place in the chain.

    Attributes:
        at_us: When, microseconds UTC.
        principal: Who.
        action: What, as `noun.verb`, for example `version.register`.
        service: The service concerned, if one.
        subject: What it was done to, for example `flights@3`.
        detail: More, as plain JSON values. Never the value of a sensitive field.
        key: Idempotency key of the operation.
    """

    at_us: int
    principal: Principal
    action: str
    subject: str
    key: str
    service: str | None = None
    detail: dict[str, Any] = {}


class AuditEntry(AuditEvent, frozen=True, kw_only=True):
    """An event in its place.

    Attributes:
        sequence: 1 for the first entry, and so on without a gap.
        previous: Hash of the entry before; `GENESIS` for the first.
        hash: Digest of the canonical JSON of everything else here.
        format: Which rule made the hash, so that a later one can be told apart.
    """

    sequence: int
    previous: Digest
    hash: Digest
    format: int = 1


class Head(msgspec.Struct, frozen=True):
    """The last entry's sequence and hash: kept elsewhere, it anchors everything up to it.

    Attributes:
        sequence: 0 for an empty log.
        hash: `GENESIS` for an empty log.
    """

    sequence: int = 0
    hash: Digest = GENESIS

    def __str__(self) -> str:
        return f"{self.sequence}:{self.hash}"

    @classmethod
    def parse(cls, text: str) -> Head:
        """Read what `str` wrote.

        Raises:
            InvalidSetting: It has another form.
        """
        number, colon, digest = text.strip().partition(":")
        if not colon or not is_digest(digest) or not re.fullmatch(r"[0-9]{1,18}", number):
            raise InvalidSetting(
                f"{text!r} is not the head of an audit log.",
                hint="It looks like 42:sha256:… and is printed by `tidegate audit head`.",
            )
        return cls(int(number), Digest(digest))


class AuditLog(Protocol):
    """Where the chain is kept."""

    def lock(self) -> Head:
        """Return the head, and keep every other writer from appending until this transaction ends."""
        ...

    def append(self, event: AuditEvent) -> AuditEntry:
        """Put `event` at the end of the chain."""
        ...

    def head(self) -> Head:
        """Return the head as the store remembers it."""
        ...

    def page(self, *, after: int = 0, service: str | None = None, limit: int = 1000) -> list[AuditEntry]:
        """Return entries in order of their sequence, those above `after`."""
        ...


class FaultKind(StrEnum):
    """What is wrong with the chain."""

    CHANGED = "changed"  # the entry's content does not have its hash
    UNLINKED = "unlinked"  # it does not name the hash of the entry before
    MISSING = "missing"  # a sequence number is absent
    MISPLACED = "misplaced"  # a sequence number stands twice, or after a higher one
    TRUNCATED = "truncated"  # the log ends before the head
    ANCHOR = "anchor"  # the entry at the head's sequence has another hash


class Fault(msgspec.Struct, frozen=True):
    """The first thing wrong with a chain.

    Attributes:
        kind: What.
        sequence: Of the first entry that is not what it was.
        reason: In words.
    """

    kind: FaultKind
    sequence: int
    reason: str


class Verification(msgspec.Struct, frozen=True):
    """What verifying a chain found.

    Attributes:
        n_entries: How many entries hold, from the first on.
        head: The last of them.
        fault: The first thing wrong, or None.
    """

    n_entries: int
    head: Head
    fault: Fault | None = None

    def check(self) -> None:
        """Return if the chain holds.

        Raises:
            AuditBroken: It does not; names the first broken entry.
        """
        if self.fault is not None:
            raise AuditBroken(
                f"The audit log is broken at entry {self.fault.sequence}: {self.fault.reason}.",
                hint=f"Entries 1 to {self.n_entries} hold. Compare the rest with a copy of the database.",
                sequence=self.fault.sequence,
                kind=self.fault.kind.value,
            )


def entry_hash(entry: AuditEntry) -> Digest:
    """Return the hash that `entry` should carry."""
    # Format 1 hashes every field. One that is added later belongs to the next format's entries only.
    content = {name: getattr(entry, name) for name in AuditEntry.__struct_fields__ if name != "hash"}
    return digest_bytes(canonical_json(content))


def extend(head: Head, event: AuditEvent) -> AuditEntry:
    """Return the entry that puts `event` behind `head`.

    Raises:
        InvalidSetting: A text holds control characters, the service's name cannot be used, or the
            detail cannot be kept as JSON.
    """
    for name, text in (
        ("principal", event.principal.name),
        ("principal kind", event.principal.kind),
        ("action", event.action),
        ("subject", event.subject),
        ("idempotency key", event.key),
    ):
        if not _TEXT.match(text):
            raise InvalidSetting(
                f"The {name} of an audit entry must be text without control characters. Got {text!r}."
            )
    if event.service is not None:
        check_name("service", event.service)
    fields = {name: getattr(event, name) for name in AuditEvent.__struct_fields__}
    fields["detail"] = stored_form(event.detail, "detail of an audit entry")
    entry = AuditEntry(sequence=head.sequence + 1, previous=head.hash, hash=GENESIS, **fields)
    return msgspec.structs.replace(entry, hash=entry_hash(entry))


def verify(entries: Iterable[AuditEntry], *, heads: Iterable[Head] = ()) -> Verification:
    """Walk a chain from its first entry and stop at the first that is not what it was.

    Args:
        entries: In the order they are stored in.
        heads: Anchors: heads that this log had at some time, the store's own and any kept elsewhere.
            Without one, entries removed from the end leave no trace.
    """
    anchors: dict[int, set[Digest]] = {}
    for anchor in heads:
        anchors.setdefault(anchor.sequence, set()).add(anchor.hash)
    head = Head()
    fault = _anchor_fault(head, anchors)
    for entry in entries:
        fault = fault or _link_fault(head, entry)
        if fault is None:
            fault = _anchor_fault(Head(entry.sequence, entry.hash), anchors)
        if fault is not None:
            return Verification(head.sequence, head, fault)
        head = Head(entry.sequence, entry.hash)
    last = max(anchors, default=0)
    if fault is None and last > head.sequence:
        reason = f"the log ends here, but it once had {last} entries"
        fault = Fault(FaultKind.TRUNCATED, head.sequence + 1, reason)
    return Verification(head.sequence, head, fault)


def _link_fault(head: Head, entry: AuditEntry) -> Fault | None:
    """Tell what keeps `entry` from being the one behind `head`; named by the place it stands in."""
    here = head.sequence + 1
    if entry_hash(entry) != entry.hash:
        return Fault(FaultKind.CHANGED, here, "its content does not have its hash")
    if entry.sequence > here:
        return Fault(FaultKind.MISSING, here, f"it is missing, entry {entry.sequence} stands in its place")
    if entry.sequence < here:
        return Fault(FaultKind.MISPLACED, here, f"entry {entry.sequence} stands in its place")
    if entry.previous != head.hash:
        return Fault(FaultKind.UNLINKED, here, "it does not carry the hash of the entry before it")
    return None


def _anchor_fault(head: Head, anchors: dict[int, set[Digest]]) -> Fault | None:
    known = anchors.get(head.sequence, set())
    if known <= {head.hash}:
        return None
    return Fault(FaultKind.ANCHOR, head.sequence, "a head that was kept names another hash for it")
