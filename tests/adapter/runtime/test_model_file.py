"""Model files: each kind opened, and what is refused."""

import gzip
import pickle
import subprocess
import sys

import joblib
import lightgbm as lgb
import numpy as np
import pandas as pd
import pytest
import skops.io
import xgboost as xgb
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from tests.adapter.runtime.graph import FLOAT, save, unary
from tidegate.adapter.runtime.model_file import PickleRefused
from tidegate.adapter.runtime.prepare import prepare
from tidegate.adapter.runtime.skops import UntrustedTypes
from tidegate.contract.batch import Batch
from tidegate.contract.schema import Contract, DataType, Field, Schema
from tidegate.core.error import InvalidSetting, NotFound
from tidegate.predictor.protocol import LoadError


@pytest.fixture(scope="module")
def models(table, tmp_path_factory):
    """One file of each kind, and the probabilities that it should give."""
    folder = tmp_path_factory.mktemp("models")
    x, y = table["x"], table["binary"]
    linear = LogisticRegression().fit(x, y)
    one = lgb.train({"objective": "binary", "verbose": -1, "num_threads": 1}, lgb.Dataset(x, y), 5)
    two = xgb.train({"objective": "binary:logistic", "nthread": 1}, xgb.DMatrix(x, y), 5)
    skops.io.dump(linear, folder / "m.skops")
    one.save_model(folder / "m.txt")
    two.save_model(folder / "m.json")
    two.save_model(folder / "m.ubj")
    boosted = two.inplace_predict(x)
    return {
        "m.skops": (folder / "m.skops", linear.predict_proba(x)[:, 1]),
        "m.txt": (folder / "m.txt", one.predict(x)),
        "m.json": (folder / "m.json", boosted),
        "m.ubj": (folder / "m.ubj", boosted),
    }


HEAVY = {"lightgbm", "onnx", "pandas", "polars", "scipy", "sklearn", "skops", "sqlalchemy", "xgboost"}
KINDS = {"m.skops": "skops", "m.txt": "lightgbm", "m.json": "xgboost", "m.ubj": "xgboost"}


@pytest.mark.parametrize("name", KINDS)
def test_a_file_alone_is_served_in_its_own_format(models, table, rebuild, name):
    path, expected = models[name]

    prepared = prepare(path)
    names = prepared.contract.input.names
    answer = rebuild(prepared).predict(Batch.of({n: table["x"][:, at] for at, n in enumerate(names)}))

    assert prepared.spec.kind == KINDS[name]
    assert len(names) == 4
    takes_gaps = name != "m.skops"  # a linear model does not
    assert {field.optional for field in prepared.contract.input.fields} == {takes_gaps}
    assert "without real rows no conversion" in prepared.notes[0]
    np.testing.assert_allclose(answer["probability"], expected, atol=1e-7)


@pytest.mark.parametrize("name", KINDS)
def test_a_file_with_rows_is_converted(models, table, rebuild, name):
    path, expected = models[name]

    prepared = prepare(path, table["x"])

    assert prepared.spec.kind == "onnx"
    np.testing.assert_allclose(rebuild(prepared).predict(prepared.sample)["probability"], expected, atol=1e-5)


@pytest.mark.parametrize("suffix", [".txt", ".json", ".ubj"])
def test_a_file_alone_knows_the_categories_it_was_fitted_on(flights, rebuild, tmp_path, suffix):
    frame, late = flights
    typed = frame.astype({"carrier": pd.CategoricalDtype(["UA", "B6", "AA"])})
    quiet = {"n_estimators": 5, "n_jobs": 1}
    if suffix == ".txt":
        fitted = lgb.LGBMClassifier(**quiet, verbose=-1, min_data_per_group=5, cat_smooth=0).fit(typed, late)
        fitted.booster_.save_model(tmp_path / "m.txt")
    else:
        fitted = xgb.XGBClassifier(**quiet, enable_categorical=True).fit(typed, late)
        fitted.save_model(tmp_path / f"m{suffix}")

    prepared = prepare(tmp_path / f"m{suffix}")
    columns = {"carrier": frame["carrier"].to_numpy(object)}
    columns |= {name: frame[name].to_numpy(float) for name in ("distance", "dep time")}
    answer = rebuild(prepared).predict(
        Batch.of(dict(zip(prepared.contract.input.names, columns.values(), strict=True)))
    )

    assert prepared.contract.input.by_name["carrier"].categories == ("UA", "B6", "AA")
    np.testing.assert_allclose(answer["probability"], fitted.predict_proba(typed)[:, 1], atol=1e-6)


