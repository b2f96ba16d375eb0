"""Fitted models on their way into the registry: converted where they answer the same."""

import io
import zipfile

import lightgbm as lgb
import numpy as np
import pandas as pd
import polars as pl
import pytest
import xgboost as xgb
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import make_column_transformer
from sklearn.ensemble import (
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
)
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.frozen import FrozenEstimator
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression, RidgeClassifier
from sklearn.multiclass import OneVsRestClassifier
from sklearn.multioutput import MultiOutputClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, OrdinalEncoder, StandardScaler
from sklearn.svm import SVC, LinearSVC

from tidegate.adapter.runtime.prepare import prepare
from tidegate.adapter.runtime.skops import write_estimator
from tidegate.contract.batch import Batch
from tidegate.contract.schema import Contract, DataType, Field, Role, Schema
from tidegate.contract.violation import ContractViolation
from tidegate.core.decision import Verdict
from tidegate.core.error import InvalidSetting

QUIET = {"n_estimators": 10, "verbose": -1, "num_threads": 1}
XGB = {"n_estimators": 10, "nthread": 1}


def matrix_batch(contract, x):
    return Batch.of({name: x[:, at] for at, name in enumerate(contract.input.names)})


BINARY = {
    "logistic": LogisticRegression,
    "forest": lambda: RandomForestClassifier(10, random_state=0),
    "boosting": lambda: GradientBoostingClassifier(n_estimators=10, random_state=0),
    "histogram boosting": lambda: HistGradientBoostingClassifier(max_iter=10, random_state=0),
    "scaled": lambda: make_pipeline(StandardScaler(), LogisticRegression()),
    "lightgbm": lambda: lgb.LGBMClassifier(**QUIET),
    "xgboost": lambda: xgb.XGBClassifier(**XGB),
}


@pytest.mark.parametrize("name", BINARY)
def test_a_binary_classifier_becomes_a_graph_that_answers_the_same(table, rebuild, name):
    x, fitted = table["x"], BINARY[name]().fit(table["x"], table["binary"])

    prepared = prepare(fitted, x)
    answer = rebuild(prepared).predict(matrix_batch(prepared.contract, x))

    assert prepared.spec.kind == "onnx"
    np.testing.assert_allclose(answer["probability"], fitted.predict_proba(x)[:, 1], atol=1e-5)
    np.testing.assert_array_equal(answer["label"], fitted.predict(x))
    assert [evidence.verdict for evidence in prepared.evidence] == [Verdict.SAFE]
    assert prepared.evidence[0].observed["n_rows"] == 400
    assert "Converted to ONNX" in prepared.notes[-1]


@pytest.mark.parametrize("is_last", [False, True])
def test_a_calibrated_classifier_whose_estimator_was_frozen_becomes_a_graph(table, rebuild, is_last):
    x, happened = table["x"], table["binary"]
    forest = RandomForestClassifier(5, random_state=0).fit(x[:200], happened[:200])
    fitted = CalibratedClassifierCV(FrozenEstimator(forest)).fit(x[200:], happened[200:])
    if is_last:
        fitted = make_pipeline(FunctionTransformer(), fitted).fit(x, happened)

    prepared = prepare(fitted, x)
    answer = rebuild(prepared).predict(matrix_batch(prepared.contract, x))

    assert prepared.spec.kind == "onnx"
    np.testing.assert_allclose(answer["probability"], fitted.predict_proba(x)[:, 1], atol=1e-5)


def test_a_model_that_stays_native_is_written_the_same_from_fit_to_fit(table):
    def written():
        return write_estimator(make_pipeline(StandardScaler(), SVC()).fit(table["x"], table["binary"]))

    first = written()

    assert first == written()
    with zipfile.ZipFile(io.BytesIO(first)) as file:
        assert "schema.json" in file.namelist()


