"""Releases and leases in tables."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Row, insert, select, update
from sqlalchemy.exc import IntegrityError

from tidegate.adapter.sql import table
from tidegate.core.error import Conflict, NotFound
from tidegate.release.book import StoredRelease
from tidegate.release.lease import Lease

_COLUMNS = (
    table.release.c.id,
    table.release.c.service,
    table.release.c.is_open,
    table.release.c.revision,
    table.release.c.body,
)


class SqlReleaseStore:
    """Implements `ReleaseStore` over one connection's transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def add(self, release: StoredRelease) -> None:
        other = self.find_open(release.service) if release.is_open else None
        if other is not None:
            raise _taken(other.service, other.id)
        values = {name: getattr(release, name) for name in StoredRelease.__struct_fields__}
        try:
            with self._connection.begin_nested():
                self._connection.execute(insert(table.release).values(values))
        except IntegrityError as error:  # another transaction came between the look and the write
            raise _taken(release.service, "") from error

    def save(self, release: StoredRelease, *, revision: int) -> None:
        columns = table.release.c
        statement = (
            update(table.release)
            .where(columns.id == release.id, columns.revision == revision)
            .values(is_open=release.is_open, revision=release.revision, body=release.body)
        )
        if self._connection.execute(statement).rowcount != 1:
            raise Conflict(
                f"The release of service {release.service!r} was changed by someone else meanwhile.",
                hint="Look at its status and decide again.",
                service=release.service,
            )

    def get(self, id: str) -> StoredRelease:
        row = self._connection.execute(select(*_COLUMNS).where(table.release.c.id == id)).one_or_none()
        if row is None:
            raise NotFound(f"There is no release {id!r}.", id=id)
        return _read(row)

    def find_open(self, service: str) -> StoredRelease | None:
        columns = table.release.c
        query = select(*_COLUMNS).where(columns.service == service, columns.is_open)
        row = self._connection.execute(query).one_or_none()
        return None if row is None else _read(row)

    def page(
        self, service: str | None = None, *, open_only: bool = False, limit: int = 100
    ) -> list[StoredRelease]:
        columns = table.release.c
        query = select(*_COLUMNS).order_by(columns.number.desc()).limit(limit)
        if service is not None:
            query = query.where(columns.service == service)
        if open_only:
            query = query.where(columns.is_open)
        return [_read(row) for row in self._connection.execute(query)]


class SqlLeaseStore:
    """Implements `LeaseStore` over one connection's transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def find(self, name: str) -> Lease | None:
        row = self._connection.execute(select(table.lease).where(table.lease.c.name == name)).one_or_none()
        return None if row is None else Lease(row.name, row.holder, row.token, row.beat)

    def replace(self, old: Lease | None, new: Lease) -> bool:
        values = {"name": new.name, "holder": new.holder, "token": new.token, "beat": new.beat}
        if old is None:
            try:
                with self._connection.begin_nested():
                    self._connection.execute(insert(table.lease).values(values))
            except IntegrityError:
                return False
            return True
        columns = table.lease.c
        statement = (
            update(table.lease)
            .where(columns.name == old.name, columns.token == old.token, columns.beat == old.beat)
            .values(values)
        )
        return self._connection.execute(statement).rowcount == 1


def _read(row: Row[Any, Any, Any, Any, Any]) -> StoredRelease:
    return StoredRelease(row.id, row.service, bool(row.is_open), row.revision, bytes(row.body))


def _taken(service: str, id: str) -> Conflict:
    return Conflict(
        f"A release of service {service!r} is under way{f' ({id})' if id else ''}.",
        hint="Let it end, or abort it; `tidegate release status` shows where it stands.",
        service=service,
    )
