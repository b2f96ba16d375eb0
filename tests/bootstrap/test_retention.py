"""Retention over a real home: its registered objectives, its files, its journal."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.monitoring.home import fill
from tidegate.adapter.parquet.record import RecordStore
from tidegate.bootstrap.local import Local
from tidegate.bootstrap.retention import Retention, kept
from tidegate.bootstrap.setting import Settings
from tidegate.cli.main import cli
from tidegate.core.clock import SystemClock
from tidegate.journal.ledger import Ledger
from tidegate.journal.retention import RetentionPolicy

CENTURY_S = 100 * 365.25 * 86_400


def clear(local: Local) -> None:
    ledger = Ledger(local.home.ledger)
    store = RecordStore(local.home.records, clock=SystemClock())
    retention = Retention(
        local.settings,
        ledger,
        store,
        journal=local.home.journal,
        policy=RetentionPolicy(keep_days=30),
        records_keep_days=0,
    )
    retention.tick()
    retention.close()
    store.close()
    ledger.close()


@pytest.mark.slow
def test_what_the_versions_declare_decides_how_long_segments_stay(tmp_path: Path) -> None:
    local = Local(Settings(home=str(tmp_path / "patient")))
    fill(local.home, outcome_within_s=CENTURY_S)
    clear(local)
    patient = kept(local)
    local.close()

    assert {each.reason for each in patient.segments if each.services} == {"outcomes of loans may still come"}
    assert {each.services for each in patient.segments} == {("loans",)}

    local = Local(Settings(home=str(tmp_path / "quick")))
    fill(local.home, outcome_within_s=86_400.0)
    n_segments = len(kept(local).segments)
    clear(local)
    quick = kept(local)
    local.close()
    said = CliRunner().invoke(cli, ["journal", "segments", "--home", str(tmp_path / "quick")])
    counted = CliRunner().invoke(cli, ["journal", "count", "loans", "--home", str(tmp_path / "quick")])

    assert n_segments > 0
    assert (len(quick.segments), quick.cleared.count) == (0, n_segments)
    assert f"{n_segments} segments" in said.output
    assert "only in the ledger" in said.output
    assert "3000" in counted.output