@pytest.mark.parametrize(
    "fit",
    [
        lambda t: LogisticRegression().fit(t["x"], t["text"]),
        lambda t: lgb.LGBMClassifier(**QUIET).fit(t["x"], t["text"]),
    ],
)
def test_text_classes_become_a_category_and_a_vector_of_probabilities(table, rebuild, fit):
    x, fitted = table["x"], fit(table)

    prepared = prepare(fitted, x)
    answer = rebuild(prepared).predict(matrix_batch(prepared.contract, x))

    label, scores = prepared.contract.output.fields
    assert (label.type, label.categories) == (DataType.CATEGORY, ("high", "low", "middle"))
    assert scores.shape == (3,)
    assert answer["label"].tolist() == fitted.predict(x).tolist()
    np.testing.assert_allclose(answer["probabilities"], fitted.predict_proba(x), atol=1e-5)


@pytest.mark.parametrize(
    "fit",
    [
        lambda t: LinearRegression().fit(t["x"], t["number"]),
        lambda t: HistGradientBoostingRegressor(max_iter=10).fit(t["x"], t["number"]),
        lambda t: lgb.LGBMRegressor(**QUIET).fit(t["x"], t["number"]),
        lambda t: xgb.XGBRegressor(**XGB).fit(t["x"], t["number"]),
    ],
)
def test_a_regressor_gives_one_prediction(table, rebuild, fit):
    x, fitted = table["x"], fit(table)

    prepared = prepare(fitted, x)
    answer = rebuild(prepared).predict(matrix_batch(prepared.contract, x))

    assert prepared.spec.kind == "onnx"
    np.testing.assert_allclose(answer["prediction"], fitted.predict(x), rtol=1e-5)


def test_raw_boosters_are_taken_too(table, rebuild, tmp_path):
    x, y = table["x"], table["binary"]
    one = lgb.train({"objective": "binary", "verbose": -1, "num_threads": 1}, lgb.Dataset(x, y), 5)
    two = xgb.train({"objective": "binary:logistic", "nthread": 1}, xgb.DMatrix(x, y), 5)

    for fitted, expected in ((one, one.predict(x)), (two, two.inplace_predict(x))):
        prepared = prepare(fitted, x)
        answer = rebuild(prepared).predict(matrix_batch(prepared.contract, x))
        np.testing.assert_allclose(answer["probability"], expected, atol=1e-5)
        (tmp_path / "artifact" / "0a1b2c3d").unlink()
        (tmp_path / "artifact").rmdir()


def test_early_stopped_boosting_answers_with_its_best_iteration(table, rebuild):
    x, y = table["x"], table["binary"]
    fitted = xgb.XGBClassifier(n_estimators=60, nthread=1, early_stopping_rounds=2, learning_rate=0.9)
    fitted.fit(x[:200], y[:200], eval_set=[(x[200:], y[200:])], verbose=False)
    assert fitted.best_iteration + 1 < fitted.get_booster().num_boosted_rounds()

    prepared = prepare(fitted, x)

    answer = rebuild(prepared).predict(matrix_batch(prepared.contract, x))
    np.testing.assert_allclose(answer["probability"], fitted.predict_proba(x)[:, 1], atol=1e-5)


@pytest.mark.parametrize("is_last", [False, True])
@pytest.mark.parametrize("missing", [-1, 0])
def test_a_number_that_stands_for_a_missing_value_is_one_where_it_is_served(rebuild, missing, is_last):
    rng = np.random.default_rng(5)
    x = rng.normal(size=(400, 2)).round(2)
    x[rng.random(x.shape) < 0.3] = missing
    fitted = xgb.XGBClassifier(**XGB, missing=missing)
    fitted = make_pipeline(FunctionTransformer(), fitted) if is_last else fitted
    fitted.fit(x, (x[:, 0] == missing) ^ (x[:, 1] > 0.2))

    prepared = prepare(fitted, x)
    answer = rebuild(prepared).predict(matrix_batch(prepared.contract, x))

    assert f"takes {missing} for missing" in prepared.notes[-1]
    np.testing.assert_allclose(answer["probability"], fitted.predict_proba(x)[:, 1], atol=1e-6)


