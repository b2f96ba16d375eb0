"""The two models that everything is measured on, made once and kept.

Case A: gradient boosting, 100 trees of 31 leaves, 20 float features; microseconds a row.
Case B: a perceptron 64 -> 8 x 2048 -> 10; milliseconds a row, and a batch costs hardly more.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

CACHE = Path(__file__).parent / ".cache"
SLOW = CACHE / "slow"
"""While this file is there, the model that can be slowed down takes twice as long."""
SEED = 20261120
A_FEATURES, A_TREES, A_LEAVES, A_ROWS = 20, 100, 31, 20_000
B_FEATURES, B_WIDTH, B_LAYERS, B_OUTPUTS = 64, 2048, 8, 10
OPSET, IR_VERSION = 15, 8


class Model(msgspec.Struct, frozen=True):
    """A graph with one float32 input `x` of shape [n, features] and one output of shape [n, outputs].

    Attributes:
        name: What a server calls the service.
        path: Where the ONNX file is.
        n_features: Length of a row.
    """

    name: str
    path: Path
    n_features: int

    def rows(self, n_rows: int) -> npt.NDArray[np.float64]:
        """Return rows to ask about, shape (n_rows, n_features), the same at every call.

        Four decimals each, as such values come in JSON.
        """
        rng = np.random.default_rng(SEED + 1)
        return np.round(rng.standard_normal((n_rows, self.n_features)), 4)


def case_a() -> Model:
    """Return case A, trained with LightGBM on generated data at the first call."""
    return Model("case-a", _cached("case-a.onnx", _train_boosting), A_FEATURES)


def case_b() -> Model:
    """Return case B, random weights scaled so that activations keep their size."""
    return Model("case-b", _cached("case-b.onnx", lambda: _build_perceptron(None)), B_FEATURES)


def case_b_single() -> Model:
    """Return case B with a first dimension of 1 in the graph: a model that cannot be batched."""
    return Model("case-b-single", _cached("case-b-single.onnx", lambda: _build_perceptron(1)), B_FEATURES)


def case_b_slow() -> Model:
    """Return case B as the service that can be slowed down runs it."""
    return Model("case-b-slow", case_b().path, B_FEATURES)


def _cached(name: str, build: Callable[[], bytes]) -> Path:
    path = CACHE / name
    if not path.exists():
        CACHE.mkdir(exist_ok=True)
        draft = path.with_name(f"{name}.{os.getpid()}")
        draft.write_bytes(build())
        draft.rename(path)
    return path


def _train_boosting() -> bytes:
    import lightgbm
    from onnxmltools.convert import convert_lightgbm  # type: ignore[import-untyped]  # ships no types
    from onnxmltools.convert.common.data_types import FloatTensorType  # type: ignore[import-untyped]  # the same

    rng = np.random.default_rng(SEED)
    x = rng.standard_normal((A_ROWS, A_FEATURES))
    y = x[:, 0] * x[:, 1] + np.sin(2 * x[:, 2]) + x[:, 3:].mean(axis=1) + 0.1 * rng.standard_normal(A_ROWS)
    booster = lightgbm.train(
        {
            "objective": "regression",
            "num_leaves": A_LEAVES,
            "learning_rate": 0.1,
            "seed": SEED,
            "deterministic": True,
            "num_threads": 1,
            "verbose": -1,
        },
        lightgbm.Dataset(x, y),
        num_boost_round=A_TREES,
    )
    graph = convert_lightgbm(
        booster, initial_types=[("x", FloatTensorType([None, A_FEATURES]))], target_opset=OPSET
    )
    content: bytes = graph.SerializeToString()
    return content


def _build_perceptron(n_rows: int | None) -> bytes:
    from onnx import TensorProto, checker, helper, numpy_helper

    rng = np.random.default_rng(SEED)
    sizes = [B_FEATURES, *[B_WIDTH] * B_LAYERS, B_OUTPUTS]
    nodes: list[Any] = []
    weights: list[Any] = []
    last = "x"
    for i, (n_in, n_out) in enumerate(itertools.pairwise(sizes)):
        is_last = i == len(sizes) - 2
        scale = np.float32(np.sqrt(2 / n_in))
        weights.append(
            numpy_helper.from_array(rng.standard_normal((n_in, n_out), dtype=np.float32) * scale, f"w{i}")
        )
        weights.append(numpy_helper.from_array(np.zeros(n_out, np.float32), f"b{i}"))
        result = "y" if is_last else f"h{i}"
        nodes.append(helper.make_node("Gemm", [last, f"w{i}", f"b{i}"], [result]))
        if not is_last:
            nodes.append(helper.make_node("Relu", [result], [f"r{i}"]))
            last = f"r{i}"
    first = "n" if n_rows is None else n_rows
    graph = helper.make_graph(
        nodes,
        "perceptron",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [first, B_FEATURES])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [first, B_OUTPUTS])],
        weights,
    )
    model = helper.make_model(graph, ir_version=IR_VERSION, opset_imports=[helper.make_opsetid("", OPSET)])
    checker.check_model(model)
    content: bytes = model.SerializeToString()
    return content
