"""A version that was only registered is put through its gates on rows that a person names."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from sklearn.linear_model import LogisticRegression

import tidegate as tg
from tests.system.model import deploy_in
from tidegate.bootstrap.gate import gate_version
from tidegate.bootstrap.local import Local
from tidegate.bootstrap.publish import publish
from tidegate.bootstrap.setting import Settings
from tidegate.contract.declare import contract_of
from tidegate.contract.violation import ContractViolation
from tidegate.core.error import InvalidSetting, NotFound
from tidegate.operation.version import list_decisions

NO_SERVERS = dict.fromkeys(("check-inputs", "latency", "memory"), "no servers in this test")


class Tree(tg.Input):
    height: float
    girth: float


class Fit(tg.Output):
    p: float = tg.field(ge=0, le=1)


def rows(n, seed):
    rng = np.random.default_rng(seed)
    height, girth = rng.normal(size=(2, n))
    felled = rng.random(n) < 1 / (1 + np.exp(-1.5 * height * girth - height))
    return pl.DataFrame({"height": height, "girth": girth, "felled": felled.astype(int)})


def fitted(table, *, turned=False):
    inputs = table.select("height", "girth").to_numpy()
    return LogisticRegression().fit(-inputs if turned else inputs, table["felled"].to_numpy())


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """Register a champion and two candidates, none of them trained here; the second got its signs wrong."""
    folder = tmp_path_factory.mktemp("given")
    known = rows(500, 0)
    with Local(Settings(home=str(folder / "home"))) as local:
        for model, gates in (
            (fitted(known), tg.Gates(left_out=NO_SERVERS, quality_margin=0.05)),
            (fitted(rows(500, 1)), None),
            (fitted(rows(500, 2), turned=True), None),
        ):
            publish(
                local,
                "trees",
                model,
                sample=known.select("height", "girth"),
                contract=contract_of(Tree, Fit),
                gates=gates,
            )
        deploy_in(local, "trees", version=1)
        rows(1_500, 3).write_parquet(folder / "october.parquet")
        yield local, str(folder / "october.parquet")


def verdicts(state):
    return {finding.gate: finding.verdict.value for finding in state.findings if finding.applies}


def test_a_registered_version_is_compared_on_given_rows_and_the_evidence_is_kept(lab):
    local, october = lab

    state = gate_version(local, "trees", 2, data=october, target="felled")

    found = verdicts(state)
    assert {name: found[name] for name in ("champion", "slices", "calibration", "leaks")} == dict.fromkeys(
        ("champion", "slices", "calibration", "leaks"), "safe"
    )
    assert "latency" not in found, "where it declares no gates itself, the champion's count"
    kept = list_decisions(local.unit, "trees", kind="gate", version=2)[-1].decision.evidence
    compared = next(each for each in kept if each.rule == "compared")
    assert compared.observed["given"] == "october.parquet"
    assert compared.observed["held_out"].startswith("sha256:")
    assert "what version 2 was fitted on is not recorded" in compared.reason


def test_rows_that_the_contract_forbids_are_left_out_and_told(lab, tmp_path):
    local, october = lab
    first = pl.int_range(pl.len()) < 300
    whole = pl.read_parquet(october)
    whole.with_columns(girth=pl.when(first).then(None).otherwise("girth")).write_parquet(
        tmp_path / "holes.parquet"
    )
    whole.clear().write_parquet(tmp_path / "empty.parquet")

    state = gate_version(local, "trees", 2, data=str(tmp_path / "holes.parquet"), target="felled")

    kept = list_decisions(local.unit, "trees", kind="gate", version=2)[-1].decision.evidence
    champion = next(each for each in kept if each.rule == "champion")
    assert "300 of 1,500 rows are left out: field 'girth' must be a number" in state.note
    assert champion.observed["n_rows"] == 1_200
    with pytest.raises(ContractViolation, match="has no rows"):
        gate_version(local, "trees", 2, data=str(tmp_path / "empty.parquet"), target="felled")


def test_baselines_are_fitted_on_the_given_rows_in_parts(lab):
    local, october = lab

    gate_version(local, "trees", 2, data=october, target="felled")

    kept = list_decisions(local.unit, "trees", kind="gate", version=2)[-1].decision.evidence
    comparison = next(each for each in kept if each.rule == "baselines").observed["comparison"]
    assert comparison["crossed"] is True
    assert {each["name"] for each in comparison["baselines"]} == {"constant", "linear"}


def test_one_that_answers_the_wrong_way_round_is_stopped(lab):
    local, october = lab

    state = gate_version(local, "trees", 3, data=october, target="felled")

    assert verdicts(state)["champion"] == "regressed"
    assert verdicts(state)["baselines"] == "regressed"


def test_rows_whose_outcomes_are_coded_otherwise_switch_no_gate_off(lab, tmp_path):
    local, october = lab
    coded = str(tmp_path / "coded.parquet")
    pl.read_parquet(october).with_columns(felled=1 + pl.col("felled")).write_parquet(coded)

    state = gate_version(local, "trees", 3, data=coded, target="felled")

    found = {finding.gate: finding for finding in state.findings}
    for gate in ("baselines", "champion", "slices", "calibration"):
        assert found[gate].applies, gate
        assert found[gate].verdict == "undecided", gate
    assert "neither 0/1 nor a share" in found["champion"].reason


def test_without_rows_it_is_undecided_and_says_how_to_name_some(lab):
    local, _ = lab

    state = gate_version(local, "trees", 2)

    champion = next(finding for finding in state.findings if finding.gate == "champion")
    assert champion.verdict == "undecided"
    assert "tidegate gate trees@2 --data FILE" in champion.reason


def test_rows_without_what_came_true_are_refused_in_words(lab):
    local, october = lab

    with pytest.raises(InvalidSetting, match="Nothing says which column"):
        gate_version(local, "trees", 2, data=october)
    with pytest.raises(InvalidSetting, match="--data"):
        gate_version(local, "trees", 2, target="felled")
    with pytest.raises(NotFound):
        gate_version(local, "trees", 2, data="nowhere/rows.parquet", target="felled")
    state = gate_version(local, "trees", 2, data=october, target="height_in_may")
    assert "no column 'height_in_may'" in next(f.reason for f in state.findings if f.gate == "champion")