@pytest.mark.parametrize("form", ["matrix", "scaled", "columns"])
def test_trees_that_split_at_missing_values_answer_as_they_do(rebuild, form):
    rng = np.random.default_rng(4)
    x = rng.normal(size=(400, 2))
    x[rng.random(x.shape) < 0.3] = np.nan
    y = np.isnan(x[:, 0]) ^ (x[:, 1] > 0.2)
    fitted = RandomForestClassifier(5, random_state=0)
    rows = pd.DataFrame(x, columns=["a", "b"]) if form == "columns" else x
    if form != "matrix":
        scaled = make_column_transformer((StandardScaler(), ["a"]), remainder="passthrough")
        fitted = make_pipeline(scaled if form == "columns" else StandardScaler(), fitted)
    fitted.fit(rows, y)

    prepared = prepare(fitted, rows)
    answer = rebuild(prepared).predict(matrix_batch(prepared.contract, x))

    assert prepared.spec.kind == "skops"
    assert "its trees split at missing values" in prepared.notes[-1]
    np.testing.assert_allclose(answer["probability"], fitted.predict_proba(rows)[:, 1], atol=1e-6)


def encoded(last):
    columns = make_column_transformer(
        (OneHotEncoder(handle_unknown="ignore"), ["carrier"]),
        (make_pipeline(SimpleImputer(), StandardScaler()), ["distance", "dep time"]),
    )
    return make_pipeline(columns, last)


def ordinal(last):
    return make_pipeline(
        make_column_transformer((OrdinalEncoder(), ["carrier"]), remainder="passthrough"), last
    )


FRAMES = {
    "logistic": lambda: encoded(LogisticRegression()),
    "lightgbm": lambda: encoded(lgb.LGBMClassifier(**QUIET)),
    "xgboost": lambda: ordinal(xgb.XGBClassifier(**XGB)),
    "histogram boosting": lambda: ordinal(HistGradientBoostingClassifier(max_iter=10)),
}


@pytest.mark.parametrize("name", FRAMES)
def test_a_pipeline_over_a_data_frame_takes_a_column_each(flights, rebuild, name):
    frame, late = flights
    fitted = FRAMES[name]().fit(frame, late)

    prepared = prepare(fitted, frame)
    answer = rebuild(prepared).predict(prepared.sample)

    assert prepared.spec.kind == "onnx"
    assert prepared.contract.input.names == ("carrier", "distance", "dep_time")
    assert "'dep time' is dep_time" in prepared.notes[0]
    np.testing.assert_allclose(answer["probability"], fitted.predict_proba(frame)[:, 1], atol=1e-5)


CONTRACT = Contract(
    Schema(
        (
            Field("tail", DataType.STRING, roles=(Role.KEY,)),
            Field("dep_time", DataType.FLOAT64, optional=True),
            Field("carrier", DataType.CATEGORY, categories=("AA", "B6", "DL", "UA")),
            Field("distance", DataType.INT32, gt=0),
        )
    ),
    Schema((Field("p_late", DataType.FLOAT64, ge=0, le=1),)),
)


def test_a_given_contract_is_kept_whatever_its_order_and_its_other_fields(flights, rebuild):
    frame, late = flights
    fitted = FRAMES["logistic"]().fit(frame, late)

    prepared = prepare(
        fitted, pl.DataFrame({**frame.to_dict("list"), "tail": ["N1"] * 400}), contract=CONTRACT
    )
    answer = rebuild(prepared).predict(prepared.sample)

    assert prepared.contract is CONTRACT
    np.testing.assert_allclose(answer["p_late"], fitted.predict_proba(frame)[:, 1], atol=1e-5)


