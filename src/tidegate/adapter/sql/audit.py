"""The audit chain and the keys of mutations in tables."""

from __future__ import annotations

from typing import Any

import msgspec
from sqlalchemy import Connection, RowMapping, insert, select, update

from tidegate.adapter.sql import table
from tidegate.core.digest import canonical_json
from tidegate.core.error import Corrupt
from tidegate.core.principal import Principal
from tidegate.governance.audit import AuditEntry, AuditEvent, Head, extend
from tidegate.operation.mutation import StoredMutation


class SqlAuditLog:
    """Implements `AuditLog` over one connection's transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def lock(self) -> Head:
        # SQLite leaves FOR UPDATE out: its writers already exclude each other.
        return self._head(lock=True)

    def head(self) -> Head:
        return self._head(lock=False)

    def _head(self, *, lock: bool) -> Head:
        query = select(table.audit_head.c.sequence, table.audit_head.c.hash)
        row = self._connection.execute(query.with_for_update() if lock else query).one_or_none()
        if row is None:
            raise Corrupt("The head of the audit log is missing from the metadata database.")
        return Head(row.sequence, row.hash)

    def append(self, event: AuditEvent) -> AuditEntry:
        entry = extend(self.lock(), event)
        self._connection.execute(
            insert(table.audit).values(
                sequence=entry.sequence,
                at_us=entry.at_us,
                principal=entry.principal.name,
                principal_kind=entry.principal.kind,
                action=entry.action,
                service=entry.service,
                subject=entry.subject,
                detail=canonical_json(entry.detail).decode(),
                key=entry.key,
                previous=entry.previous,
                hash=entry.hash,
                format=entry.format,
            )
        )
        self._connection.execute(update(table.audit_head).values(sequence=entry.sequence, hash=entry.hash))
        return entry

    def page(self, *, after: int = 0, service: str | None = None, limit: int = 1000) -> list[AuditEntry]:
        query = select(table.audit).where(table.audit.c.sequence > after)
        if service is not None:
            query = query.where(table.audit.c.service == service)
        query = query.order_by(table.audit.c.sequence).limit(limit)
        return [_read_entry(row) for row in self._connection.execute(query).mappings()]


def _read_entry(row: RowMapping) -> AuditEntry:
    try:
        detail = msgspec.json.decode(row["detail"], type=dict[str, Any])
    except msgspec.MsgspecError:
        # The entry no longer has its hash; verifying says so, and names it.
        detail = {"unreadable": row["detail"]}
    return AuditEntry(
        sequence=row["sequence"],
        at_us=row["at_us"],
        principal=Principal(row["principal"], row["principal_kind"]),
        action=row["action"],
        service=row["service"],
        subject=row["subject"],
        detail=detail,
        key=row["key"],
        previous=row["previous"],
        hash=row["hash"],
        format=row["format"],
    )


class SqlMutationStore:
    """Implements `MutationStore` over one connection's transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def find(self, key: str) -> StoredMutation | None:
        query = select(table.mutation).where(table.mutation.c.key == key)
        row = self._connection.execute(query).mappings().one_or_none()
        return StoredMutation(**{**row, "result": bytes(row["result"])}) if row is not None else None

    def add(self, mutation: StoredMutation) -> None:
        self._connection.execute(
            insert(table.mutation).values(
                {name: getattr(mutation, name) for name in StoredMutation.__struct_fields__}
            )
        )
