"""From a trained version to a verdict, an override and a model card, by commands only."""

from __future__ import annotations

import json
import sys
import textwrap

import numpy as np
import polars as pl
import pytest

from tests.system.model import deploy_in

SERVICE = textwrap.dedent(
    """
    import polars as pl
    from sklearn.tree import DecisionTreeClassifier

    import tidegate as tg


    class Row(tg.Input):
        x: float = tg.field(unit="mile")
        z: float


    class Answer(tg.Output):
        p: float = tg.field(ge=0, le=1)


    service = tg.Service(
        "paint", input=Row, output=Answer,
        card=tg.Card(intended_use="Tests.", limitations="Made-up rows.", %(card)s),
        gates=tg.Gates(%(gates)s),
    )


    @service.trainer
    def train(data, params):
        first, last = params.get("first", 0), params.get("last", 40)
        rows = data.filter(pl.col("day").is_between(first, last - 1))
        test = data.filter(pl.col("day").is_between(last, last + 20))
        labels = rows["late"].shuffle(seed=0) if params.get("shuffled") else rows["late"]
        scale = params.get("scale", 1.0)

        def columns(part):
            return part.select(pl.col("x") * scale, "z").to_numpy()

        model = DecisionTreeClassifier(max_leaf_nodes=params.get("leaves", 6), random_state=0)
        model.fit(columns(rows), labels.to_numpy())
        predicted = model.predict_proba(columns(test))[:, 1]
        sample = rows.select("x", "z")
        trial = tg.Trial(train=rows, test=test, target="late", predicted=predicted, group="day")
        return tg.Trained(model=model, sample=sample, trial=trial, parameters=params)
    """
)
NO_LOAD = (
    'left_out={"check-inputs": "t", "latency": "t", "memory": "t"}, '
    # of 1,200 rows no rate is known to a hundredth
    "quality_margin=0.05, calibration_margin=0.1"
)


@pytest.fixture
def paint(tmp_path, monkeypatch, tidegate):
    """A folder `paint` with a service and its data, beside a home; gates that need servers are left out."""
    rng = np.random.default_rng(0)
    x, z = rng.normal(size=(2, 6_000))
    x = np.abs(x) * 3 + 1
    late = (rng.random(6_000) < np.where(np.abs(x - 3.5) < 1.5, 0.8, 0.2)).astype(int)  # a band, not a line
    (tmp_path / "paint").mkdir()
    write(tmp_path, card='owner="ana"')
    pl.DataFrame({"x": x, "z": z, "late": late, "day": np.arange(6_000) // 60}).write_csv("rows.csv")
    monkeypatch.setenv("TIDEGATE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    return tidegate


def write(folder, *, card="", gates=NO_LOAD):
    (folder / "paint" / "service.py").write_text(SERVICE % {"card": card, "gates": gates})


def trained(tidegate, **params):
    given = [part for name, value in params.items() for part in ("--param", f"{name}={value}")]
    said = tidegate("train", "paint", "--data", "rows.csv", "--json", *given)
    assert said.code == 0, said.err
    return json.loads(said.out)["version"]["number"]


def gated(tidegate, number, *arguments):
    said = tidegate("gate", f"paint@{number}", "--json", *arguments)
    return said.code, json.loads(said.out)


def verdicts(state):
    return {finding["gate"]: finding["verdict"] for finding in state["findings"]}


def deploy(tmp_path):
    from tidegate.bootstrap.local import Local
    from tidegate.bootstrap.setting import Settings

    with Local(Settings(home=str(tmp_path / "home"))) as local:
        deploy_in(local, "paint", version=1)


def test_a_first_version_passes_by_its_baselines(paint):
    code, state = gated(paint, trained(paint))

    assert code == 0
    assert state["outcome"] == "passed"
    assert state["champion"] is None
    said = paint("gate", "paint", "--show").out
    assert "paint@1 passed its gates." in said
    assert "left out by the service" in said
    shown = paint("decisions", "show", state["decision"]).out
    replayed = paint("decisions", "replay", state["decision"]).out
    assert said.count("n/a") == shown.count("n/a") == replayed.count("n/a") > 0


def test_candidates_beside_a_champion(paint, tmp_path):
    trained(paint)
    deploy(tmp_path)

    code, healthy = gated(paint, trained(paint, first=20, last=60))
    assert (code, healthy["champion"]) == (0, 1), verdicts(healthy)
    code, shuffled = gated(paint, trained(paint, first=20, last=60, shuffled=1))
    assert code == 3
    assert verdicts(shuffled)["champion"] == "regressed"
    gated(paint, trained(paint, first=0, last=20))  # its test rows taught the champion
    *_, last = json.loads(paint("decisions", "paint", "--kind", "gate", "--json").out)
    assert "on the rows that version 1 holds out" in last["decision"]["evidence"][0]["reason"]

    listed = json.loads(paint("versions", "paint", "--json").out)
    assert [each["state"]["stage"] for each in listed][:3] == ["champion", "gated", "rejected"]
    assert "rejected" in paint("versions").out


def test_a_model_that_expects_another_unit_than_it_is_asked_in_is_stopped(paint):
    code, state = gated(paint, trained(paint, scale=1.609))

    assert code == 3
    assert verdicts(state)["rehearsal"] == "regressed"


def test_a_missing_card_stops_until_it_is_written(paint, tmp_path):
    write(tmp_path)
    number = trained(paint)

    code, state = gated(paint, number)
    assert (code, verdicts(state)["card"]) == (3, "undecided")
    written = paint("card", f"paint@{number}", "--set", "owner=ana <ana@example.org>", "-o", "card.md")
    assert written.code == 0, written.err
    assert gated(paint, number)[0] == 0

    card = (tmp_path / "card.md").read_text()
    assert r"ana \<ana@example.org\>" in card
    assert "Made-up rows." in card
    assert "digest of the file" in card
    assert "digest of the rows, as the trainer says" in card
    page = paint("card", f"paint@{number}", "--html").out
    assert "ana &lt;ana@example.org&gt;" in page
    assert "passed its gates" in page
    assert paint("card", f"paint@{number}", "--set", "colour=red").code == 1


def test_an_override_needs_a_reason_and_shows_in_versions_and_card(paint, tmp_path):
    write(tmp_path)
    number = trained(paint)

    assert "without a reason" in paint("gate", f"paint@{number}", "--override", "card").err
    code, state = gated(paint, number, "--override", "card", "--reason", "a toy")

    assert (code, state["outcome"]) == (0, "passed")
    assert "gated, card overridden" in paint("versions").out
    assert "a toy" in paint("card", f"paint@{number}").out
    assert "Override of card (undecided)" in paint("gate", f"paint@{number}", "--show").out


@pytest.mark.slow
def test_servers_of_both_versions_are_started_and_loaded(paint, tmp_path):
    write(tmp_path, card='owner="ana"', gates="latency_ratio=4.0")
    trained(paint)
    deploy(tmp_path)

    _, state = gated(paint, trained(paint, first=20, last=60))

    found = {each["gate"]: each for each in state["findings"]}
    assert found["check-inputs"]["verdict"] == "safe"
    assert "known answers came back" in found["check-inputs"]["reason"]
    assert "beside it" in found["latency"]["reason"]
    assert found["memory"]["verdict"] == "safe"