def test_an_array_is_named_by_the_contract(table, rebuild):
    x, fitted = table["x"], LogisticRegression().fit(table["x"], table["binary"])
    fields = tuple(Field(name, DataType.FLOAT64) for name in "dcba")
    key = Field("customer", DataType.STRING, roles=(Role.KEY,))

    prepared = prepare(fitted, x, contract=Contract(Schema((key, *fields)), CONTRACT.output))
    answer = rebuild(prepared).predict(Batch.of({name: x[:, at] for at, name in enumerate("dcba")}))

    np.testing.assert_allclose(answer["p_late"], fitted.predict_proba(x)[:, 1], atol=1e-5)


def boosted_on_categories(library, flights):
    """Return a booster that was fitted on a categorical column, and its rows."""
    frame, late = flights
    typed = frame.astype({"carrier": pd.CategoricalDtype(["UA", "B6", "AA"])})
    model = (
        lgb.LGBMClassifier(**QUIET, min_data_per_group=5, cat_smooth=0)
        if library == "lightgbm"
        else xgb.XGBClassifier(**XGB, enable_categorical=True)
    )
    return model.fit(typed, late), typed


@pytest.mark.parametrize("library", ["lightgbm", "xgboost"])
def test_categorical_columns_of_a_booster_go_by_the_models_own_codes(flights, rebuild, library):
    fitted, typed = boosted_on_categories(library, flights)

    prepared = prepare(fitted, typed)
    answer = rebuild(prepared).predict(prepared.sample)

    np.testing.assert_allclose(answer["probability"], fitted.predict_proba(typed)[:, 1], atol=1e-5)


@pytest.mark.parametrize("library", ["lightgbm", "xgboost"])
def test_a_category_that_the_model_knows_is_taken_though_the_sample_lacks_it(flights, library):
    fitted, typed = boosted_on_categories(library, flights)
    few = typed[typed["carrier"] != "UA"].copy()
    few["carrier"] = few["carrier"].cat.remove_unused_categories()

    prepared = prepare(fitted, few)

    assert prepared.contract.input.by_name["carrier"].categories == ("UA", "B6", "AA")


@pytest.mark.parametrize("kind", ["int64", "int32"])
@pytest.mark.parametrize("library", ["lightgbm", "xgboost"])
def test_whole_numbers_as_categories_go_by_the_model_s_own_codes(rebuild, library, kind):
    rng = np.random.default_rng(2)
    weeks = pd.Series(rng.integers(1, 9, 400) * 7).astype(kind)
    frame = pd.DataFrame({"week": weeks.astype("category"), "price": rng.normal(size=400)})
    model = (
        lgb.LGBMClassifier(**QUIET, min_data_per_group=5, cat_smooth=0)
        if library == "lightgbm"
        else xgb.XGBClassifier(**XGB, enable_categorical=True)
    )
    fitted = model.fit(frame, weeks.isin([7, 21, 35]) ^ (frame["price"] > 1))
    few = frame[weeks.isin([21, 28, 49])].copy()
    few["week"] = few["week"].cat.remove_unused_categories()

    prepared = prepare(fitted, few)
    answer = rebuild(prepared).predict(
        Batch.of({"week": weeks.to_numpy().astype(np.int64), "price": frame["price"].to_numpy()})
    )

    np.testing.assert_allclose(answer["probability"], fitted.predict_proba(frame)[:, 1], atol=1e-5)


@pytest.mark.parametrize(
    "fit",
    [
        lambda x, y: xgb.XGBRegressor(**XGB).fit(x, np.stack([y, -y], axis=1)),
        lambda x, y: xgb.XGBRegressor(**XGB, objective="reg:quantileerror", quantile_alpha=[0.1, 0.9]).fit(
            x, y
        ),
        lambda x, y: xgb.XGBRegressor(**XGB, multi_strategy="multi_output_tree").fit(
            x, np.stack([y, -y], axis=1)
        ),
    ],
    ids=["two targets", "two quantiles", "trees of two"],
)
def test_a_booster_of_several_targets_gives_a_vector(table, rebuild, fit):
    x, fitted = table["x"], fit(table["x"], table["number"])

    prepared = prepare(fitted, x)
    answer = rebuild(prepared).predict(matrix_batch(prepared.contract, x))

    assert prepared.contract.output.fields[0].shape == (2,)
    np.testing.assert_allclose(answer["prediction"], fitted.predict(x), rtol=1e-4)


