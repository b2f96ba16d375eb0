"""A data set's snapshots are numbered once each, and nothing is named that is not whole."""

from __future__ import annotations

import polars as pl
import pytest

from tests.child import PRINCIPAL
from tidegate.adapter.files.artifact import LocalArtifactStore
from tidegate.core.clock import SystemClock
from tidegate.core.error import Conflict, InvalidSetting, NotFound
from tidegate.data.report import Policy
from tidegate.data.rule import Nulls, Range, Referential, Stable
from tidegate.data.snapshot import scan_snapshot
from tidegate.data.source import UnreadableData, file_source, frame_source
from tidegate.operation.audit import verify_audit
from tidegate.operation.data import check_data, find_snapshot, list_snapshots, take_checked, take_snapshot


@pytest.fixture
def store(tmp_path):
    return LocalArtifactStore(tmp_path / "artifacts")


def take(unit, store, values, key, name="numbers"):
    source = frame_source(pl.DataFrame({"x": values}))
    return take_snapshot(unit, store, source, name=name, principal=PRINCIPAL, key=key, clock=SystemClock())


def test_each_new_content_gets_the_next_number(unit, store):
    taken = [take(unit, store, values, f"k{at}") for at, values in enumerate([[1], [1], [2], [1]])]
    other = take(unit, store, [1], "other", name="others")

    assert [one.result.number for one in taken] == [1, 1, 2, 3]
    assert other.result.number == 1
    assert [one.label for one in list_snapshots(unit, "numbers")] == ["numbers@1", "numbers@2", "numbers@3"]
    assert verify_audit(unit).holds


def test_a_key_means_one_snapshot(unit, store):
    first = take(unit, store, [1], "k")

    assert take(unit, store, [1], "k").result == first.result
    assert take(unit, store, [1], "k").replayed
    with pytest.raises(Conflict):
        take(unit, store, [2], "k")


def test_a_snapshot_is_found_by_name_number_and_digest(unit, store):
    first, second = take(unit, store, [1], "a").result, take(unit, store, [2], "b").result

    assert find_snapshot(unit, store, "numbers")[0] == second.digest
    assert find_snapshot(unit, store, "numbers@1")[0] == first.digest
    assert find_snapshot(unit, store, first.digest)[0] == first.digest
    for label in ("numbers@9", "none"):
        with pytest.raises(NotFound):
            find_snapshot(unit, store, label)
    with pytest.raises(InvalidSetting):
        find_snapshot(unit, store, "numbers@last")


class Broken(LocalArtifactStore):
    """A store whose disk is full when the manifest comes."""

    def put_bytes(self, data):
        raise OSError("no space left on device")


def test_a_failure_before_the_end_names_nothing(unit, store, tmp_path):
    with pytest.raises(OSError, match="no space"):
        take(unit, Broken(tmp_path / "artifacts"), [1], "k")

    assert list_snapshots(unit) == []
    assert take(unit, store, [1], "k").result.number == 1


def test_a_file_that_changes_while_it_is_read_is_refused(unit, store, tmp_path):
    pl.DataFrame({"x": [1]}).write_csv(tmp_path / "t.csv")
    source = file_source(tmp_path / "t.csv")
    pl.DataFrame({"x": [2]}).write_csv(tmp_path / "t.csv")

    with pytest.raises(UnreadableData, match="was changed"):
        take_snapshot(unit, store, source, name="t", principal=PRINCIPAL, key="k", clock=SystemClock())

    assert list_snapshots(unit) == []


def test_rules_refer_to_snapshots_by_their_label(unit, store):
    take(unit, store, list(range(100)), "k")
    source = frame_source(pl.DataFrame({"x": [1, 2, 1000]}))

    def faults(*rules):
        report = check_data(unit, store, source, clock=SystemClock(), rules=rules).report
        return [(one.rule, one.count) for one in report.findings]

    assert faults(Referential(column="x", to="numbers@1", to_column="x")) == [("referential", 1)]
    assert faults(Stable(column="x", reference="numbers")) == []
    with pytest.raises(NotFound, match="no column 'y'"):
        faults(Referential(column="x", to="numbers", to_column="y"))
    with pytest.raises(NotFound, match="numbers@2"):
        faults(Stable(column="x", reference="numbers@2"))


def test_accepted_and_quarantined_rows_are_stored_apart_and_rejected_ones_not_at_all(unit, store):
    source = frame_source(pl.DataFrame({"x": [1, 20, None]}))

    def taken(key, *rules):
        validated = check_data(unit, store, source, clock=SystemClock(), rules=rules)
        return take_checked(
            unit, store, validated, name="x", principal=PRINCIPAL, key=key, clock=SystemClock()
        )

    rejected = taken("a", Nulls(column="x"))
    assert (rejected.snapshot, rejected.quarantine) == (None, None)
    assert list_snapshots(unit) == []

    kept = taken("b", Range(column="x", high=10, policy=Policy.QUARANTINE))
    assert kept.snapshot.note == "1 rows quarantined"
    rows = {
        one.name: scan_snapshot(store, find_snapshot(unit, store, one.label)[1]).collect()["x"].to_list()
        for one in list_snapshots(unit)
    }
    assert rows == {"x.quarantine": [20], "x": [1, None]}
