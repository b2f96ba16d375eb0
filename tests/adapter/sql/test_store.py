import threading
from contextlib import suppress

import pytest

from tests import child
from tidegate.adapter.sql.unit import SqlUnitOfWork
from tidegate.core.decision import Decision, Evidence, Verdict
from tidegate.core.digest import digest_bytes
from tidegate.core.error import Conflict, InvalidSetting, NotFound
from tidegate.core.principal import SYSTEM, Principal
from tidegate.governance.audit import AuditEvent, Head, verify
from tidegate.operation.mutation import StoredMutation
from tidegate.registry.version import Environment, Lineage, VersionDraft

ANA = Principal("ana@laptop")
DIGEST = digest_bytes(b"")


def draft(service: str = "flights", changelog: str = "") -> VersionDraft:
    return VersionDraft(service=service, manifest=DIGEST, contract=DIGEST, changelog=changelog)


def decision(kind: str = "gate", service: str = "flights", version: int | None = 1) -> Decision:
    evidence = Evidence(
        rule="error-ratio",
        verdict=Verdict.UNDECIDED,
        reason="too few rows",
        parameters={"limit": 0.01},
        observed={"rows": 3, "text": "nul \0 and ü"},
        cut={"segment-1": 4096},
        statistic=0.3,
    )
    return Decision(
        kind=kind,
        service=service,
        outcome="hold",
        principal=ANA,
        at_us=5,
        version=version,
        evidence=[evidence],
    )


def event(key: str = "k") -> AuditEvent:
    return AuditEvent(
        at_us=7, principal=ANA, action="version.register", subject="flights@1", key=key, service="flights"
    )


def add_one_of_each(unit: SqlUnitOfWork) -> None:
    with unit.write() as transaction:
        transaction.versions.add(draft(), principal=ANA, at_us=1)
        transaction.decisions.append(decision())
        transaction.audit.append(event())


def add_and_fail(unit: SqlUnitOfWork) -> None:
    """Add one of each, and raise before the block ends."""
    with suppress(ZeroDivisionError), unit.write() as transaction:
        transaction.versions.add(draft("a"), principal=ANA, at_us=1)
        transaction.decisions.append(decision())
        transaction.audit.append(event())
        raise ZeroDivisionError


def test_version_reads_back_as_it_was_added(unit):
    lineage = Lineage(
        code_revision="abc",
        code_changed=True,
        code_digest=DIGEST,
        data_digest=DIGEST,
        parameters={"depth": 3, "rate": 0.1, "name": "ü\u2028\0", "none": None, "list": [1, {"a": False}]},
        environment=Environment("3.11.7", "Linux", {"numpy": "2.1"}),
        metrics={"auc": 0.75, "undefined": None},
        machine="laptop",
        who="ana",
        when_us=1_700_000_000_000_000,
    )
    full = VersionDraft(
        service="flights",
        manifest=digest_bytes(b"m"),
        contract=digest_bytes(b"c"),
        artifacts=(digest_bytes(b"1"), digest_bytes(b"2")),
        lineage=lineage,
        changelog="Trained on September too – ü 航班",
    )

    with unit.write() as transaction:
        added = transaction.versions.add(full, principal=SYSTEM, at_us=2**52)
        recorded = dict(transaction.records)
    with unit.read() as transaction:
        found = transaction.versions.get("flights", 1)

    assert found == added
    assert (found.number, found.created_at_us, found.principal, found.lineage) == (1, 2**52, SYSTEM, lineage)
    assert recorded == {"version:flights@1": found.digest}


def test_numbers_count_up_by_service_and_a_failed_one_is_given_again(unit):
    with unit.write() as transaction:
        labels = [
            transaction.versions.add(draft(name), principal=ANA, at_us=1).label for name in ("a", "b", "a")
        ]
    add_and_fail(unit)
    with unit.write() as transaction:
        labels.append(transaction.versions.add(draft("a"), principal=ANA, at_us=1).label)

    assert labels == ["a@1", "b@1", "a@2", "a@3"]


def test_pages_of_versions_join_without_gap_or_overlap(unit):
    names = ["B", "a", "a-b", "a.b", "b"]  # byte order, whatever the language of the server
    with unit.write() as transaction:
        for name in reversed(names):
            for _ in range(3):
                transaction.versions.add(draft(name), principal=ANA, at_us=1)

    with unit.read() as transaction:
        found, after = [], ("", 0)
        while page := transaction.versions.page(after=after, limit=4):
            found += page
            after = (page[-1].service, page[-1].number)
        assert [version.label for version in found] == [f"{name}@{n}" for name in names for n in (1, 2, 3)]
        assert [version.number for version in transaction.versions.page("a", after=("a", 1))] == [2, 3]
        assert transaction.versions.services() == names


def test_latest_and_absent_versions(unit):
    with unit.write() as transaction:
        for _ in range(2):
            transaction.versions.add(draft(), principal=ANA, at_us=1)

    with unit.read() as transaction:
        latest = transaction.versions.latest("flights")
        assert latest is not None
        assert latest.number == 2
        assert transaction.versions.latest("airbnb") is None
        with pytest.raises(NotFound, match="latest version is 2"):
            transaction.versions.get("flights", 3)
        with pytest.raises(NotFound, match="No version of 'airbnb'"):
            transaction.versions.get("airbnb", 1)