@pytest.mark.parametrize("converts", [False, True])
def test_a_wrapper_of_objective_softmax_gives_scores(table, rebuild, monkeypatch, converts):
    x, fitted = (
        table["x"],
        xgb.XGBClassifier(**XGB, objective="multi:softmax").fit(table["x"], table["three"]),
    )
    if not converts:
        monkeypatch.setattr("tidegate.adapter.runtime.convert.missing_packages", lambda kind: ["onnxmltools"])

    prepared = prepare(fitted, x)
    answer = rebuild(prepared).predict(matrix_batch(prepared.contract, x))

    assert prepared.spec.kind == ("onnx" if converts else "xgboost")
    assert answer["label"].tolist() == fitted.predict(x).tolist()
    np.testing.assert_allclose(answer["probabilities"], fitted.predict_proba(x), atol=1e-5)
    assert xgb.Booster.inplace_predict(fitted.get_booster(), x).ndim == 1, "the model given stays as it was"


@pytest.mark.filterwarnings("ignore::UserWarning")  # newer XGBoost says that it will be gone one day
@pytest.mark.parametrize("stopped", [None, 2])
def test_a_linear_booster_answers_as_it_does_in_its_library(table, rebuild, stopped):
    x, y = table["x"], table["number"]
    fitted = xgb.XGBRegressor(
        booster="gblinear", n_estimators=5, nthread=1, learning_rate=2.0, early_stopping_rounds=stopped
    )
    fitted.fit(x, y, eval_set=None if stopped is None else [(x, -y)], verbose=False)

    prepared = prepare(fitted, x)
    answer = rebuild(prepared).predict(matrix_batch(prepared.contract, x))

    np.testing.assert_allclose(answer["prediction"], fitted.predict(x), rtol=1e-5)


@pytest.mark.parametrize("form", ["list", "array", "series"])
def test_a_vectoriser_of_texts_takes_one_text_a_row(rebuild, form):
    texts = [
        "a good film",
        "a bad film",
        "the best",
        "the worst",
    ] * 25  # so few that they look like categories
    fitted = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(texts, ["up", "down"] * 50)
    sample = {"list": texts, "array": np.array(texts), "series": pd.Series(texts)}[form]

    prepared = prepare(fitted, sample)
    others = ["a good one", "Never seen", ""]
    [name] = prepared.contract.input.names
    answer = rebuild(prepared).predict(Batch.of({name: np.array(others, object)}))

    assert prepared.contract.input.fields[0].type is DataType.STRING
    assert answer["label"].tolist() == fitted.predict(others).tolist()
    np.testing.assert_allclose(answer["probability"], fitted.predict_proba(others)[:, 1], atol=1e-5)


def test_a_model_that_cannot_be_converted_stays_native_and_says_why(table, rebuild):
    x = table["x"]
    fitted = make_pipeline(FunctionTransformer(np.abs), LogisticRegression()).fit(x, table["binary"])

    prepared = prepare(fitted, x)
    answer = rebuild(prepared).predict(matrix_batch(prepared.contract, x))

    assert prepared.spec.kind == "skops"
    assert "stays a sklearn Pipeline" in prepared.notes[-1]
    assert "FunctionTransformer" in prepared.notes[-1]
    assert prepared.evidence[0].verdict is Verdict.SAFE
    np.testing.assert_array_equal(answer["probability"], fitted.predict_proba(x)[:, 1])


