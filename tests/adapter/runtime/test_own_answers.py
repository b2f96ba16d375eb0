"""What is served is the model that was given: compared with its own answers to rows as its owner has them."""

import numpy as np
import pandas as pd
import polars as pl
import pytest
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.compose import ColumnTransformer, make_column_transformer
from sklearn.ensemble import ExtraTreesClassifier, RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder

from tidegate.adapter.runtime.prepare import prepare
from tidegate.contract.batch import Batch
from tidegate.contract.decode import RowDecoder
from tidegate.contract.schema import Contract, DataType, Field, Schema
from tidegate.core.error import InvalidSetting
from tidegate.training.parity import ParityRefused


@pytest.fixture(scope="module")
def stays():
    """Stays with a country that is missing now and then, and means much where it is."""
    rng = np.random.default_rng(11)
    frame = pd.DataFrame(
        {
            "country": rng.choice(["FR", "PT", "UK"], 600),
            "hotel": rng.choice(["City", "Resort"], 600),
            "lead": rng.normal(100, 30, 600),
        }
    )
    frame.loc[::5, "country"] = np.nan
    late = (frame["country"].isna() | (frame["lead"] > 120)).astype(int).to_numpy()
    return frame, late


def classifier(*columns, encoder):
    steps = make_column_transformer((encoder, list(columns)), (SimpleImputer(), ["lead"]))
    return make_pipeline(steps, LogisticRegression(max_iter=500))


def asked(predictor, contract, rows):
    """Ask as callers do: row by row, from what they send."""
    decoder = RowDecoder(contract.input, max_rows=1)
    found = []
    for row in rows:
        body = [value if value == value else None for value in row]  # noqa: PLR0124 - NaN
        decoded = decoder.row_type(**dict(zip(contract.input.names, body, strict=True)))
        found.append(float(predictor.predict(decoder.gather([decoded]))["probability"][0]))
    return np.array(found)


ENCODERS = {
    "one hot": lambda: OneHotEncoder(handle_unknown="ignore"),
    "ordinal": lambda: OrdinalEncoder(
        handle_unknown="use_encoded_value", unknown_value=-1, encoded_missing_value=-2
    ),
    "imputed": lambda: make_pipeline(
        SimpleImputer(strategy="most_frequent"), OneHotEncoder(handle_unknown="ignore")
    ),
}


@pytest.mark.parametrize(
    ("encoder", "marker"),
    # the imputer looks for NaN, and the ordinal encoder has no code of its own for None
    [*(("one hot", marker) for marker in ("nan", "none", "polars")), ("ordinal", "nan"), ("imputed", "nan")],
)
def test_a_missing_text_is_to_the_model_what_it_was_fitted_with(stays, rebuild, marker, encoder) -> None:
    frame, late = stays
    if marker != "nan":
        texts = frame["country"].astype(object)
        frame = frame.assign(country=texts.where(texts.notna(), None).astype(object))
    sample = pl.DataFrame(frame.to_dict(orient="list")) if marker == "polars" else frame
    model = classifier("country", "hotel", encoder=ENCODERS[encoder]()).fit(sample, late)

    prepared = prepare(model, sample=sample)
    predictor = rebuild(prepared)

    own = model.predict_proba(sample)[:40, 1]
    rows = frame.head(40).astype(object).to_numpy().tolist()
    np.testing.assert_allclose(asked(predictor, prepared.contract, rows), own, atol=1e-4)


@pytest.mark.parametrize("missing", [np.nan, None])
def test_a_missing_text_of_an_array_too(stays, rebuild, missing) -> None:
    frame, late = stays
    array = frame[["country", "hotel"]].astype(object).to_numpy()
    array[pd.isna(array)] = missing
    model = make_pipeline(
        ColumnTransformer([("texts", OneHotEncoder(handle_unknown="ignore"), [0, 1])]), LogisticRegression()
    ).fit(array, late)

    prepared = prepare(model, sample=array)

    own = model.predict_proba(array)[:40, 1]
    found = asked(rebuild(prepared), prepared.contract, array[:40].tolist())
    np.testing.assert_allclose(found, own, atol=1e-4)