@pytest.mark.parametrize("with_rows", [False, True])
@pytest.mark.parametrize("suffix", [".json", ".ubj"])
def test_a_wrapper_s_file_answers_with_its_best_iteration(table, rebuild, tmp_path, suffix, with_rows):
    x, y = table["x"], table["binary"]
    fitted = xgb.XGBClassifier(n_estimators=60, n_jobs=1, early_stopping_rounds=2, learning_rate=0.9)
    fitted.fit(x[:200], y[:200], eval_set=[(x[200:], y[200:])], verbose=False)
    assert fitted.best_iteration + 1 < fitted.get_booster().num_boosted_rounds()
    fitted.save_model(tmp_path / f"m{suffix}")

    prepared = prepare(tmp_path / f"m{suffix}", x if with_rows else None)
    names = prepared.contract.input.names
    answer = rebuild(prepared).predict(Batch.of({name: x[:, at] for at, name in enumerate(names)}))

    assert f"with its best iteration, {fitted.best_iteration}," in prepared.notes[0]
    np.testing.assert_allclose(answer["probability"], fitted.predict_proba(x)[:, 1], atol=1e-5)


def test_a_booster_s_own_file_answers_with_all_its_iterations(table, rebuild, tmp_path):
    x, y = table["x"], table["binary"]
    rows, judged = xgb.DMatrix(x[:200], y[:200]), xgb.DMatrix(x[200:], y[200:])
    settings = {"objective": "binary:logistic", "nthread": 1, "learning_rate": 0.9}
    fitted = xgb.train(
        settings, rows, 60, evals=[(judged, "judged")], early_stopping_rounds=2, verbose_eval=False
    )
    assert fitted.best_iteration + 1 < fitted.num_boosted_rounds()
    fitted.save_model(tmp_path / "m.json")

    answer = rebuild(prepare(tmp_path / "m.json", x)).predict(
        Batch.of({f"feature_{at}": x[:, at] for at in range(4)})
    )

    np.testing.assert_allclose(answer["probability"], fitted.inplace_predict(x), atol=1e-5)


def test_a_wrapper_s_file_of_objective_softmax_gives_scores(table, rebuild, tmp_path):
    x = table["x"]
    fitted = xgb.XGBClassifier(n_estimators=5, n_jobs=1, objective="multi:softmax").fit(x, table["three"])
    fitted.save_model(tmp_path / "m.json")

    prepared = prepare(tmp_path / "m.json")
    names = prepared.contract.input.names
    answer = rebuild(prepared).predict(Batch.of({name: x[:, at] for at, name in enumerate(names)}))

    np.testing.assert_allclose(answer["probabilities"], fitted.predict_proba(x), atol=1e-5)


