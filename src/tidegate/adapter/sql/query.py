"""Rows from a query on somebody's database, which is only ever read."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import polars as pl
from sqlalchemy import Engine, create_engine
from sqlalchemy.exc import SQLAlchemyError

from tidegate.adapter.sql.engine import create, describe, parse_url
from tidegate.core.error import NotFound
from tidegate.data.source import UnreadableData

BATCH_ROWS = 50_000
"""Rows fetched at a time: some MB, so that the driver never holds the whole result beside ours."""


class SqlQueryReader:
    """Runs queries on SQLite and PostgreSQL in transactions that cannot write."""

    def __init__(self, url: str) -> None:
        """Take a URL.

        Args:
            url: sqlite:///PATH or postgresql://USER@HOST/DATABASE. A password better stands in
                PGPASSWORD or the password file: a command line can be read by others.

        Raises:
            InvalidSetting: It is no such URL.
            MissingExtra: The driver is not installed.
            NotFound: There is no such SQLite file.
        """
        parsed = parse_url(url)
        self.location = describe(parsed)
        if parsed.get_backend_name() == "sqlite":
            self._engine = _read_only_sqlite(Path(parsed.database or ""))
        else:
            self._engine = create(parsed).execution_options(postgresql_readonly=True)

    def read(self, query: str) -> Iterator[pl.DataFrame]:
        """Give the rows that `query` selects.

        Raises:
            UnreadableData: The database cannot be reached, or refuses the query.
        """
        try:
            with self._engine.connect() as connection:
                result = connection.execution_options(yield_per=BATCH_ROWS).exec_driver_sql(query)
                if not result.returns_rows:
                    raise UnreadableData("The query selects no rows.", hint="Use a SELECT.")
                names = list(result.keys())
                yield pl.DataFrame(schema=dict.fromkeys(names, pl.Null))
                for rows in result.partitions():
                    columns = zip(names, zip(*rows, strict=True), strict=True)
                    yield pl.DataFrame([pl.Series(name, values) for name, values in columns])
        except (SQLAlchemyError, sqlite3.Error, pl.exceptions.PolarsError, TypeError) as error:
            reason = str(getattr(error, "orig", None) or error).strip().partition("\n")[0]
            raise UnreadableData(
                f"The query on {self.location} failed: {reason}", database=self.location
            ) from error
        finally:
            self._engine.dispose()


def _read_only_sqlite(path: Path) -> Engine:
    if not path.is_file():
        raise NotFound(f"There is no database file {path}.", path=str(path))
    address = f"file:{quote(str(path.absolute()))}?mode=ro"
    return create_engine(
        "sqlite://", creator=lambda: sqlite3.connect(address, uri=True), hide_parameters=True
    )
