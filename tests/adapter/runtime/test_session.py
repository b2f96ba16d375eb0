"""Loading graphs: what cannot be loaded, and how that is said."""

import numpy as np
import onnx
import pytest

from tests.adapter.runtime.graph import FLOAT, graph, save, unary
from tidegate.adapter.runtime.session import external_files, open_session
from tidegate.predictor.protocol import LoadError


def external(folder, location="weights.bin"):
    """Write a graph whose weights lie in a file of their own."""
    model = graph(
        [("x", FLOAT, (None, 300))],
        [("y", FLOAT, (None, 300))],
        [("Add", ["x", "w"], ["y"], {})],
        [("w", np.ones(300, np.float32))],
    )
    path = folder / "m.onnx"
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    if location != "weights.bin":
        loaded = onnx.load(path, load_external_data=False)
        loaded.graph.initializer[0].external_data[0].value = location
        path.write_bytes(loaded.SerializeToString())
    return path


def test_external_weights_beside_the_graph_are_found_and_used(tmp_path):
    path = external(tmp_path)

    assert external_files(path) == ["weights.bin"]
    for model in (path, tmp_path):
        answer = open_session(model).run(None, {"x": np.zeros((1, 300), np.float32)})[0]
        assert answer.tolist() == [[1.0] * 300]


@pytest.mark.parametrize("location", ["../weights.bin", "{outside}/weights.bin", "a/../../weights.bin"])
def test_external_weights_outside_the_folder_are_refused(tmp_path, location):
    inside = tmp_path / "inside"
    inside.mkdir()
    path = external(inside, location.format(outside=tmp_path))
    (inside / "weights.bin").rename(tmp_path / "weights.bin")

    with pytest.raises(LoadError, match="keeps weights outside its folder"):
        open_session(path)


def test_external_weights_behind_a_link_are_refused(tmp_path):
    inside = tmp_path / "inside"
    inside.mkdir()
    path = external(inside)
    (inside / "weights.bin").rename(tmp_path / "weights.bin")
    (inside / "weights.bin").symlink_to(tmp_path / "weights.bin")

    with pytest.raises(LoadError, match="outside its folder"):
        open_session(path)


def test_external_weights_that_are_missing_are_named(tmp_path):
    path = external(tmp_path)
    (tmp_path / "weights.bin").unlink()

    with pytest.raises(LoadError, match=r"needs the external data file 'weights\.bin'"):
        open_session(path)


def test_a_long_external_name_is_read_whole(tmp_path):
    name = "w" * 200 + ".bin"

    assert external_files(external(tmp_path, name)) == [name]


def changed(**fields):
    model = unary("Abs", FLOAT)
    if "ir" in fields:
        model.ir_version = fields["ir"]
    if "opset" in fields:
        model.opset_import[0].version = fields["opset"]
    if "op" in fields:
        model.graph.node[0].op_type = fields["op"]
    if "domain" in fields:
        model.graph.node[0].domain = fields["domain"]
        model.opset_import.add(domain=fields["domain"], version=1)
    return model.SerializeToString()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (changed(ir=99), "ONNX IR version 99, and this onnxruntime reads up to"),
        (changed(opset=99), "operator set 99, and this onnxruntime knows up to"),
        (changed(op="Nope"), "uses the operator Nope, which this onnxruntime does not know"),
        (changed(op="Own", domain="my.ops"), "uses the operator my.ops:Own"),
        (b"no graph at all" * 20, "not an ONNX model, or it is damaged"),
        (changed()[:-20], "not an ONNX model, or it is damaged|cannot be loaded"),
        (b"", "cannot be loaded"),
    ],
)
def test_a_graph_that_cannot_be_loaded_is_refused_in_words(tmp_path, data, message):
    path = tmp_path / "m.onnx"
    path.write_bytes(data)

    with pytest.raises(LoadError, match=message) as caught:
        open_session(path)

    assert "/onnxruntime_src" not in str(caught.value)


def test_a_graph_in_memory_is_loaded_too():
    answer = open_session(unary("Abs", FLOAT).SerializeToString()).run(None, {"x": np.full((1, 2), -1, "f4")})

    assert answer[0].tolist() == [[1.0, 1.0]]


def test_one_thread_means_that_nothing_spins(tmp_path):
    session = open_session(save(unary("Abs", FLOAT), tmp_path / "m.onnx"))

    options = session.get_session_options()
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (1, 1)
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
