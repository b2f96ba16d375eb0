"""Bring a database's schema up to this release, once, whoever comes first."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection, Engine, inspect, text

from tidegate.adapter.sql.engine import WRITE, describe, translated
from tidegate.core.error import TidegateError

REVISION = "0002"
"""The newest revision in `migration/versions`. Known here so that opening a database which is up to
date does not have to import Alembic, which takes as long as everything else together."""

REVISION_TABLE = "tidegate_schema"

_LOCK = 0x7469646567617465  # "tidegate"; the number that PostgreSQL's advisory lock goes by


class SchemaTooNew(TidegateError):
    """The database was made by a later release."""

    code = "schema_too_new"


def migrate(engine: Engine) -> None:
    """Create or upgrade the schema where it is behind.

    All revisions are applied in one transaction, under a lock that other processes wait for.

    Raises:
        SchemaTooNew: The database was made by a later release.
        StoreUnavailable: The database cannot be reached, or is not freed in time.
    """
    with translated(engine):
        with engine.connect() as connection:
            if _revision(connection) == REVISION:
                return
        with engine.connect().execution_options(**{WRITE: True}) as connection, connection.begin():
            if connection.dialect.name == "postgresql":
                connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
            if _revision(connection) != REVISION:
                _upgrade(connection)


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table(REVISION_TABLE):
        return None
    return connection.execute(text(f"SELECT version_num FROM {REVISION_TABLE}")).scalar()  # noqa: S608  # a constant


def _upgrade(connection: Connection) -> None:
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory
    from alembic.util import CommandError

    config = Config()
    folder = Path(__file__).parent / "migration"
    config.set_main_option("script_location", str(folder).replace("%", "%%"))
    config.attributes["connection"] = connection
    current = _revision(connection)
    if current is not None:
        try:
            ScriptDirectory.from_config(config).get_revision(current)
        except CommandError as error:
            name = describe(connection.engine.url)
            raise SchemaTooNew(
                f"The metadata database {name} has the schema revision {current!r}, which this release of "
                f"Tidegate does not know; its own is {REVISION!r}.",
                hint="A later release has upgraded it. Install that release, or use a copy from before.",
                database=name,
                revision=current,
            ) from error
    command.upgrade(config, "head")
