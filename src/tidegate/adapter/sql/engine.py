"""From a URL to an engine that behaves the same over both databases."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import (
    ArgumentError,
    DatabaseError,
    DataError,
    IntegrityError,
    InterfaceError,
    OperationalError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeout

from tidegate.core.error import Conflict, Corrupt, InvalidSetting, MissingExtra
from tidegate.registry.store import NotStorable, StoreUnavailable

WRITE = "tidegate_write"
"""Execution option of a connection that is about to write."""

WAIT_S = 30.0
"""How long to wait for another writer. Transactions take milliseconds; one that holds the database
for longer belongs to a process that was stopped, and waiting on is no use."""

ABANDONED_S = 60.0
"""When PostgreSQL ends the session of a writer that went silent inside a transaction, so that a
stopped process does not keep all others waiting for ever."""

_RETRY_S = 0.05


def parse_url(text: str) -> URL:
    """Return the engine URL of a setting.

    Raises:
        InvalidSetting: It is no URL of SQLite (a file) or PostgreSQL.
    """
    hint = "Use sqlite:///PATH or postgresql://USER@HOST/DATABASE."
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        # The text may hold a password: it is not repeated.
        raise InvalidSetting("The metadata database's URL cannot be read.", hint=hint) from None
    if url.drivername in ("postgresql", "postgres", "postgresql+psycopg"):
        return url.set(drivername="postgresql+psycopg")
    if url.drivername in ("sqlite", "sqlite+pysqlite"):
        if not url.database or url.database == ":memory:" or url.query:
            raise InvalidSetting(
                "The metadata database must be a file: SQLite in memory forgets everything.", hint=hint
            )
        return url.set(drivername="sqlite")
    raise InvalidSetting(
        f"The metadata database {describe(url)!r} is of a kind that is not supported.", hint=hint
    )


def describe(url: URL) -> str:
    """Return a URL without its password, for messages."""
    kept = {name: value for name, value in url.query.items() if name in ("host", "port")}
    return url.set(query=kept).render_as_string(hide_password=True)


def create(url: URL, *, wait_s: float = WAIT_S, abandoned_s: float = ABANDONED_S) -> Engine:
    """Return an engine for a parsed URL. Connects to nothing yet.

    Args:
        url: From `parse_url`.
        wait_s: How long a statement waits for another writer.
        abandoned_s: When a writer that went silent is given up. PostgreSQL only: nobody can take
            SQLite's lock from a process that is stopped.

    Raises:
        MissingExtra: The driver is not installed.
    """
    if url.get_backend_name() == "sqlite":
        return _create_sqlite(url, wait_s)
    return _create_postgresql(url, wait_s, abandoned_s)


def _create_sqlite(url: URL, wait_s: float) -> Engine:
    engine = create_engine(url, connect_args={"timeout": wait_s}, hide_parameters=True)

    @event.listens_for(engine, "connect")
    def configure(connection: sqlite3.Connection, _record: object) -> None:
        # The driver would open transactions by itself, too late and of the wrong kind, and commit
        # before every change of the schema.
        connection.isolation_level = None
        try:
            _set_wal(connection, wait_s)
            connection.execute("PRAGMA foreign_keys = ON")
            connection.execute("PRAGMA synchronous = FULL")  # what was committed survives a loss of power
        except sqlite3.Error:
            connection.close()  # the pool forgets a connection that it could not set up
            raise

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # A reader that turns writer is refused if another wrote in between; whoever means to write
        # therefore takes the lock at once.
        write = connection.get_execution_options().get(WRITE)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")

    return engine


def _set_wal(connection: sqlite3.Connection, wait_s: float) -> None:
    # SQLite does not wait for a lock when two connections change the mode at once.
    deadline_s = time.monotonic() + wait_s
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL").fetchall()
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline_s:
                raise
            time.sleep(_RETRY_S)
        else:
            return


def _create_postgresql(url: URL, wait_s: float, abandoned_s: float) -> Engine:
    try:
        engine = create_engine(
            url,
            connect_args={"connect_timeout": 10},
            hide_parameters=True,
            pool_pre_ping=True,  # a restarted server is noticed before a transaction begins
        )
    except ModuleNotFoundError as error:
        raise MissingExtra("A PostgreSQL metadata database", extra="postgres", package="psycopg") from error

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        if connection.get_execution_options().get(WRITE):
            connection.exec_driver_sql(f"SET LOCAL lock_timeout = {int(wait_s * 1000)}")
            connection.exec_driver_sql(
                f"SET LOCAL idle_in_transaction_session_timeout = {int(abandoned_s * 1000)}"
            )

    return engine


@contextmanager
def translated(engine: Engine) -> Iterator[None]:
    """Turn the driver's errors into this project's, without SQL or parameters in the message.

    Raises:
        StoreUnavailable: The database cannot be reached, or another holds it.
        Conflict: A row stands in the way of another.
        NotStorable: A value fits no column.
        Corrupt: The database file is damaged or is none.
    """
    name = describe(engine.url)
    try:
        yield
    except IntegrityError as error:
        raise Conflict(f"The metadata database refused the change: {_reason(error)}.") from error
    except (DataError, OverflowError) as error:  # SQLite's driver has no error of its own for large numbers
        raise NotStorable(
            f"The metadata database cannot hold a value: {_reason(error)}.",
            hint="Look at the numbers and texts that were given.",
        ) from error
    except (OperationalError, InterfaceError, PoolTimeout) as error:
        raise StoreUnavailable(
            f"The metadata database {name} cannot be used now: {_reason(error)}.",
            hint="Nothing was changed. Check that it runs and can be reached, then repeat.",
            database=name,
        ) from error
    except DatabaseError as error:
        if type(error) is not DatabaseError or engine.dialect.name != "sqlite":
            raise  # a statement of ours is wrong
        raise Corrupt(
            f"The metadata database {name} cannot be read: {_reason(error)}.", database=name
        ) from error


def _reason(error: Any) -> str:
    text = str(getattr(error, "orig", None) or error).strip()
    return text.splitlines()[0].rstrip(".") if text else type(error).__name__
