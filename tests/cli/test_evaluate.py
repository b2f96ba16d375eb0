"""`tidegate evaluate`: by the rows of the trial, by others, and by what came true of what was answered."""

from __future__ import annotations

import json
import sys
import textwrap
from datetime import datetime, timedelta

import msgspec
import numpy as np
import polars as pl
import pytest

from tests.journal.fake import FakeClock, new_ids, new_turn, new_writer
from tidegate.contract.batch import Batch
from tidegate.contract.layout import journal_layout
from tidegate.core.clock import SystemClock
from tidegate.core.digest import Digest
from tidegate.journal.codec import encode_outcomes
from tidegate.journal.ledger import Ledger
from tidegate.journal.record import Outcome, RecordKind, Stream
from tidegate.journal.tailer import Tailer
from tidegate.service.manifest import Manifest

DAY_US = 86_400_000_000
SERVICE = textwrap.dedent(
    """
    import numpy as np
    from sklearn.linear_model import LogisticRegression

    import tidegate as tg


    class Row(tg.Input):
        x: float
        z: float


    class Answer(tg.Output):
        p: float = tg.field(ge=0, le=1)


    service = tg.Service(
        "paint",
        input=Row,
        output=Answer,
        evaluation=tg.Evaluation(
            target="late",
            event_time="at",
            costs=tg.CostMatrix(
                true_positive=4, false_positive=-1, false_negative=-3, true_negative=0, currency="EUR"
            ),
            protected=["sex"],
            rules=[tg.Monotone("x", "rising"), tg.Invariant("z")],
        ),
    )


    @service.trainer
    def train(data, params):
        before, after = data[:800], data[800:]
        model = LogisticRegression().fit(before.select("x", "z").to_numpy(), before["late"].to_numpy())
        trial = tg.Trial(
            train=before, test=after, target="late",
            predicted=model.predict_proba(after.select("x", "z").to_numpy())[:, 1],
        )
        model.feature_names_in_ = np.array(["x", "z"], dtype=object)
        return tg.Trained(model=model, sample=data.select("x", "z"), trial=trial)
    """
)


def rows(seed=0, n=1400):
    rng = np.random.default_rng(seed)
    x, z = rng.normal(size=(2, n))
    start = datetime(2024, 1, 1)
    return pl.DataFrame(
        {
            "x": x,
            "z": z,
            "sex": rng.choice(["f", "m"], n),
            "at": [start + timedelta(hours=hour) for hour in range(n)],
            "late": (x + rng.normal(size=n) > 0).astype(int),
        }
    )


