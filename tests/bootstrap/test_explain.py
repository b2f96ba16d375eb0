"""What each column added: boosters say so themselves, other models are asked."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest

import tidegate as tg
from tests.journal.fake import new_ids, new_turn, new_writer
from tidegate.bootstrap.explain import explain_version
from tidegate.bootstrap.local import Local
from tidegate.bootstrap.setting import Settings
from tidegate.contract.batch import Batch
from tidegate.contract.layout import journal_layout
from tidegate.core.error import InvalidSetting, NotFound
from tidegate.core.identifier import format_prediction_id
from tidegate.journal.record import Stream
from tidegate.service.manifest import Manifest


def table(n=400):
    rng = np.random.default_rng(0)
    return {"far": rng.normal(size=n), "late": rng.normal(size=n), "noise": rng.normal(size=n)}


def outcomes(columns):
    return (columns["far"] + 0.5 * columns["late"] * columns["far"] > 0).astype(int)


def matrix(columns):
    return np.column_stack(list(columns.values()))


@pytest.fixture
def local(tmp_path):
    with Local(Settings(home=str(tmp_path / "home"))) as opened:
        yield opened


def register(local, model, columns):
    return tg.register("trips", model, sample=pl.DataFrame(columns), home=local.home.root)


def manifest_of(local, version):
    return Manifest.from_json(local.artifacts.read_bytes(version.manifest))


def lightgbm_model(columns, y):
    lgb = pytest.importorskip("lightgbm")
    data = lgb.Dataset(matrix(columns), y, feature_name=list(columns), free_raw_data=False)
    return lgb.train({"objective": "binary", "num_leaves": 7, "verbose": -1, "num_threads": 1}, data, 20)


def xgboost_model(columns, y):
    xgb = pytest.importorskip("xgboost")
    data = xgb.DMatrix(matrix(columns), y, feature_names=list(columns))
    return xgb.train({"objective": "binary:logistic", "max_depth": 3, "nthread": 1}, data, 20)


@pytest.mark.parametrize("fit", [lightgbm_model, xgboost_model])
def test_a_booster_s_own_contributions_add_up_though_it_is_served_as_a_graph(local, fit):
    columns = table()
    model = fit(columns, outcomes(columns))
    manifest = manifest_of(local, register(local, model, columns))

    found = explain_version(local, "trips")

    assert (manifest.predictor.kind, manifest.explainer.kind) == ("onnx", fit.__name__.removesuffix("_model"))
    assert {each.method for each in found} == {"tree-shap"}
    for each in found:
        assert each.score == pytest.approx(np.log(each.prediction / (1 - each.prediction)), abs=1e-3)
        assert abs(each.remainder) < 1e-9
    sizes = dict.fromkeys(columns, 0.0)
    for part in (part for each in found for part in each.contributions):
        sizes[part.column] += abs(part.amount)
    assert max(sizes, key=sizes.get) == "far"
    assert min(sizes, key=sizes.get) == "noise"


def test_of_a_logistic_model_the_contributions_are_its_terms(local):
    sklearn = pytest.importorskip("sklearn.linear_model")
    columns = table()
    model = sklearn.LogisticRegression(C=0.01).fit(matrix(columns), outcomes(columns))
    model.feature_names_in_ = np.array(list(columns), dtype=object)
    manifest = manifest_of(local, register(local, model, columns))
    checks = manifest.check_inputs.rows
    means = {name: np.mean([row[name] for row in checks]) for name in columns}

    found = explain_version(local, "trips@1", rows=[0, 3])

    assert manifest.explainer is None
    for row, each in zip((0, 3), found, strict=True):
        assert each.method == "measured"
        amounts = {part.column: part.amount for part in each.contributions}
        for name, weight in zip(columns, model.coef_[0], strict=True):
            assert amounts[name] == pytest.approx(weight * (checks[row][name] - means[name]), abs=1e-4)
        assert abs(each.remainder) < 1e-4


def test_of_several_classes_the_likeliest_is_explained(local):
    lgb = pytest.importorskip("lightgbm")
    columns = table()
    y = np.digitize(columns["far"], [-0.5, 0.5])
    data = lgb.Dataset(matrix(columns), y, feature_name=list(columns), free_raw_data=False)
    model = lgb.train(
        {"objective": "multiclass", "num_class": 3, "num_leaves": 5, "verbose": -1, "num_threads": 1},
        data,
        10,
    )
    manifest_of(local, register(local, model, columns))

    found = explain_version(local, "trips", rows=[0, 1, 2])

    assert all(each.contributions[0].column == "far" for each in found)
    assert all(each.prediction > 0.34 for each in found)
    assert {each.label for each in found} <= {"0", "1", "2"}


def test_a_journalled_prediction_is_explained_by_its_id(local, tmp_path):
    columns = table(50)
    version = register(local, lightgbm_model(columns, outcomes(columns)), columns)
    manifest = manifest_of(local, version)
    contract = manifest.contract
    ids = new_ids(2)
    writer = new_writer(local.home.journal)
    batch = Batch({name: column[:2] for name, column in columns.items()}, 2)
    answers = {field.name: np.zeros(2, field.type.dtype) for field in contract.output.fields}
    stream = Stream("trips", 1, contract.fingerprint, journal_layout(contract))
    writer.append([writer.stream(stream).encode(new_turn(ids, inputs=batch, outputs=Batch(answers, 2)))])
    writer.close()

    (found,) = explain_version(local, "trips@1", prediction_id=format_prediction_id(ids[1], 0))

    values = {part.column: part.value for part in found.contributions}
    assert values["far"] == f"{columns['far'][1]:.6g}"
    with pytest.raises(NotFound, match="holds no prediction"):
        explain_version(local, "trips@1", prediction_id=format_prediction_id(new_ids(1, seed=9)[0], 0))


def test_rows_that_are_not_there_are_refused(local):
    columns = table(50)
    register(local, xgboost_model(columns, outcomes(columns)), columns)

    with pytest.raises(NotFound, match="There is no row 16"):
        explain_version(local, "trips", rows=[16])
    with pytest.raises(InvalidSetting, match="At most 1000"):
        explain_version(local, "trips", rows=[0] * 1001)


def test_the_shell_shows_the_largest_parts(tmp_path, local, monkeypatch, capsys):
    from tidegate.cli.main import cli

    columns = table(60)
    register(local, xgboost_model(columns, outcomes(columns)), columns)
    local.close()

    home = str(local.home.root)
    cli.main(["explain", "trips", "--row", "2", "--top", "2", "--home", home], standalone_mode=False)
    shown = capsys.readouterr().out
    cli.main(["explain", "trips", "--row", "2", "--home", home, "--json"], standalone_mode=False)
    (found,) = json.loads(capsys.readouterr().out)

    assert "Row 2: predicted" in shown
    assert "1 others" in shown
    assert found["contributions"][0]["column"] in shown
