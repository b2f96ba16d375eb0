"""`tidegate train` and `tidegate runs` on a small service."""

from __future__ import annotations

import json
import sys
import textwrap

import numpy as np
import polars as pl
import pytest

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


    service = tg.Service("paint", input=Row, output=Answer)


    @service.trainer
    def train(data, params):
        model = LogisticRegression(C=params.get("C", 1.0))
        model.fit(data.select("x", "z").to_numpy(), data["late"].to_numpy())
        model.feature_names_in_ = np.array(["x", "z"], dtype=object)
        share = float(data["late"].to_numpy().mean())
        sample = data.select("x", "z")
        return tg.Trained(model=model, sample=sample, metrics={"share": share}, parameters=params)
    """
)


@pytest.fixture
def painted(tmp_path, monkeypatch, tidegate):
    """A folder `paint` with a service and its data, beside a home."""
    rng = np.random.default_rng(0)
    x, z = rng.normal(size=(2, 200))
    (tmp_path / "paint").mkdir()
    (tmp_path / "paint" / "service.py").write_text(SERVICE)
    pl.DataFrame({"x": x, "z": z, "late": (x + rng.normal(size=200) > 0).astype(int)}).write_csv("rows.csv")
    monkeypatch.setenv("TIDEGATE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    return tidegate


def trained(tidegate, *arguments):
    said = tidegate("train", "paint", "--data", "rows.csv", "--json", *arguments)
    assert said.code == 0, said.err
    return json.loads(said.out)


def test_a_training_is_listed_and_shown(painted):
    done = trained(painted, "--param", "C=0.5")

    (listed,) = json.loads(painted("runs", "list", "--json").out)
    shown = painted("runs", "show", "paint@1")

    assert listed["digest"] == done["run"]
    assert listed["version"] == 1
    assert listed["run"]["given"] == {"C": 0.5}
    assert listed["run"]["data"]["n_rows"] == 200
    assert done["version"]["lineage"]["data_digest"] == listed["run"]["data"]["digest"]
    assert done["version"]["lineage"]["code_digest"] in shown.out
    assert "given C" in shown.out


def test_a_run_is_found_by_its_first_digits(painted):
    done = trained(painted)

    assert painted("runs", "show", done["run"].removeprefix("sha256:")[:12]).code == 0
    refused = painted("runs", "show", "0000000")
    assert refused.code == 1
    assert "No run is called '0000000'" in refused.err


def test_the_same_key_trains_once(painted):
    trained(painted, "--key", "once")
    again = trained(painted, "--key", "once")

    assert "run" not in again
    assert len(json.loads(painted("runs", "list", "--json").out)) == 1


def reproduced(tidegate, *arguments):
    said = tidegate("reproduce", "paint@1", "--json", *arguments)
    aspects = {each["name"]: each for each in json.loads(said.out)["aspects"]}
    return said.code, {name for name, each in aspects.items() if each["same"] is False}, aspects


def test_a_run_trained_again_is_the_same_to_the_last_bit(painted):
    trained(painted, "--param", "C=0.5")

    code, differing, aspects = reproduced(painted)

    assert (code, differing) == (0, set())
    assert all(aspect["same"] for aspect in aspects.values())
    assert len(json.loads(painted("runs", "list", "--json").out)) == 1
    assert '"identical"' in painted("decisions", "--kind", "reproduction", "--json").out


def test_a_changed_source_file_is_named_with_what_it_changed(painted, tmp_path):
    trained(painted)
    (tmp_path / "paint" / "service.py").write_text(SERVICE.replace('get("C", 1.0)', 'get("C", 0.9)'))
    (tmp_path / "paint" / "more.py").write_text("")

    code, differing, aspects = reproduced(painted)
    said = painted("reproduce", "paint@1")

    assert code == said.code == 3
    assert differing == {"source", "model", "predictions"}
    assert aspects["source"]["differences"] == ["more.py is new", "service.py was changed"]
    assert aspects["predictions"]["differences"] == ["p differs in 200 of 200 rows"]
    assert "service.py was changed" in said.out


def test_other_data_are_told_by_their_digest(painted, tmp_path):
    trained(painted)
    rows = pl.read_csv("rows.csv")
    rows.head(150).write_csv("fewer.csv")
    (tmp_path / "rows.csv").unlink()

    kept = painted("reproduce", "paint@1")
    code, differing, _ = reproduced(painted, "--data", "fewer.csv")

    assert kept.code == 0, kept.out  # the run's snapshot holds the rows, whatever became of the file
    assert code == 3
    assert {"data", "metrics", "predictions"} <= differing


def test_a_run_trains_on_a_snapshot_and_names_it(painted):
    taken = json.loads(painted("data", "snapshot", "rows", "rows.csv", "--json").out)["snapshot"]

    said = painted("train", "paint", "--data", "rows@1")
    trained(painted)
    ours, of_file = (
        json.loads(painted("runs", "show", f"paint@{number}", "--json").out)["run"]["data"]
        for number in (1, 2)
    )

    assert said.code == 0, said.err
    assert (ours["label"], ours["snapshot"]) == ("rows@1", taken["digest"])
    assert "path" not in ours
    assert of_file["label"] == "paint.data@1"
    assert of_file["snapshot"] == taken["digest"]  # the same rows from the same file
    assert painted("reproduce", "paint@1").code == 0
    refused = painted("train", "paint", "--data", "cols")
    assert refused.code == 1
    assert "neither a data file nor a snapshot 'cols'" in refused.err


def test_of_a_service_with_sensitive_fields_no_rows_are_copied(painted, tmp_path):
    declared = tmp_path / "paint" / "service.py"
    declared.write_text(declared.read_text().replace("z: float", "z: float = tg.field(sensitive=True)"))

    trained(painted)
    data = json.loads(painted("runs", "show", "paint@1", "--json").out)["run"]["data"]

    assert "snapshot" not in data
    assert data["path"].endswith("rows.csv")
    assert json.loads(painted("data", "list", "--json").out) == []


def test_a_trainer_that_raises_is_told_with_its_own_traceback_and_nothing_of_ours(painted, tmp_path):
    source = tmp_path / "paint" / "service.py"
    source.write_text(SERVICE.replace("return tg.Trained(", "params['depth']; return tg.Trained("))

    refused = painted("train", "paint", "--data", "rows.csv")

    assert refused.code == 1
    assert "Error (trainer_failed): The trainer of service 'paint' raised KeyError: 'depth'" in refused.err
    assert "service.py" in refused.err
    assert refused.err.count('File "') == 1


def test_without_a_trial_that_is_said_and_nothing_passes_for_evidence(painted):
    said = painted("train", "paint", "--data", "rows.csv")
    (decision,) = json.loads(painted("decisions", "--kind", "run", "--json").out)

    assert "No baselines: the trainer returned no tg.Trial." in said.out
    assert decision["decision"]["evidence"][1]["verdict"] == "undecided"


def test_feasibility_needs_a_trial_and_says_what_it_shows(painted, tmp_path):
    source = tmp_path / "paint" / "service.py"

    refused = painted("feasibility", "paint", "--data", "rows.csv")
    source.write_text(
        SERVICE.replace(
            "parameters=params)",
            'trial=tg.Trial(train=data[:120], test=data[120:], target="late",'
            ' predicted=1 / (1 + np.exp(-data[120:].select("x", "z").to_numpy() @ model.coef_[0]))))',
        )
    )
    said = painted("feasibility", "paint", "--data", "rows.csv", "--label-cost", "0.5")

    assert refused.code == 1
    assert "returned no trial" in refused.err
    assert said.code == 0, said.err
    assert "There is a pattern: p = 0.025 by 39 shuffles." in said.out
    assert "Twice as many rows cost 120 labels: 60.00." in said.out


def test_sensitive_rows_are_not_kept_and_what_is_not_compared_is_not_called_the_same(painted, tmp_path):
    source = tmp_path / "paint" / "service.py"
    source.write_text(SERVICE.replace("z: float", "z: float = tg.field(sensitive=True)"))
    done = trained(painted)

    code, _, aspects = reproduced(painted)

    shown = json.loads(painted("runs", "show", done["run"], "--json").out)
    assert "sample" not in shown["run"]["artifacts"]
    assert code == 0
    assert aspects["predictions"]["same"] is None
    assert aspects["model"]["same"] is True
