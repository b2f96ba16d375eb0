import datetime as dt

import numpy as np
import pandas as pd
import polars as pl
import pytest

from tidegate.contract.field import DataType, Field
from tidegate.contract.infer import categories_of, columns_of, field_names, infer_fields, infer_schema
from tidegate.contract.validate import Validator
from tidegate.core.error import InvalidSetting

ROWS = 20


def inferred(**columns):
    return infer_schema(columns_of(columns)).fields


def only(values):
    (field,) = inferred(x=values)
    return field


@pytest.mark.parametrize(
    ("values", "field"),
    [
        (np.zeros(2), Field("x", DataType.FLOAT64)),
        (np.zeros(2, np.float32), Field("x", DataType.FLOAT32)),
        (np.zeros(2, np.uint8), Field("x", DataType.UINT8)),
        (np.array([0.0, np.nan]), Field("x", DataType.FLOAT64, optional=True)),
        (np.array([True]), Field("x", DataType.BOOL)),
        ([1, 2], Field("x", DataType.INT64)),
        ([1, None], Field("x", DataType.FLOAT64, optional=True)),
        ([True, False], Field("x", DataType.BOOL)),
        ([b"a"], Field("x", DataType.BYTES)),
        (["a", None], Field("x", DataType.STRING, optional=True)),
        (np.array(["2013-10-01"], "M8[D]"), Field("x", DataType.TIMESTAMP)),
        ([dt.datetime(2013, 10, 1, tzinfo=dt.UTC)], Field("x", DataType.TIMESTAMP)),
        ([dt.timedelta(1)], Field("x", DataType.DURATION)),
        (np.zeros((2, 3), np.float32), Field("x", DataType.FLOAT32, shape=(3,))),
        ([[1.0, 2.0], [3.0, 4.0]], Field("x", DataType.FLOAT64, shape=(2,))),
    ],
)
def test_type_comes_from_the_dtype(values, field):
    assert only(values) == field


def test_vectors_of_different_lengths_have_a_free_one():
    column = np.empty(2, dtype=object)
    column[:] = [np.zeros(2), np.zeros(3)]

    assert only(column) == Field("x", DataType.FLOAT64, shape=(None,))


def test_text_of_few_values_seen_often_is_a_category():
    assert only(["b", "a"] * 5) == Field("x", DataType.CATEGORY, categories=("a", "b"))


def test_text_seen_too_rarely_stays_text():
    assert only(["b", "a"] * 4).type is DataType.STRING
    assert only([str(number) for number in range(33)] * 10).type is DataType.STRING


def test_optional_category_keeps_its_values():
    field = only(["a", None] * 5)

    assert (field.type, field.categories, field.optional) == (DataType.CATEGORY, ("a",), True)


def test_a_frame_s_own_categories_are_taken_whole_and_in_order():
    values = ["small", "large", None]
    frames = [
        pd.DataFrame({"x": pd.Categorical(values, ["small", "middle", "large"])}),
        pl.DataFrame({"x": pl.Series(values, dtype=pl.Enum(["small", "middle", "large"]))}),
    ]

    for frame in frames:
        (one,) = infer_fields(columns_of(frame), categories=categories_of(frame))
        assert (one.field.type, one.field.categories) == (DataType.CATEGORY, ("small", "middle", "large"))
        assert one.field.optional


def test_too_many_categories_of_a_frame_are_open_ended():
    frame = pd.DataFrame({"x": pd.Categorical(["1", "2"] * 50, [str(number) for number in range(40)])})

    (one,) = infer_fields(columns_of(frame), categories=categories_of(frame))

    assert one.field.type is DataType.STRING


@pytest.mark.parametrize(
    "column",
    [
        pl.Series(["a", "b"] * 5, dtype=pl.Categorical),
        pl.Series(["a", "b"] * 5),
        pd.Series([1, 2] * 5, dtype="category"),
    ],
)
def test_a_column_without_categories_of_texts_has_none(column):
    frame = pd.DataFrame({"x": column}) if isinstance(column, pd.Series) else pl.DataFrame({"x": column})

    assert categories_of(frame) == {}


@pytest.mark.parametrize(
    ("frame", "words", "hint"),
    [
        (
            pd.DataFrame(np.ones((5, 3)), columns=["a", "a", "b"]),
            "Several columns have the name 'a'",
            "Rename",
        ),
        (pl.DataFrame({"a": [{"b": 1, "c": 2}] * 5}), "'a' is Struct", "unnest"),
        (pl.DataFrame({"a": [[{"b": 1}]] * 5}), "'a' is List.*Struct", "unnest"),
        (pl.LazyFrame({"a": [1]}), "a LazyFrame, which holds no rows yet", "collect"),
    ],
)
def test_a_frame_that_no_fields_can_hold_is_refused_in_words(frame, words, hint):
    with pytest.raises(InvalidSetting, match=words) as caught:
        columns_of(frame)

    assert hint in caught.value.hint


@pytest.mark.parametrize("values", [pd.array([True, None] * 5, "boolean"), pl.Series([True, None] * 5)])
def test_truth_values_with_gaps_are_refused_with_what_can_be_done(values):
    with pytest.raises(InvalidSetting, match="'x' holds NoneType, bool") as caught:
        only(values)

    assert ".astype(float)" in caught.value.hint


