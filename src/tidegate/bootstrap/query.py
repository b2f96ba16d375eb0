"""Queries on databases that are somebody else's."""

from __future__ import annotations

from tidegate.data.source import QueryReader


def open_query_reader(url: str) -> QueryReader:
    """Return a reader of the database at `url`.

    Raises:
        InvalidSetting: It is no URL of SQLite or PostgreSQL.
        MissingExtra: The driver is not installed.
        NotFound: There is no such SQLite file.
    """
    from tidegate.adapter.sql.query import SqlQueryReader

    return SqlQueryReader(url)
