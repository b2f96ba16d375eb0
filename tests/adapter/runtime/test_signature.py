"""What graphs take and give, read from the loaded session."""

import numpy as np
import pytest

from tests.adapter.runtime.graph import FLOAT, INT64, STRING, graph, save, unary
from tidegate.adapter.runtime.builder import BUILDERS
from tidegate.adapter.runtime.session import open_session
from tidegate.adapter.runtime.signature import infer_contract, signature_of
from tidegate.contract.batch import Batch
from tidegate.contract.schema import Contract, DataType, Field, Schema
from tidegate.core.error import InvalidSetting
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

    contract, binding = infer_contract(path)

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

    whole, _ = infer_contract(path)
    predictor = build(Spec("onnx", "sha256:0"), BuildContext(promise, lambda digest: path), BUILDERS)
    answer = predictor.predict(Batch.of({"x": x}))["p"]

    np.testing.assert_allclose(answer, fitted.predict_proba(x)[:, 1], atol=1e-6)
    assert [(f.name, f.shape) for f in whole.output.fields] == [
        ("output_label", ()),
        ("output_probability", (2,)),
    ]