def test_decision_reads_back_as_it_was_appended(unit):
    with unit.write() as transaction:
        stored = transaction.decisions.append(decision())
        recorded = dict(transaction.records)

    with unit.read() as transaction:
        assert transaction.decisions.get(stored.id) == stored
    assert stored.decision == decision()
    assert recorded == {f"decision:{stored.id}": stored.digest}


def test_decisions_are_found_by_service_kind_and_version(unit):
    with unit.write() as transaction:
        stored = [
            transaction.decisions.append(decision(kind, service, version))
            for kind, service, version in [
                ("gate", "flights", 1),
                ("switch", "flights", 1),
                ("gate", "flights", 2),
                ("gate", "airbnb", None),
            ]
        ]
        first, second, third, fourth = stored
        decisions = transaction.decisions

        assert decisions.page() == stored
        assert decisions.page("flights") == [first, second, third]
        assert decisions.page("flights", kind="gate") == [first, third]
        assert decisions.page(kind="gate", version=1) == [first]
        assert decisions.page(after=second.id) == [third, fourth]
        assert decisions.page(limit=1) == [first]
        assert decisions.latest("flights") == third
        assert decisions.latest("flights", version=1) == second
        assert decisions.latest("flights", kind="rollback") is None
        with pytest.raises(NotFound):
            decisions.get(fourth.id + 1)


@pytest.mark.parametrize("change", [{"service": "a/b"}, {"kind": "a\nb"}])
def test_decision_that_cannot_be_kept_is_refused(unit, change):
    with pytest.raises(InvalidSetting), unit.write() as transaction:
        transaction.decisions.append(decision(**change))


def test_chain_grows_across_transactions_and_verifies(unit):
    for turn in range(3):
        with unit.write() as transaction:
            for place in range(2):
                transaction.audit.append(event(f"{turn}-{place}"))

    with unit.read() as transaction:
        entries = transaction.audit.page()
        assert [entry.sequence for entry in entries] == [1, 2, 3, 4, 5, 6]
        assert [entry.key for entry in entries] == ["0-0", "0-1", "1-0", "1-1", "2-0", "2-1"]
        assert verify(entries, heads=[transaction.audit.head()]).fault is None
        assert transaction.audit.page(after=4, limit=1) == entries[4:5]
        assert transaction.audit.page(service="airbnb") == []


def test_block_that_raises_leaves_nothing(unit):
    add_and_fail(unit)

    with unit.read() as transaction:
        assert transaction.versions.page() == []
        assert transaction.versions.services() == []
        assert transaction.decisions.page() == []
        assert transaction.audit.head() == Head()


def test_what_a_reader_does_is_not_kept(unit, database_url):
    if database_url.startswith("sqlite"):
        with unit.read() as transaction:
            transaction.versions.add(draft(), principal=ANA, at_us=1)
    else:
        with pytest.raises(Exception, match="read-only transaction"), unit.read() as transaction:
            transaction.versions.add(draft(), principal=ANA, at_us=1)

    with unit.read() as transaction:
        assert transaction.versions.page() == []


def test_reader_sees_one_state_throughout(unit):
    with unit.read() as before:
        assert before.versions.page() == []
        thread = threading.Thread(target=add_one_of_each, args=(unit,))
        thread.start()
        thread.join()
        assert before.versions.page() == []
        assert before.audit.head() == Head()
    with unit.read() as after:
        assert len(after.versions.page()) == 1


def test_mutation_is_found_by_its_key_and_a_key_is_taken_once(unit):
    stored = StoredMutation("k", "version.register", DIGEST, b'{"a":"\xc3\xbc"}', 1, 9)
    with unit.write() as transaction:
        transaction.audit.append(event())
        transaction.audit.append(event())
        transaction.mutations.add(stored)

    with unit.read() as transaction:
        assert transaction.mutations.find("k") == stored
        assert transaction.mutations.find("other") is None
    with pytest.raises(Conflict), unit.write() as transaction:
        transaction.mutations.add(StoredMutation("k", "a", DIGEST, b"", 2, 9))


def test_threads_share_a_unit(unit):
    def add() -> None:
        for _ in range(5):
            with unit.write() as transaction:
                transaction.versions.add(draft(), principal=ANA, at_us=1)

    threads = [threading.Thread(target=add) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    with unit.read() as transaction:
        assert [version.number for version in transaction.versions.page("flights")] == list(range(1, 16))


def test_processes_that_add_at_once_without_the_audit_lock_share_no_number(unit, database_url):
    together = child.context.Barrier(2)
    children = [child.start(child.add_many, database_url, "flights", 25, together) for _ in range(2)]

    assert [child.finish(process) for process in children] == [0, 0]
    with unit.read() as transaction:
        assert [version.number for version in transaction.versions.page("flights")] == list(range(1, 51))