class Calendar(BaseEstimator, TransformerMixin):
    """Month and hour of the only column."""

    def fit(self, rows, _=None):
        self.n_features_in_ = rows.shape[1]
        return self

    def transform(self, rows):
        when = pd.to_datetime(rows.iloc[:, 0])
        return np.stack([when.dt.month, when.dt.hour], axis=1).astype(float)


@pytest.mark.parametrize("zone", [None, "Europe/Berlin"])
@pytest.mark.parametrize("unit", ["ns", "us"])
def test_times_reach_the_model_as_it_was_fitted_with_them(rebuild, zone, unit) -> None:
    when = pd.Series(pd.date_range("2025-01-01", periods=700, freq="7h", tz=zone)).dt.as_unit(unit)
    frame = pd.DataFrame({"when": when, "lead": np.arange(700.0) % 13})
    late = ((when.dt.month > 6) ^ (when.dt.hour > 20)).astype(int)
    steps = make_column_transformer((Calendar(), ["when"]), ("passthrough", ["lead"]))
    model = make_pipeline(steps, RandomForestClassifier(20, random_state=0)).fit(frame, late)

    prepared = prepare(model, sample=frame)

    own = model.predict_proba(frame)[:, 1]
    moments = when.dt.tz_convert("UTC").dt.tz_localize(None) if zone else when
    batch = Batch(
        {
            "when": moments.dt.as_unit("us").to_numpy().view(np.int64),
            "lead": frame["lead"].to_numpy(),
        },
        700,
    )
    np.testing.assert_allclose(rebuild(prepared).predict(batch)["probability"], own, atol=1e-6)


class Nameless(BaseEstimator, TransformerMixin):
    """Looks at what no contract can carry: the names of a frame's rows."""

    def fit(self, rows, _=None):
        self.n_features_in_ = rows.shape[1]
        return self

    def transform(self, rows):
        return np.asarray(rows, dtype=float) + np.asarray(rows.index, dtype=float)[:, None]


def test_a_model_to_which_rebuilt_rows_are_others_is_refused() -> None:
    frame = pd.DataFrame({"a": np.linspace(0, 1, 90), "b": np.ones(90)}, index=np.arange(1000, 1090))
    model = make_pipeline(Nameless(), LogisticRegression()).fit(frame, np.arange(90) % 2)

    with pytest.raises(ParityRefused, match="answers rows of the sample otherwise"):
        prepare(model, sample=frame.iloc[:50])


def outputs(*names):
    return Schema(tuple(Field(name, DataType.FLOAT64, ge=0, le=1) for name in names))


def test_outputs_that_are_not_named_as_the_classes_are_not_guessed(table) -> None:
    model = LogisticRegression().fit(table["x"], np.where(table["binary"], "spam", "ham"))
    inputs = Schema(tuple(Field(name, DataType.FLOAT64) for name in "abcd"))

    with pytest.raises(InvalidSetting, match="classes ham, spam") as raised:
        prepare(model, contract=Contract(inputs, outputs("spam_score", "ham_score")), sample=table["x"])
    assert "p_ham, p_spam" in (raised.value.hint or "")

    kept = prepare(model, contract=Contract(inputs, outputs("p_spam", "p_ham")), sample=table["x"])
    numbered = LogisticRegression().fit(table["x"], table["binary"])
    in_order = prepare(numbered, contract=Contract(inputs, outputs("kept", "cancelled")), sample=table["x"])
    for prepared, order in ((kept, [1, 0]), (in_order, [0, 1])):
        bound = prepared.spec.options["binding"]["outputs"]
        assert [item["index"] for item in bound] == order


@pytest.mark.parametrize("fit", [RandomForestClassifier, ExtraTreesClassifier])
def test_a_value_that_may_be_missing_is_tried_missing(table, rebuild, fit) -> None:
    model = fit(20, max_depth=6, random_state=0).fit(table["x"], table["binary"])
    fields = tuple(Field(name, DataType.FLOAT64, optional=name in "ab") for name in "abcd")
    contract = Contract(Schema(fields), outputs("probability"))

    prepared = prepare(model, contract=contract, sample=table["x"])

    holes = table["x"][:50].copy()
    holes[:, 0] = np.nan
    own = model.predict_proba(holes)[:, 1]
    batch = Batch({name: holes[:, position] for position, name in enumerate("abcd")}, 50)
    np.testing.assert_allclose(rebuild(prepared).predict(batch)["probability"], own, atol=1e-4)
