"""Small ONNX graphs, written by hand."""

import numpy as np
from onnx import TensorProto, helper, numpy_helper

FLOAT, DOUBLE, HALF = TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16
INT32, INT64, BOOL, STRING = TensorProto.INT32, TensorProto.INT64, TensorProto.BOOL, TensorProto.STRING


def graph(inputs, outputs, nodes, weights=(), *, opset=17):
    """Return a model; inputs, outputs: (name, type, shape); nodes: (op, inputs, outputs, attributes)."""
    body = helper.make_graph(
        [helper.make_node(op, list(takes), list(gives), **kw) for op, takes, gives, kw in nodes],
        "g",
        [helper.make_tensor_value_info(*one) for one in inputs],
        [helper.make_tensor_value_info(*one) for one in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights],
    )
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def save(model, path):
    """Write a model and return its path."""
    path.write_bytes(model.SerializeToString())
    return path


def unary(op, kind, shape=(None, 2), *, gives=None, **attributes):
    """Return y = op(x)."""
    return graph([("x", kind, shape)], [("y", gives or kind, shape)], [(op, ["x"], ["y"], attributes)])
