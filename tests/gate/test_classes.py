"""A service of several classes goes the whole way: trained, evaluated, and gated beside its champion."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from sklearn.linear_model import LogisticRegression

import tidegate as tg
from tests.system.model import deploy_in
from tidegate.bootstrap.card import model_card
from tidegate.bootstrap.evaluate import evaluate_version
from tidegate.bootstrap.gate import gate_version
from tidegate.bootstrap.local import Local
from tidegate.bootstrap.setting import Settings
from tidegate.bootstrap.train import publish_service
from tidegate.registry.model_card import render_html

CLASSES = ("ash", "birch", "cedar")
NO_SERVERS = dict.fromkeys(("check-inputs", "latency", "memory"), "no servers in this test")


class Leaf(tg.Input):
    width: float
    length: float


class Scores(tg.Output):
    p: list[float] = tg.vector(3)


class Name(tg.Output):
    tree: str = tg.category(*CLASSES)


def leaves(n, seed):
    rng = np.random.default_rng(seed)
    width, length = rng.normal(size=(2, n))
    place = np.select([width + length > 0.7, width - length > 0.5], [0, 1], 2)
    place = np.where(rng.random(n) < 0.3, rng.integers(0, 3, n), place)
    return pl.DataFrame({"width": width, "length": length, "tree": np.array(CLASSES)[place]})


@pytest.mark.parametrize("output", [Scores, Name])
def test_classes_are_trained_evaluated_gated_and_told(tmp_path, output):
    declared = tg.Service(
        "trees",
        input=Leaf,
        output=output,
        evaluation=tg.Evaluation(classes=CLASSES),
        gates=tg.Gates(left_out=NO_SERVERS, quality_margin=0.2),
    )

    @declared.trainer
    def train(data, params):
        fitted_on, held_out = leaves(400, params["seed"]), leaves(600, 9)
        inputs, asked = (rows.select("width", "length").to_numpy() for rows in (fitted_on, held_out))
        model = LogisticRegression().fit(inputs, fitted_on["tree"].to_numpy())
        answered = model.predict_proba(asked) if output is Scores else model.predict(asked)
        trial = tg.Trial(train=fitted_on, test=held_out, target="tree", predicted=answered)
        return tg.Trained(model=model, sample=fitted_on.select("width", "length"), trial=trial)

    with Local(Settings(home=str(tmp_path / "home"))) as local:
        publish_service(local, declared, tmp_path, params={"seed": 0})
        deploy_in(local, "trees", version=1)
        second = publish_service(local, declared, tmp_path, params={"seed": 1}).version

        report = evaluate_version(local, second.label).report
        state = gate_version(local, "trees", 2)
        page = render_html(model_card(local, second))

    verdicts = {finding.gate: finding.verdict.value for finding in state.findings}
    compared = ("rehearsal", "champion", "slices", "leaks", "parity")
    assert {name: verdicts[name] for name in compared} == dict.fromkeys(compared, "safe")
    assert report.task == "multiclass"
    assert (report.calibration is not None) is (output is Scores)
    assert "beside version 1" in page
