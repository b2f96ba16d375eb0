"""What graphs take and give, read from the loaded session."""

import msgspec
import numpy as np
import pytest

from tests.adapter.runtime.graph import FLOAT, INT64, STRING, graph, save, unary
from tidegate.adapter.runtime.builder import BUILDERS
from tidegate.adapter.runtime.prepare import prepare
from tidegate.adapter.runtime.session import open_session
from tidegate.adapter.runtime.signature import signature_of
from tidegate.contract.batch import Batch
from tidegate.contract.schema import Contract, DataType, Field, Schema
from tidegate.core.error import InvalidSetting
from tidegate.predictor.binding import contract_from
from tidegate.predictor.protocol import BuildContext, Spec, build


def shapes(model):
    signature = signature_of(open_session(model.SerializeToString()))
    return (
        signature.batched,
        [t.row_shape for t in signature.inputs],
        [t.row_shape for t in signature.outputs],
    )


def test_a_graph_is_batched_where_every_first_dimension_is_free():
    assert shapes(unary("Abs", FLOAT, (None, 3))) == (True, [(3,)], [(3,)])
    assert shapes(unary("Abs", FLOAT, ("n", 3, 4))) == (True, [(3, 4)], [(3, 4)])
    assert shapes(unary("Abs", FLOAT, (1, 3))) == (False, [(1, 3)], [(1, 3)])
    assert shapes(unary("Abs", FLOAT, ())) == (False, [()], [()])


def test_one_fixed_output_makes_a_graph_unbatched():
    model = graph(
        [("x", FLOAT, (None, 3))],
        [("y", FLOAT, (None, 3)), ("total", FLOAT, (1,))],
        [
            ("Abs", ["x"], ["y"], {}),
            ("ReduceSum", ["x"], ["all"], {"keepdims": 0}),
            ("Reshape", ["all", "one"], ["total"], {}),
        ],
        [("one", np.array([1]))],
    )

    assert shapes(model)[0] is False


def test_a_width_that_the_graph_leaves_open_is_seen_by_running_it():
    model = graph(
        [("x", FLOAT, (None, 3))],
        [("y", FLOAT, (None, None))],
        [("MatMul", ["x", "w"], ["y"], {})],
        [("w", np.ones((3, 5), np.float32))],
    )

    assert shapes(model) == (True, [(3,)], [(5,)])
    assert shapes(unary("Abs", FLOAT, (None, None))) == (True, [(None,)], [(None,)])


def over_rows(name):
    """Return a graph that computes something over its rows."""
    x, y = [("x", FLOAT, (None, 2))], [("y", FLOAT, (None, 2))]
    axis = [("axis", np.array(0))]
    if name == "mean":
        mean = ("ReduceMean", ["x"], ["m"], {"axes": [0], "keepdims": 1})
        return graph(x, y, [mean, ("Sub", ["x", "m"], ["y"], {})])
    if name == "running sum":
        return graph(x, y, [("CumSum", ["x", "axis"], ["y"], {})], axis)
    if name == "share of all":
        return graph(x, y, [("Softmax", ["x"], ["y"], {"axis": 0})])
    products = [("Transpose", ["z"], ["t"], {}), ("MatMul", ["x", "t"], ["s"], {})]
    if name == "best of the other rows":
        best = ("ReduceMax", ["s"], ["y"], {"axes": [1], "keepdims": 0})
        return graph([*x, ("z", FLOAT, ("m", 2))], [("y", FLOAT, (None,))], [*products, best])
    same = ("Identity", ["x"], ["z"], {})
    return graph(x, [("y", FLOAT, (None, None))], [same, *products, ("Identity", ["s"], ["y"], {})])


@pytest.mark.parametrize("name", ["mean", "running sum", "share of all", "best of the other rows", "gram"])
def test_a_graph_whose_rows_influence_each_other_is_not_batched(name):
    signature = signature_of(open_session(over_rows(name).SerializeToString()))

    assert (signature.batched, signature.coupled) == (False, True)
    assert signature.inputs[0].row_shape == (None, 2), "the whole tensor"


def test_rounding_that_follows_the_number_of_rows_is_no_influence():
    weights = np.random.default_rng(0).normal(size=(512, 512)).astype(np.float32)
    deep = graph(
        [("x", FLOAT, (None, 512))],
        [("y", FLOAT, (None, 512))],
        [("MatMul", ["x", "w"], ["a"], {}), ("Tanh", ["a"], ["b"], {}), ("MatMul", ["b", "w"], ["y"], {})],
        [("w", weights)],
    )
    noisy = graph(
        [("x", FLOAT, (None, 2))],
        [("y", FLOAT, (None, 2))],
        [("RandomNormalLike", ["x"], ["r"], {}), ("Add", ["x", "r"], ["y"], {})],
    )

    assert shapes(deep)[0]
    assert shapes(noisy)[0], "it cannot be told"


