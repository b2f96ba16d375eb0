"""Transactions over the metadata database."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from tidegate.adapter.sql.audit import SqlAuditLog, SqlMutationStore
from tidegate.adapter.sql.engine import ABANDONED_S, WAIT_S, WRITE, create, parse_url, translated
from tidegate.adapter.sql.migrate import migrate
from tidegate.adapter.sql.registry import SqlDecisionStore, SqlVersionStore
from tidegate.adapter.sql.release import SqlLeaseStore, SqlReleaseStore
from tidegate.core.digest import Digest
from tidegate.registry.store import CommitUnknown


class SqlTransaction:
    """Implements `Transaction`: every store over the same connection."""

    def __init__(self, connection: Connection) -> None:
        self._records: dict[str, Digest] = {}
        self.versions = SqlVersionStore(connection, self._records)
        self.decisions = SqlDecisionStore(connection, self._records)
        self.audit = SqlAuditLog(connection)
        self.mutations = SqlMutationStore(connection)
        self.releases = SqlReleaseStore(connection)
        self.leases = SqlLeaseStore(connection)

    @property
    def records(self) -> Mapping[str, Digest]:
        return self._records


class SqlUnitOfWork:
    """Implements `UnitOfWork`. One per process; several threads may use it."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @contextmanager
    def write(self) -> Iterator[SqlTransaction]:
        with translated(self._engine), self._engine.connect() as connection:
            transaction = connection.execution_options(**{WRITE: True}).begin()
            try:
                yield SqlTransaction(connection)
            except BaseException:
                with suppress(DBAPIError):  # of a lost connection the server itself rolls back
                    transaction.rollback()
                raise
            try:
                transaction.commit()
            except DBAPIError as error:
                connection.invalidate()  # nobody knows the state it is in
                raise CommitUnknown(
                    "The metadata database failed while a change was being committed.",
                    hint="Repeat with the same idempotency key: it is done once in either case.",
                ) from error

    @contextmanager
    def read(self) -> Iterator[SqlTransaction]:
        options = (
            {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
            if self._engine.dialect.name == "postgresql"
            else {}
        )
        with translated(self._engine), self._engine.connect() as connection:
            transaction = connection.execution_options(**options).begin()
            try:
                yield SqlTransaction(connection)
            finally:
                with suppress(DBAPIError):
                    transaction.rollback()

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()


def open_database(url: str, *, wait_s: float = WAIT_S, abandoned_s: float = ABANDONED_S) -> SqlUnitOfWork:
    """Open the metadata database, creating or upgrading its schema where that is behind.

    Args:
        url: `sqlite:///PATH` or `postgresql://USER@HOST/DATABASE`.
        wait_s: How long to wait for another writer.
        abandoned_s: When PostgreSQL gives up a writer that went silent.

    Raises:
        InvalidSetting: The URL is of another kind.
        MissingExtra: PostgreSQL's driver is not installed.
        SchemaTooNew: The database was made by a later release.
        StoreUnavailable: The database cannot be reached.
    """
    engine = create(parse_url(url), wait_s=wait_s, abandoned_s=abandoned_s)
    try:
        migrate(engine)
    except BaseException:
        engine.dispose()
        raise
    return SqlUnitOfWork(engine)
