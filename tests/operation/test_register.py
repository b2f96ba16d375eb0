from contextlib import closing

import msgspec
import pytest

from tests import child
from tests.child import PRINCIPAL, register_one
from tidegate.adapter.files.artifact import LocalArtifactStore
from tidegate.adapter.sql.unit import SqlUnitOfWork, open_database
from tidegate.core.clock import SystemClock
from tidegate.core.digest import digest_bytes
from tidegate.core.error import Conflict, NotFound
from tidegate.operation.audit import list_entries, verify_audit
from tidegate.operation.register import register
from tidegate.registry.version import Lineage


@pytest.fixture
def store(tmp_path) -> LocalArtifactStore:
    return LocalArtifactStore(tmp_path / "artifacts")


def check_all(unit: SqlUnitOfWork, store: LocalArtifactStore) -> dict[str, str]:
    """Check that every version is whole and has its one entry; return their labels by key."""
    report = verify_audit(unit)
    assert report.holds, report
    keys: dict[str, str] = {}
    with unit.read() as transaction:
        versions = transaction.versions.page()
        entries = transaction.audit.page()
        for entry in entries:
            assert transaction.mutations.find(entry.key).sequence == entry.sequence
            keys[entry.key] = entry.subject
    assert sorted(keys.values()) == sorted(version.label for version in versions)
    assert len(entries) == len(versions)
    for version in versions:
        for digest in (version.manifest, *version.artifacts):
            store.open(digest)
    return keys


def test_registered_version_names_everything_it_was_registered_with(unit, store):
    artifact = store.put_bytes(b"model")
    lineage = Lineage(code_revision="abc", metrics={"auc": 0.75}, when_us=5)

    outcome = register(
        unit,
        store,
        service="flights",
        manifest=b'{"a":1}',
        artifacts=[artifact, artifact],
        contract=digest_bytes(b"c"),
        principal=PRINCIPAL,
        key="k",
        clock=SystemClock(),
        lineage=lineage,
        changelog="the first",
    )

    version = outcome.result
    assert (version.label, version.artifacts, version.lineage) == ("flights@1", (artifact,), lineage)
    assert (version.principal, version.changelog, version.contract) == (
        PRINCIPAL,
        "the first",
        digest_bytes(b"c"),
    )
    assert store.read_bytes(version.manifest) == b'{"a":1}'
    (entry,) = list_entries(unit, service="flights")
    assert (entry.action, entry.detail["changelog"]) == ("version.register", "the first")
    check_all(unit, store)


def test_repeated_registration_is_the_same_version_even_with_lineage_collected_anew(unit, store):
    artifact = store.put_bytes(b"model")

    outcomes = [
        register(
            unit,
            store,
            service="flights",
            manifest=b"{}",
            artifacts=[artifact],
            contract=digest_bytes(b"c"),
            principal=PRINCIPAL,
            key="k",
            clock=SystemClock(),
            lineage=Lineage(code_revision="abc", when_us=when_us),
        )
        for when_us in (1, 2)
    ]

    assert [outcome.replayed for outcome in outcomes] == [False, True]
    assert outcomes[0].result == outcomes[1].result
    with pytest.raises(Conflict):
        register_one(unit, store, "flights", "k")


def test_registration_without_its_files_is_refused_and_leaves_nothing(unit, store):
    with pytest.raises(NotFound, match="is not in the artifact store"):
        register(
            unit,
            store,
            service="flights",
            manifest=b"{}",
            artifacts=[digest_bytes(b"absent")],
            contract=digest_bytes(b"c"),
            principal=PRINCIPAL,
            key="k",
            clock=SystemClock(),
        )

    assert check_all(unit, store) == {}
    assert not store.exists(digest_bytes(b"{}"))


def test_processes_that_register_at_once_share_no_number_and_lose_none(unit, store, database_url):
    n = 20
    keys = [[f"{process}-{turn}" for turn in range(n)] for process in range(2)]
    together = child.context.Barrier(2)
    children = [
        child.start(child.register_many, database_url, store.root, "flights", mine, together) for mine in keys
    ]

    assert [child.finish(process) for process in children] == [0, 0]
    found = check_all(unit, store)
    assert set(found) == {key for mine in keys for key in mine}
    assert sorted(found.values()) == sorted(f"flights@{number}" for number in range(1, 2 * n + 1))


def test_processes_that_register_under_the_same_keys_at_once_do_each_once(unit, store, database_url):
    keys = [f"k{turn}" for turn in range(15)]
    together = child.context.Barrier(2)
    children = [
        child.start(child.register_many, database_url, store.root, "flights", keys, together)
        for _ in range(2)
    ]

    assert [child.finish(process) for process in children] == [0, 0]
    assert set(check_all(unit, store)) == set(keys)


def test_registration_that_is_killed_anywhere_leaves_nothing_or_everything(unit, store, database_url):
    done = set()
    for at in range(1, 40):
        key = f"k{at}"
        code = child.finish(child.start(child.register_and_die, database_url, store.root, "flights", key, at))
        found = check_all(unit, store)
        done.add(key in found)
        assert code == 0 or code < 0
        again = register_one(unit, store, "flights", key)
        assert again.replayed == (key in found)
        assert again.result.number == at  # no number was lost to the dead
        if code == 0:
            break
    else:
        pytest.fail("the child was killed every time")

    assert done == {True, False}
    assert at > 8


def test_killed_process_leaves_the_database_usable_at_once(database_url, store):
    with closing(open_database(database_url)) as unit:
        child.finish(child.start(child.register_and_die, database_url, store.root, "flights", "k", 5))

        assert register_one(unit, store, "flights", "other").result.number == 1


def test_version_as_registered_decodes_from_what_is_stored(unit, store):
    version = register_one(unit, store, "flights", "k").result

    assert msgspec.json.decode(msgspec.json.encode(version), type=type(version)) == version
