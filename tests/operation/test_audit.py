import pytest

from tests.child import PRINCIPAL, register_one
from tests.database import tampered
from tidegate.adapter.files.artifact import LocalArtifactStore
from tidegate.adapter.sql import table
from tidegate.core.clock import SystemClock
from tidegate.core.decision import Decision
from tidegate.core.digest import digest_bytes
from tidegate.governance.audit import AuditBroken, FaultKind
from tidegate.operation.audit import audit_head, list_entries, verify_audit
from tidegate.operation.decide import record_decision

OTHER = digest_bytes(b"other")


@pytest.fixture
def filled(unit, tmp_path):
    """A database with three versions and two decisions: five entries."""
    store = LocalArtifactStore(tmp_path / "artifacts")
    for place in range(3):
        register_one(unit, store, "flights", f"k{place}")
    for place in range(2):
        decision = Decision(
            kind="gate", service="flights", outcome="hold", principal=PRINCIPAL, at_us=1, version=1
        )
        record_decision(unit, decision, key=f"d{place}", clock=SystemClock())
    return unit


def test_untouched_log_holds(filled):
    report = verify_audit(filled, anchors=[audit_head(filled)])

    assert report.holds
    assert (report.chain.n_entries, report.n_records) == (5, 5)
    report.chain.check()
    assert [entry.sequence for entry in list_entries(filled, after=3)] == [4, 5]


ALTERATIONS = [
    "at_us = at_us + 1",
    "principal = 'eve'",
    "principal_kind = 'system'",
    "action = 'route.switch'",
    "service = 'airbnb'",
    "service = NULL",
    "subject = 'flights@9'",
    "detail = '{}'",
    "detail = 'not json'",
    "key = 'other'",
    f"previous = '{OTHER}'",
    f"hash = '{OTHER}'",
    "format = 2",
]
REMOVALS = [
    ("DELETE FROM tidegate_audit WHERE sequence = 2", FaultKind.MISSING, 2),
    ("DELETE FROM tidegate_audit WHERE sequence >= 4", FaultKind.TRUNCATED, 4),
    ("DELETE FROM tidegate_audit", FaultKind.TRUNCATED, 1),
    (f"UPDATE tidegate_audit_head SET hash = '{OTHER}'", FaultKind.ANCHOR, 5),
]
DIFFERENCES = [
    ("UPDATE tidegate_version SET changelog = 'x' WHERE number = 2", "version:flights@2 is not what was"),
    ('UPDATE tidegate_version SET lineage = \'{"who":"eve"}\' WHERE number = 2', "version:flights@2 is not"),
    ("UPDATE tidegate_version SET principal = 'eve' WHERE number = 2", "version:flights@2 is not"),
    ("DELETE FROM tidegate_version WHERE number = 3", "version:flights@3 is missing"),
    ("UPDATE tidegate_decision SET body = replace(body, 'hold', 'pass') WHERE id = 1", "decision:1 is not"),
    ("DELETE FROM tidegate_decision WHERE id = 2", "decision:2 is missing"),
    (
        """INSERT INTO tidegate_decision (id, kind, service, version, body)
        SELECT 9, kind, service, version, body FROM tidegate_decision WHERE id = 1""",
        "decision:9 has no entry",
    ),
]
WITHOUT_KEYS = "DELETE FROM tidegate_mutation"  # their foreign key would stand in the way


def test_alterations_cover_every_column():
    assert {line.partition(" = ")[0] for line in ALTERATIONS} | {"sequence"} == set(table.audit.c.keys())


def test_any_altered_column_is_found_and_its_entry_named(filled, database_url, subtests):
    for assignment in ALTERATIONS:
        statement = f"UPDATE tidegate_audit SET {assignment} WHERE sequence = 3"
        with subtests.test(assignment), tampered(database_url, statement) as unit:
            chain = verify_audit(unit).chain
            assert chain.fault is not None
            assert (chain.fault.kind, chain.fault.sequence) == (FaultKind.CHANGED, 3)
            with pytest.raises(AuditBroken, match="entry 3"):
                chain.check()
    assert verify_audit(filled).holds


def test_removed_entries_and_another_head_are_found(filled, database_url, subtests):
    for statement, kind, sequence in REMOVALS:
        with subtests.test(statement), tampered(database_url, WITHOUT_KEYS, statement) as unit:
            fault = verify_audit(unit).chain.fault
            assert fault is not None
            assert (fault.kind, fault.sequence) == (kind, sequence)


def test_log_cut_together_with_its_head_is_found_by_an_anchor_kept_elsewhere(filled, database_url):
    anchor = audit_head(filled)
    kept = list_entries(filled)[2]
    statements = (
        WITHOUT_KEYS,
        "DELETE FROM tidegate_audit WHERE sequence > 3",
        f"UPDATE tidegate_audit_head SET sequence = 3, hash = '{kept.hash}'",
    )

    with tampered(database_url, *statements) as unit:
        assert verify_audit(unit).chain.fault is None
        fault = verify_audit(unit, anchors=[anchor]).chain.fault

    assert fault is not None
    assert (fault.kind, fault.sequence) == (FaultKind.TRUNCATED, 4)


def test_records_that_differ_from_their_entries_are_found(filled, database_url, subtests):
    for statement, finding in DIFFERENCES:
        with subtests.test(statement), tampered(database_url, statement) as unit:
            report = verify_audit(unit)
            assert not report.holds
            assert report.chain.fault is None
            assert len(report.discrepancies) == 1
            assert finding in report.discrepancies[0]
