import sqlite3
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import text

from tests.database import run_sql
from tidegate.adapter.sql.engine import create, parse_url
from tidegate.adapter.sql.unit import open_database
from tidegate.core.decision import Decision
from tidegate.core.error import Corrupt, InvalidSetting, MissingExtra
from tidegate.core.principal import SYSTEM
from tidegate.governance.audit import AuditEvent
from tidegate.registry.store import CommitUnknown, NotStorable, StoreUnavailable

EVENT = AuditEvent(at_us=1, principal=SYSTEM, action="test.write", subject="x", key="k")


@pytest.mark.parametrize(
    ("given", "driver"),
    [
        ("sqlite:////data/metadata.db", "sqlite"),
        ("postgresql://ana@host/tidegate", "postgresql+psycopg"),
        ("postgres://ana@host/tidegate", "postgresql+psycopg"),
        ("postgresql+psycopg://ana@host/tidegate", "postgresql+psycopg"),
    ],
)
def test_url_leads_to_the_driver(given, driver):
    assert parse_url(given).drivername == driver


@pytest.mark.parametrize(
    "given",
    [
        "",
        "metadata.db",
        "sqlite://",
        "sqlite:///:memory:",
        "mysql://ana:secret@host/x",
        "postgresql+asyncpg://h/x",
        "sqlite:///x.db?mode=ro",
        "postgresql://ana:secret@host:port/x",
    ],
)
def test_other_url_is_refused_without_its_password(given):
    with pytest.raises(InvalidSetting) as caught:
        parse_url(given)

    assert "secret" not in str(caught.value)


def test_missing_driver_is_told_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)

    with pytest.raises(MissingExtra, match=r"pip install 'tidegate\[postgres\]'"):
        create(parse_url("postgresql://host/x"))


def test_unreachable_server_is_told_without_the_password(tmp_path):
    url = f"postgresql://ana:secret@/x?host={tmp_path}&sslpassword=secret"

    with pytest.raises(StoreUnavailable) as caught:
        open_database(url)

    assert "secret" not in str(caught.value)


def test_unreachable_file_is_told(tmp_path):
    with pytest.raises(StoreUnavailable, match="unable to open database file"):
        open_database(f"sqlite:///{tmp_path}/absent/metadata.db")


def test_file_that_is_no_database_is_told(tmp_path: Path):
    (tmp_path / "metadata.db").write_bytes(b"something else entirely, and long enough to be a header" * 20)

    with pytest.raises(Corrupt, match="not a database"):
        open_database(f"sqlite:///{tmp_path}/metadata.db")


@pytest.mark.parametrize("version", [10**23, 2**63])
def test_number_that_fits_no_column_is_told_in_words(database_url, version):
    decision = Decision(
        kind="switch", service="sum", version=version, outcome="x", principal=SYSTEM, at_us=1, reason=""
    )
    with closing(open_database(database_url)) as unit:
        with pytest.raises(NotStorable, match="cannot hold a value"), unit.write() as transaction:
            transaction.decisions.append(decision)
        with unit.read() as transaction:
            assert transaction.decisions.page() == []


def test_sqlite_keeps_what_is_committed_and_lets_readers_read(tmp_path):
    engine = create(parse_url(f"sqlite:///{tmp_path}/metadata.db"))

    with engine.connect() as connection:
        found = {
            name: connection.execute(text(f"PRAGMA {name}")).scalar()
            for name in ("journal_mode", "foreign_keys", "synchronous", "busy_timeout")
        }
    engine.dispose()

    assert found == {"journal_mode": "wal", "foreign_keys": 1, "synchronous": 2, "busy_timeout": 30_000}


def test_file_that_another_is_about_to_change_is_waited_for(tmp_path, monkeypatch):
    path = tmp_path / "metadata.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("CREATE TABLE theirs (x)")
        other.execute("BEGIN IMMEDIATE")
        waits: list[float] = []
        monkeypatch.setattr(time, "sleep", lambda wait_s: (waits.append(wait_s), other.execute("COMMIT")))

        open_database(f"sqlite:///{path}").close()

    assert len(waits) == 1  # SQLite itself refuses at once


def test_writer_that_waits_in_vain_is_told_and_nothing_is_changed(database_url):
    with (
        closing(open_database(database_url)) as holder,
        closing(open_database(database_url, wait_s=0.05)) as other,
    ):
        with holder.write() as held:
            held.audit.lock()
            with pytest.raises(StoreUnavailable), other.write() as blocked:
                blocked.audit.lock()
        with other.write() as free:
            assert free.audit.lock().sequence == 0


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_writer_that_went_silent_is_given_up_and_cannot_commit_afterwards(database_url):
    with (
        closing(open_database(database_url, abandoned_s=0.05)) as silent,
        closing(open_database(database_url)) as other,
    ):
        with pytest.raises((StoreUnavailable, CommitUnknown)), silent.write() as held:  # noqa: PT012
            held.audit.lock()
            with other.write() as next_:  # waits until the server has ended the silent one
                next_.audit.append(EVENT)
        with other.read() as transaction:
            assert transaction.audit.head().sequence == 1


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_connection_that_the_server_has_ended_is_replaced(postgresql, database_url):
    with closing(open_database(database_url)) as unit:
        with unit.read() as transaction:
            assert transaction.versions.services() == []
        run_sql(
            postgresql,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            f"WHERE datname = '{parse_url(database_url).database}'",
        )
        with unit.read() as transaction:
            assert transaction.versions.services() == []
