import pytest

from tests.child import PRINCIPAL, register_one
from tests.database import tamper
from tidegate.adapter.files.artifact import LocalArtifactStore
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


@pytest.mark.parametrize(
    "assignment",
    [
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
    ],
)
def test_any_altered_column_is_found_and_its_entry_named(filled, database_url, assignment):
    tamper(database_url, f"UPDATE tidegate_audit SET {assignment} WHERE sequence = 3")

    fault = verify_audit(filled).chain.fault

    assert fault is not None
    assert (fault.kind, fault.sequence) == (FaultKind.CHANGED, 3)
    with pytest.raises(AuditBroken, match="entry 3"):
        verify_audit(filled).chain.check()


@pytest.mark.parametrize(
    ("statement", "kind", "sequence"),
    [
        ("DELETE FROM tidegate_audit WHERE sequence = 2", FaultKind.MISSING, 2),
        ("DELETE FROM tidegate_audit WHERE sequence >= 4", FaultKind.TRUNCATED, 4),
        ("DELETE FROM tidegate_audit", FaultKind.TRUNCATED, 1),
        (f"UPDATE tidegate_audit_head SET hash = '{OTHER}'", FaultKind.ANCHOR, 5),
    ],
)
def test_removed_entries_and_another_head_are_found(filled, database_url, statement, kind, sequence):
    drop_keys = "DELETE FROM tidegate_mutation"  # their foreign key would stand in the way
    tamper(database_url, drop_keys, statement)

    fault = verify_audit(filled).chain.fault

    assert fault is not None
    assert (fault.kind, fault.sequence) == (kind, sequence)


def test_log_cut_together_with_its_head_is_found_by_an_anchor_kept_elsewhere(filled, database_url):
    anchor = audit_head(filled)
    kept = list_entries(filled)[2]
    tamper(
        database_url,
        "DELETE FROM tidegate_mutation",
        "DELETE FROM tidegate_audit WHERE sequence > 3",
        f"UPDATE tidegate_audit_head SET sequence = 3, hash = '{kept.hash}'",
    )

    assert verify_audit(filled).chain.fault is None
    fault = verify_audit(filled, anchors=[anchor]).chain.fault
    assert fault is not None
    assert (fault.kind, fault.sequence) == (FaultKind.TRUNCATED, 4)


@pytest.mark.parametrize(
    ("statement", "finding"),
    [
        ("UPDATE tidegate_version SET changelog = 'x' WHERE number = 2", "version:flights@2 is not what was"),
        (
            'UPDATE tidegate_version SET lineage = \'{"who":"eve"}\' WHERE number = 2',
            "version:flights@2 is not",
        ),
        ("UPDATE tidegate_version SET principal = 'eve' WHERE number = 2", "version:flights@2 is not"),
        ("DELETE FROM tidegate_version WHERE number = 3", "version:flights@3 is missing"),
        (
            "UPDATE tidegate_decision SET body = replace(body, 'hold', 'pass') WHERE id = 1",
            "decision:1 is not",
        ),
        ("DELETE FROM tidegate_decision WHERE id = 2", "decision:2 is missing"),
        (
            """INSERT INTO tidegate_decision (kind, service, version, body)
            SELECT kind, service, version, body FROM tidegate_decision WHERE id = 1""",
            "decision:3 has no entry",
        ),
    ],
)
def test_records_that_differ_from_their_entries_are_found(filled, database_url, statement, finding):
    tamper(database_url, statement)

    report = verify_audit(filled)

    assert not report.holds
    assert report.chain.fault is None
    assert len(report.discrepancies) == 1
    assert finding in report.discrepancies[0]
