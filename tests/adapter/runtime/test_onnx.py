"""ONNX graphs behind contracts: types, shapes, batches, faults."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.adapter.runtime.graph import (
    BOOL,
    DOUBLE,
    FLOAT,
    HALF,
    INT32,
    INT64,
    STRING,
    graph,
    save,
    unary,
)
from tidegate.adapter.runtime.builder import BUILDERS
from tidegate.adapter.runtime.onnx import OnnxPredictor
from tidegate.adapter.runtime.session import open_session
from tidegate.adapter.runtime.signature import signature_of
from tidegate.contract.batch import Batch
from tidegate.contract.schema import Contract, DataType, Field, Schema
from tidegate.core.error import InvalidSetting
from tidegate.predictor.binding import bind, contract_from
from tidegate.predictor.protocol import BuildContext, LoadError, PredictorError, Spec, build


def open_graph(path, contract=None, **options):
    contract = contract or contract_from(signature_of(open_session(path)))[0]
    spec = Spec("onnx", "sha256:0", options)
    return build(spec, BuildContext(contract, lambda digest: path), BUILDERS)


@pytest.mark.parametrize(
    ("kind", "op", "values", "expected"),
    [
        (FLOAT, "Abs", np.array([[-1.5, 2]], np.float32), [[1.5, 2]]),
        (DOUBLE, "Abs", np.array([[-1.5, 2]], np.float64), [[1.5, 2]]),
        (HALF, "Abs", np.array([[-1.5, 2]], np.float16), [[1.5, 2]]),
        (INT32, "Abs", np.array([[-1, 2]], np.int32), [[1, 2]]),
        (INT64, "Abs", np.array([[-1, 2**60]], np.int64), [[1, 2**60]]),
        (BOOL, "Not", np.array([[True, False]]), [[False, True]]),
        (STRING, "Identity", np.array([["é", ""]], object), [["é", ""]]),
    ],
)
def test_every_element_type_goes_through(tmp_path, kind, op, values, expected):
    predictor = open_graph(save(unary(op, kind), tmp_path / "m.onnx"))

    for _ in range(3):  # plain, then through kept buffers
        answer = predictor.predict(Batch({"x": values}, 1))["y"]

        assert answer.tolist() == expected
        assert answer.dtype == values.dtype


@pytest.fixture(scope="module")
def linear(tmp_path_factory):
    """y = x @ [1, 10] as a column, and the same twice: row shape (1,) and (2,)."""
    model = graph(
        [("x", FLOAT, (None, 2))],
        [("y", FLOAT, (None, 1)), ("pair", FLOAT, (None, 2))],
        [("MatMul", ["x", "w"], ["y"], {}), ("Concat", ["y", "y"], ["pair"], {"axis": 1})],
        [("w", np.array([[1.0], [10.0]], np.float32))],
    )
    return save(model, tmp_path_factory.mktemp("linear") / "m.onnx")


TWO = Schema((Field("a", DataType.FLOAT64), Field("b", DataType.INT16)))
SUM = Contract(TWO, Schema((Field("y", DataType.FLOAT64),)))


def two(a, b):
    return Batch.of({"a": np.array(a, np.float64), "b": np.array(b, np.int16)})


@settings(max_examples=40)
@given(
    rows=st.lists(st.tuples(st.integers(-99, 99), st.integers(-99, 99)), min_size=1, max_size=150),
    limit=st.sampled_from([0, 1, 7, 64]),
)
def test_any_batch_equals_its_rows_alone_however_it_is_split(linear, rows, limit):
    predictor = open_graph(linear, SUM, max_rows_per_call=limit)
    a, b = zip(*rows, strict=True)

    answers = [predictor.predict(two(a, b))["y"] for _ in range(2)]

    expected = [one + 10.0 * other for one, other in rows]
    assert [answer.tolist() for answer in answers] == [expected, expected]
    assert answers[0].dtype == np.float64


def test_an_answer_does_not_change_when_its_buffers_are_used_again(linear):
    predictor = open_graph(linear, SUM)
    predictor.warm_up()

    first = predictor.predict(two([1], [1]))["y"]
    predictor.predict(two([2], [2]))

    assert first.tolist() == [11.0]


def test_blocks_and_columns_give_the_same(linear):
    predictor = open_graph(
        linear, Contract(Schema(tuple(Field(n, DataType.FLOAT32) for n in "ab")), SUM.output)
    )
    block = np.array([[1, 2], [3, 4]], np.float32)
    columns = {"a": block[:, 0], "b": block[:, 1]}

    for batch in (Batch(columns, 2, blocks=[(("a", "b"), block)]), Batch(columns, 2)) * 2:
        assert predictor.predict(batch)["y"].tolist() == [21.0, 43.0]


def test_a_value_beyond_float32_becomes_infinite(linear):
    predictor = open_graph(linear, SUM)

    for _ in range(3):
        assert predictor.predict(two([1e300], [0]))["y"].tolist() == [np.inf]


def test_a_probability_is_the_positive_class_without_its_rounding(tmp_path):
    model = graph(
        [("x", FLOAT, (None, 1))],
        [("label", INT64, (None,)), ("probabilities", FLOAT, (None, 2))],
        [
            ("Sub", ["one", "x"], ["rest"], {}),
            ("Concat", ["rest", "x"], ["probabilities"], {"axis": 1}),
            ("ArgMax", ["probabilities"], ["label"], {"axis": 1, "keepdims": 0}),
        ],
        [("one", np.array([1.0], np.float32))],
    )
    promise = Contract(
        Schema((Field("x", DataType.FLOAT32),)), Schema((Field("p", DataType.FLOAT64, ge=0, le=1),))
    )
    predictor = open_graph(save(model, tmp_path / "m.onnx"), promise)
    given_ = np.array([0.25, 1.0000001, -1e-8, 1.5, -0.5], np.float32)

    for _ in range(2):
        answer = predictor.predict(Batch({"x": given_}, 5))["p"]
        alone = [predictor.predict(Batch({"x": given_[row : row + 1]}, 1))["p"][0] for row in range(5)]

        assert answer.tolist() == alone == [0.25, 1.0, 0.0, 1.5, -0.5]


def test_text_and_numbers_as_columns_of_a_table(tmp_path):
    model = graph(
        [("s", STRING, (None, 1)), ("n", FLOAT, (None, 1))],
        [("t", STRING, (None, 1)), ("m", FLOAT, (None, 1))],
        [("Identity", ["s"], ["t"], {}), ("Neg", ["n"], ["m"], {})],
    )
    promise = Contract(
        Schema((Field("n", DataType.FLOAT64), Field("s", DataType.STRING, optional=True))),
        Schema((Field("t", DataType.STRING), Field("m", DataType.FLOAT64))),
    )
    predictor = open_graph(save(model, tmp_path / "m.onnx"), promise)
    predictor.warm_up()

    answer = predictor.predict(Batch.of({"n": np.array([1.0, 2.0]), "s": np.array(["a", None], object)}))

    assert answer["t"].tolist() == ["a", ""]
    assert answer["m"].tolist() == [-1.0, -2.0]


def test_bytes_go_through_as_text_of_the_model(tmp_path):
    promise = Contract(Schema((Field("x", DataType.BYTES),)), Schema((Field("y", DataType.BYTES),)))
    predictor = open_graph(save(unary("Identity", STRING, (None,)), tmp_path / "m.onnx"), promise)

    assert predictor.predict(Batch.of({"x": np.array([b"a", "é".encode()], object)}))["y"].tolist() == [
        b"a",
        "é".encode(),
    ]
    with pytest.raises(PredictorError, match=r"UnicodeDecodeError|utf-8"):
        predictor.predict(Batch.of({"x": np.array([b"\xff"], object)}))


def test_rows_of_differing_length_are_run_by_shape_and_put_back_in_order(tmp_path):
    model = graph(
        [("x", FLOAT, (None, "n"))],
        [("y", FLOAT, (None, "n")), ("total", FLOAT, (None, 1))],
        [("Neg", ["x"], ["y"], {}), ("ReduceSum", ["x", "axes"], ["total"], {"keepdims": 1})],
        [("axes", np.array([1]))],
    )
    predictor = open_graph(save(model, tmp_path / "m.onnx"))
    rows = np.empty(4, object)
    rows[:] = [np.arange(length, dtype=np.float32) for length in (3, 1, 3, 2)]

    answer = predictor.predict(Batch.of({"x": rows}))

    assert [row.tolist() for row in answer["y"]] == [(-row).tolist() for row in rows]
    assert answer["total"].reshape(-1).tolist() == [3.0, 0.0, 3.0, 1.0]


def test_a_graph_of_fixed_first_dimension_is_run_once_a_row(tmp_path):
    path = save(unary("Neg", FLOAT, (1, 2)), tmp_path / "m.onnx")
    inferred, _ = contract_from(signature_of(open_session(path)))

    answer = open_graph(path).predict(Batch.of({"x": np.arange(6, dtype=np.float32).reshape(3, 1, 2)}))

    assert not inferred.batched
    assert inferred.input.fields[0].shape == (1, 2)
    assert answer["y"].tolist() == [[[0, -1]], [[-2, -3]], [[-4, -5]]]


def test_a_graph_of_single_values_is_run_once_a_row(tmp_path):
    path = save(unary("Neg", FLOAT, ()), tmp_path / "m.onnx")

    answer = open_graph(path).predict(Batch.of({"x": np.arange(3, dtype=np.float32)}))

    assert answer["y"].tolist() == [0, -1, -2]


def test_an_output_whose_shape_follows_values_is_still_answered(tmp_path):
    model = graph(
        [("x", INT64, (None, 1))],
        [("y", INT64, (None, None))],
        [
            ("ReduceMax", ["x"], ["wide"], {"keepdims": 0}),
            ("Unsqueeze", ["wide", "zero"], ["width"], {}),
            ("Concat", ["one", "width"], ["shape"], {"axis": 0}),
            ("Expand", ["x", "shape"], ["y"], {}),
        ],
        [("zero", np.array([0])), ("one", np.array([1]))],
    )
    promise = Contract(Schema((Field("x", DataType.INT64),)), Schema((Field("y", DataType.INT64, (None,)),)))
    predictor = open_graph(save(model, tmp_path / "m.onnx"), promise)

    for width in (2, 2, 3, 1):
        assert predictor.predict(Batch.of({"x": np.array([width])}))["y"][0].tolist() == [width] * width


def test_labels_declared_as_one_value_are_answered_for_any_number_of_rows(tmp_path):
    # As onnxmltools writes LightGBM classifiers: onnxruntime refuses a buffer for them.
    model = graph(
        [("x", FLOAT, (None, 2))],
        [("label", INT64, (1,))],
        [("ArgMax", ["x"], ["label"], {"axis": 1, "keepdims": 0})],
    )
    predictor = open_graph(save(model, tmp_path / "m.onnx"))
    x = np.array([[0, 1], [1, 0], [0, 1]], np.float32)

    answers = [predictor.predict(Batch.of({"x": x[:n]}))["label"].tolist() for n in (1, 3, 1, 2)]

    assert answers == [[1], [1, 0, 1], [1], [1, 0]]


def test_an_output_of_another_shape_than_promised_is_an_error_in_words(tmp_path):
    path = save(unary("Abs", FLOAT, (None, None)), tmp_path / "m.onnx")
    promise = Contract(
        Schema((Field("x", DataType.FLOAT32, (None,)),)), Schema((Field("y", DataType.FLOAT32, (3,)),))
    )
    rows = np.empty(1, object)
    rows[0] = np.zeros(2, np.float32)

    with pytest.raises(PredictorError, match=r"'y' has shape \[1, 2\].*'y' needs one value of shape \[3\]"):
        open_graph(path, promise).predict(Batch.of({"x": rows}))


def division(tmp_path):
    model = graph(
        [("x", INT32, (None, 1))],
        [("y", INT32, (None, 1))],
        [("Gather", ["table", "x"], ["g"], {"axis": 0}), ("Identity", ["g"], ["y"], {})],
        [("table", np.array([5, 6], np.int32))],
    )
    return save(model, tmp_path / "m.onnx")


@pytest.mark.parametrize("sensitive", [False, True])
def test_a_call_that_fails_is_a_predictor_error_and_the_next_one_works(tmp_path, sensitive):
    promise = Contract(
        Schema((Field("x", DataType.INT32, sensitive=sensitive),)), Schema((Field("y", DataType.INT32),))
    )
    predictor = open_graph(division(tmp_path), promise)

    for _ in range(3):
        with pytest.raises(PredictorError) as caught:
            predictor.predict(Batch.of({"x": np.array([77], np.int32)}))
        assert ("77" in str(caught.value)) is not sensitive
        assert "onnxruntime" in str(caught.value)
        assert predictor.predict(Batch.of({"x": np.array([1], np.int32)}))["y"].tolist() == [6]


def test_a_closed_predictor_has_given_its_buffers_back(linear):
    predictor = open_graph(linear, SUM)
    predictor.warm_up()
    assert predictor._kept

    predictor.close()

    assert not predictor._kept


def test_a_spec_without_an_artifact_is_refused():
    with pytest.raises(LoadError, match="needs an artifact"):
        build(Spec("onnx"), BuildContext(SUM, lambda digest: Path()), BUILDERS)


def test_several_onnx_files_in_an_artifact_leave_doubt(tmp_path, linear):
    (tmp_path / "a.onnx").write_bytes(linear.read_bytes())
    assert open_graph(tmp_path, SUM).predict(two([1], [1]))["y"].tolist() == [11.0]
    (tmp_path / "b.onnx").write_bytes(b"")

    with pytest.raises(LoadError, match=r"exactly one .onnx file"):
        open_graph(tmp_path, SUM)


def test_a_binding_is_worked_out_where_none_is_stored(linear):
    stored = bind(SUM, signature_of(open_session(linear)))

    predictor = OnnxPredictor(open_session(linear), SUM, stored)

    assert predictor.predict(two([2], [1]))["y"].tolist() == [12.0]
    with pytest.raises(InvalidSetting, match="cannot be read"):
        open_graph(linear, SUM, binding={"inputs": []})
