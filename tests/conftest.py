"""Fixtures that several packages' tests share."""

from hypothesis import settings

from tests.database import (
    database_url,
    empty_database_url,
    postgresql,
    postgresql_tables,
    sqlite_template,
    unit,
)

# A deadline would make a slow machine fail what is right.
settings.register_profile("tidegate", deadline=None)
settings.load_profile("tidegate")

__all__ = [
    "database_url",
    "empty_database_url",
    "postgresql",
    "postgresql_tables",
    "sqlite_template",
    "unit",
]