@pytest.mark.parametrize(
    "last",
    [
        lambda: HistGradientBoostingClassifier(max_iter=10, min_samples_leaf=2),
        lambda: xgb.XGBClassifier(**XGB),
    ],
)
def test_what_scaling_in_float32_would_change_is_scaled_in_float64(flights, table, rebuild, last):
    # Scaled in float32, values step over thresholds that were drawn at them in float64.
    frame, late = flights
    x = table["x"].cumsum(axis=0)

    for fitted, rows in (
        (encoded(last()).fit(frame, late), frame),
        (make_pipeline(StandardScaler(), last()).fit(x, table["binary"]), x),
    ):
        prepared = prepare(fitted, rows)

        assert prepared.spec.kind == "onnx"
        assert prepared.evidence[0].statistic < 1e-6
    assert any(
        "answers differently" in one
        for one in prepare(encoded(last()).fit(frame, late), frame).evidence[0].observed["refused"]
    )


def test_a_conversion_that_answers_differently_is_not_taken(flights, rebuild):
    # skl2onnx 1.20 writes splits over categories as if they were thresholds, and says nothing.
    frame, late = flights
    fitted = ordinal(HistGradientBoostingClassifier(max_iter=10, categorical_features=[0])).fit(frame, late)

    prepared = prepare(fitted, frame)
    answer = rebuild(prepared).predict(prepared.sample)

    assert prepared.spec.kind == "skops"
    assert any("answers differently" in reason for reason in prepared.evidence[0].observed["refused"])
    np.testing.assert_array_equal(answer["probability"], fitted.predict_proba(frame)[:, 1])


@pytest.mark.parametrize("library", ["lightgbm", "xgboost"])
def test_a_native_booster_keeps_codes_and_classes(flights, rebuild, monkeypatch, library):
    frame, late = flights
    typed = frame.astype({"carrier": pd.CategoricalDtype(["UA", "B6", "AA"])})
    if library == "lightgbm":
        words = np.array(["on time", "late"])[late]
        fitted = lgb.LGBMClassifier(**QUIET, min_data_per_group=5).fit(typed, words)
    else:
        fitted = xgb.XGBClassifier(**XGB, enable_categorical=True).fit(typed, late)
    monkeypatch.setattr("tidegate.adapter.runtime.convert.missing_packages", lambda kind: ["onnxmltools"])

    prepared = prepare(fitted, typed)
    answer = rebuild(prepared).predict(prepared.sample)

    assert prepared.spec.kind == library
    assert "needs onnxmltools, which is not installed" in prepared.notes[-1]
    assert answer["label"].tolist() == fitted.predict(typed).tolist()
    np.testing.assert_array_equal(answer["probability"], fitted.predict_proba(typed)[:, 1])


def test_a_function_from_the_notebook_itself_is_refused(table):
    def double(x):
        return x * 2

    double.__module__ = "__main__"
    double.__qualname__ = "double"
    import __main__

    __main__.double = double
    try:
        fitted = make_pipeline(FunctionTransformer(double), LogisticRegression())
        with pytest.raises(InvalidSetting, match=r"__main__\.double, defined in this script or notebook"):
            prepare(fitted.fit(table["x"], table["binary"]), table["x"])
    finally:
        del __main__.double


def test_labels_of_a_classifier_without_probabilities(table, rebuild):
    x, fitted = table["x"], SVC().fit(table["x"], table["binary"])

    prepared = prepare(fitted, x)

    assert prepared.contract.output.names == ("label",)
    assert rebuild(prepared).predict(matrix_batch(prepared.contract, x))["label"].tolist() == list(
        fitted.predict(x)
    )


@pytest.mark.parametrize("make", [LogisticRegression, lambda: xgb.XGBClassifier(**XGB)])
def test_a_lazy_sample_is_refused_in_words(table, make):
    fitted = make().fit(table["x"], table["binary"])

    with pytest.raises(InvalidSetting, match="holds no rows yet"):
        prepare(fitted, pl.DataFrame(table["x"]).lazy())