def test_rows_of_a_graph_that_mixes_them_are_asked_one_by_one_where_the_contract_is_of_rows(tmp_path):
    path = save(over_rows("share of all"), tmp_path / "m.onnx")
    field = Field("x", DataType.FLOAT32, (2,))
    promise = Contract(Schema((field,)), Schema((Field("y", DataType.FLOAT32, (2,)),)))

    whole, rows = prepare(path), prepare(path, contract=promise)
    stored = msgspec.structs.replace(rows.spec, artifact="sha256:0")
    predictor = build(stored, BuildContext(promise, lambda digest: path), BUILDERS)
    answer = predictor.predict(Batch.of({"x": np.arange(6, dtype=np.float32).reshape(3, 2)}))

    assert (whole.contract.batched, whole.spec.row_by_row) == (False, False)
    assert rows.spec.row_by_row
    assert answer["y"].tolist() == [[1.0, 1.0]] * 3
    assert "influence each other" in whole.notes[0]
    assert "influence each other" in rows.notes[0]


def test_a_label_declared_as_one_value_follows_the_rows_where_it_does(tmp_path):
    # As onnxmltools writes LightGBM classifiers.
    model = graph(
        [("x", FLOAT, (None, 2))],
        [("label", INT64, (1,))],
        [("ArgMax", ["x"], ["label"], {"axis": 1, "keepdims": 0})],
    )

    assert shapes(model) == (True, [(2,)], [()])


def test_sequences_are_refused_with_the_way_out():
    model = graph(
        [("x", FLOAT, (None, 2))],
        [("y", FLOAT, (None, 2))],
        [("Identity", ["x"], ["y"], {}), ("SequenceConstruct", ["x"], ["s"], {})],
    )
    from onnx import helper

    model.graph.output.append(helper.make_tensor_sequence_value_info("s", FLOAT, None))

    with pytest.raises(InvalidSetting, match=r"'s' is seq.*which a batch of columns cannot carry"):
        signature_of(open_session(model.SerializeToString()))


def test_a_graph_without_any_input_is_refused():
    model = graph([], [("y", FLOAT, (1,))], [("Constant", [], ["y"], {"value_floats": [1.0]})])

    with pytest.raises(InvalidSetting, match="takes no input"):
        signature_of(open_session(model.SerializeToString()))


def test_a_model_file_alone_becomes_one_field_a_tensor(tmp_path):
    model = graph(
        [("input.1", FLOAT, (None, 3)), ("s", STRING, (None,))],
        [("y", FLOAT, (None, 3)), ("t", STRING, (None,))],
        [("Abs", ["input.1"], ["y"], {}), ("Identity", ["s"], ["t"], {})],
    )
    path = save(model, tmp_path / "m.onnx")

    contract, binding = contract_from(signature_of(open_session(path)))

    assert [(f.name, f.type, f.shape) for f in contract.input.fields] == [
        ("input_1", DataType.FLOAT32, (3,)),
        ("s", DataType.STRING, ()),
    ]
    predictor = build(
        Spec("onnx", "sha256:0", {"binding": binding.to_options()}),
        BuildContext(contract, lambda digest: path),
        BUILDERS,
    )
    answer = predictor.predict(
        Batch.of({"input_1": np.full((2, 3), -1, np.float32), "s": np.array(["a", "b"], object)})
    )
    assert answer["y"].tolist() == [[1.0] * 3] * 2
    assert answer["t"].tolist() == ["a", "b"]


@pytest.mark.parametrize("labels", [[0, 1], ["no", "yes"]])
def test_a_classifier_with_a_mapping_output_is_read_by_class(tmp_path, labels):
    from skl2onnx import to_onnx
    from sklearn.linear_model import LogisticRegression

    x = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)
    fitted = LogisticRegression().fit(
        x, np.array(labels, object if isinstance(labels[0], str) else None)[(x[:, 0] > 0).astype(int)]
    )
    path = tmp_path / "m.onnx"
    path.write_bytes(to_onnx(fitted, x[:1], target_opset=17).SerializeToString())
    promise = Contract(
        Schema((Field("x", DataType.FLOAT32, (3,)),)), Schema((Field("p", DataType.FLOAT64, ge=0, le=1),))
    )

    whole, _ = contract_from(signature_of(open_session(path)))
    predictor = build(Spec("onnx", "sha256:0"), BuildContext(promise, lambda digest: path), BUILDERS)
    answer = predictor.predict(Batch.of({"x": x}))["p"]

    np.testing.assert_allclose(answer, fitted.predict_proba(x)[:, 1], atol=1e-6)
    assert [(f.name, f.shape) for f in whole.output.fields] == [
        ("output_label", ()),
        ("output_probability", (2,)),
    ]
