import subprocess
import sys
import warnings
from contextlib import closing
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

import tidegate.adapter.sql.migration
from tests import child
from tests.adapter.sql.test_store import add_one_of_each
from tests.database import run_sql, tampered
from tidegate.adapter.sql.engine import create, parse_url
from tidegate.adapter.sql.migrate import REVISION, REVISION_TABLE, SchemaTooNew
from tidegate.adapter.sql.table import metadata
from tidegate.adapter.sql.unit import open_database


def test_known_revision_is_the_newest_in_the_folder():
    config = Config()
    config.set_main_option("script_location", str(Path(tidegate.adapter.sql.migration.__file__).parent))

    assert ScriptDirectory.from_config(config).get_heads() == [REVISION]


def test_migrated_schema_is_the_declared_one(empty_database_url):
    open_database(empty_database_url).close()
    engine = create(parse_url(empty_database_url))

    with engine.connect() as connection, warnings.catch_warnings():
        context = MigrationContext.configure(
            connection,
            opts={
                "version_table": REVISION_TABLE,
                "compare_type": True,
                "compare_server_default": True,
            },
        )
        difference = compare_metadata(context, metadata)
    engine.dispose()

    assert difference == []


def test_opening_again_changes_nothing(empty_database_url):
    for _ in range(2):
        with closing(open_database(empty_database_url)) as unit, unit.read() as transaction:
            assert transaction.audit.head().sequence == 0


def test_schema_of_a_later_release_is_refused_in_words(empty_database_url):
    open_database(empty_database_url).close()
    run_sql(empty_database_url, f"UPDATE {REVISION_TABLE} SET version_num = '9999'")

    with pytest.raises(
        SchemaTooNew, match=f"'9999', which this release of Tidegate does not know; its own is '{REVISION}'"
    ):
        open_database(empty_database_url)


def test_processes_that_open_a_new_database_at_once_all_succeed(empty_database_url):
    together = child.context.Barrier(3)
    children = [child.start(child.open_together, empty_database_url, together) for _ in range(3)]

    assert [child.finish(process) for process in children] == [0, 0, 0]
    with closing(open_database(empty_database_url)) as unit, unit.read() as transaction:
        assert transaction.audit.head().sequence == 0


def test_creation_that_is_killed_anywhere_is_done_by_the_next(empty_database_url):
    for at in (1, 8, 16, 24, 200):
        code = child.finish(child.start(child.open_and_die, empty_database_url, at))
        if code == 0:
            break
    assert at > 10  # it was killed in the middle at least once

    with closing(open_database(empty_database_url)) as unit, unit.read() as transaction:
        assert transaction.audit.head().sequence == 0


def test_database_itself_refuses_to_alter_records_unless_the_guard_is_removed(unit, database_url, subtests):
    add_one_of_each(unit)

    for name, column in (("version", "changelog"), ("decision", "kind"), ("audit", "subject")):
        for statement in (f"UPDATE tidegate_{name} SET {column} = 'other'", f"DELETE FROM tidegate_{name}"):
            with subtests.test(statement):
                with pytest.raises(Exception, match="are kept as they are"):
                    run_sql(database_url, statement)
                with tampered(database_url, statement):  # hence the chain
                    pass


def test_opening_an_existing_database_does_not_import_alembic(tmp_path):
    url = f"sqlite:///{tmp_path}/metadata.db"
    open_database(url).close()
    probe = (
        "import sys; from tidegate.adapter.sql.unit import open_database; "
        f"open_database({url!r}).close(); print('alembic' in sys.modules)"
    )

    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "False"