@pytest.fixture
def painted(tmp_path, monkeypatch, tidegate):
    (tmp_path / "paint").mkdir()
    (tmp_path / "paint" / "service.py").write_text(SERVICE)
    rows().write_parquet("rows.parquet")
    monkeypatch.setenv("TIDEGATE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    said = tidegate("train", "paint", "--data", "rows.parquet")
    assert said.code == 0, said.err
    return tidegate


def test_a_version_is_measured_by_its_trial_as_its_service_declares(painted, tmp_path):
    said = painted("evaluate", "paint", "--html", "report.html", "--json")
    found = json.loads(said.out)
    report = found["report"]
    text = painted("evaluate", "paint@1").out
    decision = json.loads(painted("decisions", "--kind", "evaluation", "--json").out)[0]["decision"]

    assert said.code == 0, said.err
    assert (report["task"], report["n_rows"], found["target"]) == ("binary", 600, "late")
    assert report["value"]["currency"] == "EUR"
    assert [audit["attribute"] for audit in report["fairness"]] == ["sex"]
    held = {each["rule"]["column"]: each["violations"]["value"] for each in report["rules"]}
    assert held["x"] == 0
    assert held["z"] > 0  # a fitted weight is never exactly none
    assert report["importance"][0]["column"] == "x"
    assert report["span"]["until_us"] - report["span"]["from_us"] == 599 * 3600 * 1_000_000
    assert len(report["windows"]) == 6
    assert decision["evidence"][0]["observed"]["report"] == found["digest"]
    assert "Value in EUR" in (tmp_path / "report.html").read_text()
    assert "paint@1 by test rows of its trial; what came true: late" in text
    assert "days old when measured" in text
    assert "By time, oldest first" in text


def test_other_rows_are_answered_by_the_model_and_rows_it_knows_are_told(painted):
    rows(1, n=400).write_parquet("other.parquet")

    other = json.loads(painted("evaluate", "paint", "--data", "other.parquet", "--json").out)
    known = json.loads(painted("evaluate", "paint", "--data", "rows.parquet", "--json").out)

    assert other["report"]["n_rows"] == 400
    assert "notes" not in other["report"]
    assert any("57.1% of these rows" in note for note in known["report"]["notes"])
    assert painted("data", "show", other["rows"]).code == 0


def test_rows_that_the_contract_forbids_are_left_out_and_told(painted):
    given = rows(1, n=400)
    given.with_columns(x=pl.when(pl.int_range(pl.len()) < 40).then(None).otherwise("x")).write_parquet(
        "holes.parquet"
    )
    given.with_columns(x=pl.lit(None, dtype=pl.Float64)).write_parquet("hollow.parquet")
    given.clear().write_parquet("empty.parquet")

    found = json.loads(painted("evaluate", "paint", "--data", "holes.parquet", "--json").out)
    text = painted("evaluate", "paint", "--data", "holes.parquet").out
    refused = [painted("evaluate", "paint", "--data", name) for name in ("hollow.parquet", "empty.parquet")]

    assert found["report"]["n_rows"] == 360
    assert found["report"]["notes"] == ["40 of 400 rows are left out: field 'x' must be a number."]
    assert found["report"]["notes"][0] in text
    assert [said.code for said in refused] == [1, 1]
    assert "No row of hollow.parquet is what the contract allows" in refused[0].err
    assert "empty.parquet has no rows" in refused[1].err


def test_rows_that_cannot_be_had_are_told_in_words(painted):
    for arguments, said in (
        (("--data", "nowhere.parquet"), "neither a data file nor a snapshot"),
        (("--data", "rows.parquet", "--target", "early"), "no column 'early'"),
        (("--recent", "7d"), "There is no ledger"),
        (("--data", "x", "--recent", "7d"), "not both"),
    ):
        found = painted("evaluate", "paint", *arguments)

        assert found.code in (1, 2)
        assert said in found.err


def test_recent_outcomes_judge_a_version_however_old_its_trial_is(painted, tmp_path):
    home = tmp_path / "home"
    now_us = SystemClock().wall_us()
    answer(painted, home, at_us=now_us - 40 * DAY_US, n=90, seed=1)
    answer(painted, home, at_us=now_us - 3 * DAY_US, n=200, seed=2)

    found = json.loads(painted("evaluate", "paint", "--recent", "7d", "--json").out)
    all_of_it = json.loads(painted("evaluate", "paint", "--recent", "90d", "--every", "30d", "--json").out)
    report = found["report"]

    assert (report["n_rows"], found["source"]) == (200, "outcomes 'late' of the last 7 days")
    age_days = (report["span"]["evaluated_at_us"] - report["span"]["until_us"]) / DAY_US
    assert 2.9 < age_days < 3.1
    assert {each["column"] for each in report["importance"]} == {"x", "z"}  # the inputs were found again
    assert report["figures"][0]["value"] > 0.95  # the outcomes here are what was answered
    assert all_of_it["report"]["n_rows"] == 290
    assert [each["n_rows"] for each in all_of_it["report"]["windows"]] == [90, 200]


def test_outcomes_without_a_name_judge_a_version_too_and_others_are_named(painted, tmp_path):
    home = tmp_path / "home"
    now_us = SystemClock().wall_us()
    answer(painted, home, at_us=now_us - 9 * DAY_US, n=60, seed=1, name="other")

    none = painted("evaluate", "paint", "--recent", "30d")
    answer(painted, home, at_us=now_us - 3 * DAY_US, n=80, seed=2, name="outcome")
    found = json.loads(painted("evaluate", "paint", "--recent", "30d", "--json").out)
    late = painted("evaluate", "paint", "--recent", "1d")

    assert none.code == 1
    assert "called 'other': name one with --target" in none.err
    assert found["report"]["n_rows"] == 80
    assert "of earlier answers" in late.err


@pytest.mark.parametrize("same_contract", [True, False])
def test_answers_given_in_the_shadow_are_judged_with_the_inputs_of_their_requests(
    painted, tmp_path, same_contract
):
    now_us = SystemClock().wall_us()
    answer(painted, tmp_path / "home", at_us=now_us - 3_600_000_000, n=80, seed=1, shadowed=same_contract)

    found = painted("evaluate", "paint", "--recent", "1d", "--json")
    report = json.loads(found.out)["report"]

    assert found.code == 0
    assert report["n_rows"] == 80
    assert bool(report.get("importance")) == same_contract
    assert any("another contract" in note for note in report["notes"]) != same_contract


def answer(tidegate, home, *, at_us, n, seed, name="late", shadowed=None):
    """Write predictions of paint@1 with their outcomes into the journal, and count them.

    With `shadowed` it answered beside paint@2, whose contract is the same or another one.
    """
    (version,) = json.loads(tidegate("versions", "paint", "--json").out)
    digest = version["manifest"].removeprefix("sha256:")
    path = next(
        path for path in (home / "artifacts").rglob("*") if digest[2:] in path.name or digest in path.name
    )
    manifest = Manifest.from_json(path.read_bytes())
    rng = np.random.default_rng(seed)
    x, z = rng.normal(size=(2, n))
    chance = 1 / (1 + np.exp(-2 * x))
    clock = FakeClock(at_us)
    writer = new_writer(home / "journal", clock=clock, worker=seed)
    stream = Stream(
        "paint", 1, manifest.contract.fingerprint, journal_layout(manifest.contract), "stable", 1.0
    )
    ids = new_ids(n, at_us=at_us, seed=seed)
    turn = new_turn(ids, at_us=at_us, inputs=Batch({"x": x, "z": z}, n), outputs=Batch({"p": chance}, n))
    if shadowed is not None:
        fingerprint = stream.contract if shadowed else Digest("sha256:" + "0" * 64)
        first = msgspec.structs.replace(stream, version=2, contract=fingerprint)
        writer.append([writer.stream(first).encode(turn)])
        stream = msgspec.structs.replace(stream, arm="shadow", kind=RecordKind.SHADOW)
    writer.append([writer.stream(stream).encode(turn)])
    outcomes = [
        Outcome(
            service="paint",
            name=name,
            value=msgspec.Raw(b"1" if p > 0.5 else b"0"),
            request=each,
            received_us=at_us + 1_000_000,
        )
        for each, p in zip(ids, chance, strict=True)
    ]
    writer.append([encode_outcomes(outcomes)])
    writer.close()
    ledger = Ledger(home / "ledger.db")
    tailer = Tailer(home / "journal", ledger, clock=FakeClock(at_us + 60_000_000))
    tailer.poll(settle_now=True)
    tailer.close()
    ledger.close()
