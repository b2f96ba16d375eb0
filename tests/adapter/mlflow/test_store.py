"""Models come out of a real store of MLflow's, and runs go into one."""

from __future__ import annotations

import importlib.util
import json
import sys
import textwrap

import numpy as np
import polars as pl
import pytest

from tidegate.adapter.mlflow.store import MlflowStore, describe_onnx, model_file
from tidegate.core.error import InvalidSetting, MissingExtra

COLUMNS = ("far", "late")


def table(n=300):
    rng = np.random.default_rng(0)
    far, late = rng.normal(size=(2, n))
    return pl.DataFrame({"far": far, "late": late, "y": (far > 0).astype(int)})


def folder_of(tmp_path, flavors, *files):
    (tmp_path / "MLmodel").write_text(json.dumps({"flavors": flavors}))
    for name in files:
        (tmp_path / name).write_text("x")
    return tmp_path


def test_without_mlflow_the_error_says_how_to_install_it(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "mlflow" else found(name))

    with pytest.raises(MissingExtra) as told:
        MlflowStore("sqlite:///nowhere.db")

    assert str(told.value).endswith("Install it with: pip install 'tidegate[mlflow]'")


needs_mlflow = pytest.mark.skipif(
    importlib.util.find_spec("mlflow") is None, reason="MLflow is not installed"
)


@needs_mlflow
@pytest.mark.parametrize(
    ("flavors", "file", "ending"),
    [
        ({"lightgbm": {"data": "model.lgb"}, "python_function": {}}, "model.lgb", ".txt"),
        ({"xgboost": {"data": "model.xgb"}}, "model.xgb", ".ubj"),
        ({"xgboost": {"data": "model.json"}}, "model.json", ".json"),
        ({"onnx": {"data": "model.onnx"}}, "model.onnx", ".onnx"),
        (
            {"sklearn": {"pickled_model": "model.skops", "serialization_format": "skops"}},
            "model.skops",
            ".skops",
        ),
    ],
)
def test_the_file_of_each_kind_is_found_under_an_ending_that_is_known(tmp_path, flavors, file, ending):
    path = model_file(folder_of(tmp_path, flavors, file))

    assert path.suffix == ending
    assert path.is_file()


@needs_mlflow
@pytest.mark.parametrize(
    ("flavors", "said"),
    [
        ({"sklearn": {"pickled_model": "model.pkl", "serialization_format": "cloudpickle"}}, "as a pickle"),
        ({"lightgbm": {"data": "model.pkl"}}, "as a pickle"),
        ({"python_function": {"loader_module": "mine"}}, "Tidegate takes onnx"),
        ({}, "of the kinds none"),
    ],
)
def test_a_pickle_and_unknown_kinds_are_refused(tmp_path, flavors, said):
    with pytest.raises(InvalidSetting, match=said):
        model_file(folder_of(tmp_path, flavors, "model.pkl"))


@needs_mlflow
def test_the_card_of_a_graph_is_what_mlflow_reads(tmp_path):
    (tmp_path / "model.onnx").write_text("x")
    (tmp_path / "MLmodel").write_text(describe_onnx(tmp_path / "model.onnx", run="sha256:00", at="now"))

    assert model_file(tmp_path).name == "model.onnx"


def test_a_folder_without_a_card_is_refused(tmp_path):
    pytest.importorskip("yaml")
    with pytest.raises(InvalidSetting, match="no MLmodel file"):
        model_file(tmp_path)


SERVICE = textwrap.dedent(
    """
    import numpy as np
    from sklearn.linear_model import LogisticRegression

    import tidegate as tg


    class Row(tg.Input):
        far: float
        late: float


    class Answer(tg.Output):
        p: float = tg.field(ge=0, le=1)


    service = tg.Service("paint", input=Row, output=Answer)


    @service.trainer
    def train(data, params):
        model = LogisticRegression(C=params.get("C", 1.0))
        model.fit(data.select("far", "late").to_numpy(), data["y"].to_numpy())
        model.feature_names_in_ = np.array(["far", "late"], dtype=object)
        return tg.Trained(model=model, sample=data.select("far", "late"), metrics={"share": 0.5})
    """
)


@needs_mlflow
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # MLflow's own
def test_models_and_runs_go_both_ways_through_a_real_store(tmp_path, monkeypatch):
    import lightgbm as lgb
    from click.testing import CliRunner
    from mlflow import MlflowClient

    from tidegate.cli.main import cli

    import mlflow.lightgbm  # isort: skip

    def run(*arguments):
        done = CliRunner().invoke(cli, [*map(str, arguments)])
        assert done.exit_code == 0, done.output + repr(done.exception)
        return done.stdout

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TIDEGATE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    rows = table()
    rows.write_parquet("rows.parquet")
    data = lgb.Dataset(rows.select(COLUMNS).to_numpy(), rows["y"].to_numpy(), feature_name=list(COLUMNS))
    booster = lgb.train({"objective": "binary", "verbose": -1, "num_threads": 1}, data, 5)
    mlflow.lightgbm.save_model(booster, tmp_path / "saved")
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    theirs = client.create_run(client.create_experiment("theirs", artifact_location=f"file://{tmp_path}/art"))
    client.log_param(theirs.info.run_id, "num_leaves", 31)
    client.log_metric(theirs.info.run_id, "auc", 0.9)
    client.log_artifacts(theirs.info.run_id, str(tmp_path / "saved"), "model")
    client.create_registered_model("trips")
    client.create_model_version("trips", f"runs:/{theirs.info.run_id}/model", run_id=theirs.info.run_id)
    client.set_registered_model_alias("trips", "champion", "1")
    (tmp_path / "paint").mkdir()
    (tmp_path / "paint" / "service.py").write_text(SERVICE)

    sources = ("models:/trips/1", "models:/trips@champion", theirs.info.run_id)
    imported = [
        json.loads(
            run("mlflow", "import", "trips", source, "--tracking", uri, "--sample", "rows.parquet", "--json")
        )
        for source in sources
    ]
    run("train", "paint", "--data", "rows.parquet", "--param", "C=0.5")
    first = json.loads(run("mlflow", "export", "paint@1", "--tracking", uri, "--json"))
    again = json.loads(run("mlflow", "export", "paint@1", "--tracking", uri, "--json"))
    back = json.loads(run("mlflow", "import", "copy", first["run_id"], "--tracking", uri, "--json"))
    ours = client.get_run(first["run_id"])

    assert len({each["version"]["artifacts"][0] for each in imported}) == 1
    assert imported[0]["version"]["lineage"]["parameters"] == {"num_leaves": "31"}
    assert imported[0]["version"]["lineage"]["metrics"] == {"auc": 0.9}
    assert "trips version 1" in imported[0]["version"]["changelog"]
    assert again == {**first, "existed": True}
    assert ours.data.params["C"] == "0.5"
    assert ours.data.metrics["share"] == 0.5
    assert ours.data.tags["tidegate.version"] == "paint@1"
    assert ours.info.status == "FINISHED"
    assert {each.path for each in client.list_artifacts(first["run_id"], "model")} == {
        "model/MLmodel",
        "model/model.onnx",
    }
    assert back["version"]["service"] == "copy"