@pytest.mark.parametrize("make", [LinearSVC, SVC, RidgeClassifier])
def test_texts_without_probabilities_are_categories_too(table, rebuild, make):
    x, fitted = table["x"], make().fit(table["x"], table["text"])

    prepared = prepare(fitted, x)
    answer = rebuild(prepared).predict(matrix_batch(prepared.contract, x))

    (label,) = prepared.contract.output.fields
    assert (label.type, label.categories) == (DataType.CATEGORY, ("high", "low", "middle"))
    assert answer["label"].tolist() == fitted.predict(x).tolist()


@pytest.mark.parametrize("make", [LogisticRegression, SVC, lambda: lgb.LGBMClassifier(**QUIET)])
def test_a_label_that_is_declared_as_a_truth_value_is_one(table, rebuild, make):
    x, fitted = table["x"], make().fit(table["x"], table["binary"].astype(bool))
    fields = tuple(Field(name, DataType.FLOAT64) for name in "abcd")
    declared = Contract(Schema(fields), Schema((Field("label", DataType.BOOL),)))

    prepared = prepare(fitted, x, contract=declared)
    answer = rebuild(prepared).predict(matrix_batch(declared, x))

    assert answer["label"].dtype == np.bool_
    assert answer["label"].tolist() == fitted.predict(x).tolist()


def test_a_sample_that_breaks_the_contract_is_refused_naming_the_field(flights):
    frame, late = flights
    fitted = FRAMES["logistic"]().fit(frame, late)
    frame = frame.assign(tail="N1", distance=-frame["distance"])

    with pytest.raises(ContractViolation, match="distance"):
        prepare(fitted, frame, contract=CONTRACT)


@pytest.mark.parametrize(
    ("make", "sample", "message"),
    [
        (lambda t: LogisticRegression(), "x", "is not fitted"),
        (lambda t: {"a": 1}, "x", "no model that Tidegate knows"),
        (lambda t: LogisticRegression().fit(t["x"], t["binary"]), None, "some rows of its input"),
        (lambda t: LogisticRegression().fit(t["x"], t["binary"]), "short", "takes 4 features, .* 3 columns"),
        (
            lambda t: MultiOutputClassifier(LogisticRegression()).fit(
                t["x"], np.stack([t["binary"], t["three"]], axis=1)
            ),
            "x",
            "several targets",
        ),
        *(
            (lambda t, fit=fit: fit(t["x"], np.stack([t["binary"], t["x"][:, 0] > 0], axis=1)), "x", words)
            for fit, words in (
                (OneVsRestClassifier(LogisticRegression()).fit, "OneVsRestClassifier has several targets"),
                (MLPClassifier((2,), tol=10, n_iter_no_change=1).fit, "MLPClassifier has several targets"),
            )
        ),
    ],
)
def test_what_cannot_be_prepared_is_refused_in_words(table, make, sample, message):
    rows = {"x": table["x"], "short": table["x"][:, :3], None: None}[sample]

    with pytest.raises(InvalidSetting, match=message):
        prepare(make(table), rows)


def test_features_that_the_sample_or_the_contract_lack_are_named(flights):
    frame, late = flights
    fitted = FRAMES["logistic"]().fit(frame, late)

    with pytest.raises(InvalidSetting, match="sample lacks the model's features distance"):
        prepare(fitted, frame.drop(columns="distance"))
    short = Contract(Schema(CONTRACT.input.fields[1:3]), CONTRACT.output)
    with pytest.raises(InvalidSetting, match="features distance are not input fields"):
        prepare(fitted, frame, contract=short)


def test_equal_graphs_are_equal_bytes_in_whatever_order_a_converter_wrote_the_opsets() -> None:
    from onnx import helper

    from tidegate.adapter.runtime.convert import _serialised

    graphs = []
    for domains in (["", "ai.onnx.ml"], ["ai.onnx.ml", ""]):
        opsets = [helper.make_opsetid(domain, 1) for domain in domains]
        graphs.append(helper.make_model(helper.make_graph([], "g", [], []), opset_imports=opsets))

    assert _serialised(graphs[0]) == _serialised(graphs[1])