def test_range_is_not_inferred():
    assert not only(np.arange(5.0)).has_range


@pytest.mark.parametrize(
    "values",
    [
        np.zeros(1, complex),
        [object()],
        ["a", 1],
        [True, None],
        np.array(["2013-10-01", "NaT"], "M8[D]"),
        [None],
    ],
)
def test_column_that_no_field_can_hold_is_refused_by_name(values):
    with pytest.raises(InvalidSetting) as caught:
        only(values)

    assert "'x'" in caught.value.message


@pytest.mark.parametrize(
    "data",
    [
        pl.DataFrame({"sum": pl.Series([1, 2], dtype=pl.Int128)}),
        pl.DataFrame({"sum": pl.Series([[1], [2]], dtype=pl.List(pl.Int128))}),
        {"sum": pl.Series([1, None], dtype=pl.Int128)},
    ],
)
def test_integers_that_numpy_does_not_have_are_refused_by_name(data):
    with pytest.raises(InvalidSetting, match=r"Column 'sum' is .*Int128") as caught:
        columns_of(data)

    assert "Int64" in caught.value.hint


def test_names_become_identifiers_and_stay_distinct():
    sources = ["petal length (cm)", "petal-length cm", "ok", "1st", "class", "rows", "", "-", 7, "größe"]

    assert field_names(sources) == [
        "petal_length_cm",
        "petal_length_cm_2",
        "ok",
        "x_1st",
        "class_",
        "rows_",
        "feature_6",
        "feature_7",
        "x_7",
        "größe",
    ]


def test_renamed_column_says_where_it_came_from():
    (one,) = infer_fields({"petal length": np.zeros(1)})

    assert (one.source, one.field.name) == ("petal length", "petal_length")
    assert one.field.doc == "From the column 'petal length'."


FRAME = {
    "n": [1, 2] * ROWS,
    "x": [0.5, 1.5] * ROWS,
    "s": ["a", "b"] * ROWS,
    "flag": [True, False] * ROWS,
    "at": [dt.datetime(2013, 10, 1, 5), dt.datetime(2013, 10, 2, 5)] * ROWS,
}


@pytest.mark.parametrize(
    "frame",
    [
        pd.DataFrame(FRAME),
        pd.DataFrame(FRAME).assign(s=lambda f: f.s.astype("category"), n=lambda f: f.n.astype("Int64")),
        pd.DataFrame(FRAME).assign(at=lambda f: f["at"].dt.tz_localize("UTC")),
        pl.DataFrame(FRAME),
        pl.DataFrame(FRAME).with_columns(pl.col("s").cast(pl.Categorical)),
        pl.DataFrame(FRAME).with_columns(pl.col("at").dt.replace_time_zone("UTC")),
    ],
    ids=["pandas", "pandas extension types", "pandas zone", "polars", "polars categorical", "polars zone"],
)
def test_frames_of_pandas_and_polars_give_the_same_schema_and_batch(frame):
    columns = columns_of(frame)
    schema = infer_schema(columns)

    assert schema.fields == (
        Field("n", DataType.INT64),
        Field("x", DataType.FLOAT64),
        Field("s", DataType.CATEGORY, categories=("a", "b")),
        Field("flag", DataType.BOOL),
        Field("at", DataType.TIMESTAMP),
    )
    validator = Validator(schema)
    batch = validator.coerce(columns)
    assert validator.violations(batch) == []
    assert batch["at"][0] == 1_380_603_600_000_000


@pytest.mark.parametrize("frame", [pd.DataFrame, pl.DataFrame], ids=["pandas", "polars"])
def test_missing_values_of_frames_make_fields_optional(frame):
    columns = columns_of(frame({"x": [1.0, None], "s": ["a", None], "n": [1, None]}))

    assert [field.optional for field in infer_schema(columns).fields] == [True, True, True]
    assert columns["s"].tolist() == ["a", None]


def test_array_takes_given_names_or_numbers():
    array = np.zeros((2, 2), np.float32)

    assert list(columns_of(array, names=["a", "b"])) == ["a", "b"]
    assert list(columns_of(array)) == ["feature_0", "feature_1"]
    assert list(columns_of(np.zeros(3), prefix="y")) == ["y_0"]
    assert list(columns_of([[1, 2], [3, 4]])) == ["feature_0", "feature_1"]


@pytest.mark.parametrize("data", [np.zeros((2, 2, 2)), {}, {"a": []}, {"a": [1], "b": [1, 2]}, [[1], [1, 2]]])
def test_data_of_another_form_is_refused(data):
    with pytest.raises(InvalidSetting):
        columns_of(data)


def test_rows_of_numbers_and_text_keep_both():
    columns = columns_of([[1, "a"], [2, "b"]])

    assert [field.type for field in infer_schema(columns).fields] == [DataType.INT64, DataType.STRING]


def test_names_that_do_not_fit_are_refused():
    with pytest.raises(InvalidSetting, match="1 names for 2 columns"):
        columns_of(np.zeros((1, 2)), names=["a"])