@pytest.mark.parametrize("name", KINDS)
def test_a_damaged_file_is_refused_in_words(models, tmp_path, name):
    data = models[name][0].read_bytes()
    path = tmp_path / name

    for damaged in (data[: len(data) // 2], b"", b"\x00garbage" * 50, b"S'\\u12'\n" * 9):
        path.write_bytes(damaged)
        with pytest.raises(LoadError, match=name):
            prepare(path)


def test_a_graph_keeps_its_own_names(tmp_path, rebuild):
    prepared = prepare(save(unary("Neg", FLOAT), tmp_path / "m.onnx"))

    answer = rebuild(prepared).predict(Batch.of({"x": np.ones((1, 2), np.float32)}))

    assert answer["y"].tolist() == [[-1.0, -1.0]]


def test_a_folder_of_python_needs_a_contract(tmp_path, rebuild):
    (tmp_path / "model.py").write_text("from part import f\n\ndef predict(c):\n    return {'y': f(c['x'])}\n")
    (tmp_path / "part.py").write_text("def f(x):\n    return x + 1\n")
    promise = Contract(Schema((Field("x", DataType.FLOAT64),)), Schema((Field("y", DataType.FLOAT64),)))

    with pytest.raises(InvalidSetting, match="says nothing of its columns"):
        prepare(tmp_path)
    answer = rebuild(prepare(tmp_path, contract=promise)).predict(Batch.of({"x": np.array([1.0])}))

    assert answer["y"].tolist() == [2.0]
    sys.modules.pop("part")


class Bomb:
    """Would leave a mark if it were read."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return (open, (str(self.mark), "w"))


@pytest.mark.parametrize("name", ["m.pkl", "m.joblib", "m.pickle", "m.onnx", "m.txt", "m.skops", "m"])
@pytest.mark.parametrize("how", ["pickle", "protocol 0", "joblib", "gzip"])
def test_a_pickle_is_never_read_whatever_it_is_called(tmp_path, name, how):
    mark, path = tmp_path / "mark", tmp_path / name
    data = pickle.dumps(Bomb(mark), protocol=0 if how == "protocol 0" else 4)
    if how == "joblib":
        joblib.dump(Bomb(mark), path)
    else:
        path.write_bytes(gzip.compress(data) if how == "gzip" else data)

    with pytest.raises(PickleRefused, match=r'tg\.register\("name", model, sample=X\)') as caught:
        prepare(path)

    assert caught.value.code == "pickle_refused"
    assert not mark.exists()


def test_other_files_are_refused_in_words(tmp_path):
    (tmp_path / "m.csv").write_text("a,b\n1,2\n")

    with pytest.raises(NotFound, match="no model file"):
        prepare(tmp_path / "gone.onnx")
    with pytest.raises(InvalidSetting, match=r"m\.csv is no model file .*Known are \.onnx"):
        prepare(tmp_path / "m.csv")
    with pytest.raises(InvalidSetting, match=r"neither one \.onnx file nor a model\.py"):
        prepare(tmp_path)


def test_types_that_nobody_agreed_to_are_listed(table, tmp_path, rebuild):
    path = tmp_path / "m.skops"
    fitted = make_pipeline(
        FunctionTransformer(np.linalg.norm, kw_args={"axis": 1, "keepdims": True}), LogisticRegression()
    )
    skops.io.dump(fitted.fit(table["x"], table["binary"]), path)

    with pytest.raises(
        UntrustedTypes, match=r"types that are not known to be safe: numpy\.linalg\.\w*\.?norm"
    ) as caught:
        prepare(path)
    types = caught.value.context["types"]
    prepared = prepare(path, trusted=types)

    assert prepared.spec.options["trusted"] == types
    answer = rebuild(prepared).predict(
        Batch.of({n: table["x"][:, at] for at, n in enumerate(prepared.contract.input.names)})
    )
    np.testing.assert_array_equal(answer["probability"], fitted.predict_proba(table["x"])[:, 1])


def test_the_builders_import_no_engine_until_one_is_built():
    code = (
        "import sys; import tidegate.adapter.runtime.builder; "
        f"print(sorted({HEAVY | {'onnxruntime'}} & set(sys.modules)))"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


def test_a_graph_is_served_without_any_training_library(tmp_path):
    path = save(unary("Abs", FLOAT), tmp_path / "m.onnx")
    code = (
        "import sys, pathlib\n"
        "from tidegate.adapter.runtime.builder import BUILDERS\n"
        "from tidegate.adapter.runtime.signature import signature_of\n"
        "from tidegate.adapter.runtime.session import open_session\n"
        "from tidegate.predictor.binding import contract_from\n"
        "from tidegate.predictor.protocol import BuildContext, Spec, build\n"
        f"path = pathlib.Path({str(path)!r})\n"
        "contract, _ = contract_from(signature_of(open_session(path)))\n"
        "build(Spec('onnx', 'sha256:0'), BuildContext(contract, lambda d: path), BUILDERS).warm_up()\n"
        f"print(sorted({HEAVY} & set(sys.modules)))"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"
