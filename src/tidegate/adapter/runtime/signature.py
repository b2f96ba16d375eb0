"""What an ONNX graph takes and gives, read from the loaded session: no onnx package is needed."""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import onnxruntime as ort  # type: ignore[import-untyped]  # ships no types

from tidegate.adapter.runtime.session import ENGINE_ERRORS
from tidegate.contract.schema import DataType
from tidegate.core.error import InvalidSetting
from tidegate.predictor.binding import Signature, Tensor
from tidegate.predictor.independence import is_coupled

_TYPES = {
    "tensor(float)": DataType.FLOAT32,
    "tensor(double)": DataType.FLOAT64,
    "tensor(float16)": DataType.FLOAT16,
    "tensor(bool)": DataType.BOOL,
    "tensor(string)": DataType.STRING,
    **{
        f"tensor({name})": DataType(name)
        for name in ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
    },
}
_MAPPING = re.compile(r"seq\(map\((int64|string),tensor\(float\)\)\)\Z")
_TABLE_PRODUCERS = frozenset({"skl2onnx", "OnnxMLTools", "hummingbird"})

_PROBE_ROWS = 3
_PROBE_WIDTHS = (1, 8, 64)
"""For dimensions that a graph leaves open besides the first: the first of these that it takes."""
_PROBE_SEED = 20261121


def signature_of(session: ort.InferenceSession) -> Signature:
    """Describe a graph's inputs and outputs.

    It is batched if and only if the first dimension of each input and each output is free, and a row's
    answer does not depend on the rows beside it (see `tidegate.predictor.independence`).
    Where the graph leaves an output's shape open, a run on zeros and one on ones tell.

    Raises:
        InvalidSetting: It has an input or output that is not a dense tensor, or no input at all.
    """
    if not session.get_inputs():
        raise InvalidSetting(
            "The ONNX model takes no input, so there is nothing to predict from.",
            hint="Its inputs may have become constants when it was exported: export it again.",
        )
    free = all(node.shape and not isinstance(node.shape[0], int) for node in session.get_inputs())
    fixed = all(isinstance(dim, int) for node in session.get_inputs() for dim in node.shape[1:])
    runs = [_run(session, n_rows, value) for n_rows, value in ((1, 0), (2, 1))] if free else [None, None]
    outputs, batched = [], free
    for position, node in enumerate(session.get_outputs()):
        seen = [run[position] if run is not None else None for run in runs]
        tensor, follows = _output_tensor(node, seen, fixed=fixed)
        outputs.append(tensor)
        batched = batched and follows
    inputs = [Tensor(node.name, _type_of(node), _dims(node.shape)) for node in session.get_inputs()]
    coupled = batched and _is_coupled(session)
    if any(tensor.mapping for tensor in outputs) and (coupled or not batched):
        raise _refused_type("a sequence of maps with a fixed batch", "")
    whole = Signature(
        tuple(inputs),
        tuple(outputs),
        batched=False,
        column_inputs=session.get_modelmeta().producer_name in _TABLE_PRODUCERS,
        coupled=coupled,
    )
    return whole.of_rows() if batched and not coupled else whole


def _is_coupled(session: ort.InferenceSession) -> bool:
    """Ask a graph, with rows of noise, whether each is answered for itself; what fails tells nothing."""
    rng = np.random.default_rng(_PROBE_SEED)
    is_open = any(not isinstance(dim, int) for node in session.get_inputs() for dim in node.shape[1:])
    for width, noise in itertools.product(_PROBE_WIDTHS if is_open else (1,), (True, False)):
        feed = {}
        for node in session.get_inputs():
            shape = (_PROBE_ROWS, *(dim if isinstance(dim, int) else width for dim in node.shape[1:]))
            feed[node.name] = _probe(_type_of(node), shape, rng if noise else None)
        with contextlib.suppress(*ENGINE_ERRORS):
            return is_coupled(partial(_ask, session, feed), _PROBE_ROWS)
    return False


def _ask(session: ort.InferenceSession, feed: dict[str, Any], rows: slice) -> list[Any]:
    """Return what a graph answers to some rows; mappings from class to score as rows of scores."""
    answers = session.run(None, {name: column[rows] for name, column in feed.items()})
    return [
        np.array([list(row.values()) for row in answer]) if isinstance(answer, list) else answer
        for answer in answers
    ]


def _probe(kind: DataType, shape: tuple[int, ...], rng: np.random.Generator | None) -> Any:
    """Return rows that differ: noise, or what nearly every graph takes, whole rows of zeros and of ones."""
    if kind.is_text:
        return np.full(shape, "", object)
    if rng is None:
        ramp = (np.arange(shape[0]) % 2).reshape(-1, *[1] * (len(shape) - 1))
        return np.broadcast_to(ramp, shape).astype(kind.dtype)
    if kind.is_float:
        return rng.standard_normal(shape).astype(kind.dtype)
    return rng.integers(0, 2, shape).astype(kind.dtype)  # codes: every vocabulary has two


def _output_tensor(node: Any, seen: list[Any], *, fixed: bool) -> tuple[Tensor, bool]:
    """Return one output with its whole shape, and whether its first dimension follows the rows.

    Args:
        node: The graph's description of it.
        seen: What it was for one row of zeros and for two rows of ones; None where that failed.
        fixed: Each input has one free dimension, so whatever else stays the same is a width.
    """
    if _MAPPING.match(node.type):
        if seen[0] is None:
            raise _refused_type(node.type, node.name)
        classes = tuple(str(key) for key in seen[0][0])
        return Tensor(node.name, DataType.FLOAT32, (len(classes),), classes, mapping=True), True
    kind = _type_of(node)
    declared = _dims(node.shape)
    one, two = (None if run is None else np.shape(run) for run in seen)
    if one is None or two is None:
        return Tensor(node.name, kind, declared), bool(declared) and declared[0] is None
    # What a run shows goes before what the graph says: some converters write a first dimension of
    # [1] for labels that do follow the rows, others leave the shape out.
    follows = one[:1] == (1,) and two[:1] == (2,)
    if len(declared) != len(one):
        return Tensor(
            node.name, kind, tuple(a if a == b else None for a, b in zip(one, two, strict=False))
        ), follows
    # A free dimension that stays as it is when the rows double is a width that was not written down.
    narrowed = tuple(
        a if d is None and a == b and fixed else d for d, a, b in zip(declared, one, two, strict=True)
    )
    return Tensor(node.name, kind, narrowed), follows


def _run(session: ort.InferenceSession, n_rows: int, value: int) -> list[Any] | None:
    """Run on `n_rows` rows of one value (empty text); None where the graph does not take them."""
    feed = {}
    for node in session.get_inputs():
        kind = _type_of(node)
        shape = (n_rows, *(d if isinstance(d, int) else 1 for d in node.shape[1:]))
        feed[node.name] = np.full(shape, "", object) if kind.is_text else np.full(shape, value, kind.dtype)
    try:
        answers: list[Any] = session.run(None, feed)
    except ENGINE_ERRORS:  # only a look: a graph may refuse such values or widths of 1 and still be sound
        return None
    return answers


def _type_of(node: Any) -> DataType:
    kind = _TYPES.get(node.type)
    if kind is None:
        raise _refused_type(node.type, node.name)
    return kind


def _refused_type(kind: str, name: str) -> InvalidSetting:
    return InvalidSetting(
        f"The ONNX model's input or output {name!r} is {kind}, which a batch of columns cannot carry.",
        hint="Export it with dense tensors (scikit-learn: options={'zipmap': False}; no optional, "
        "sequence, sparse or bfloat16 values).",
        name=name,
    )


def _dims(shape: Sequence[int | str | None]) -> tuple[int | None, ...]:
    return tuple(dim if isinstance(dim, int) else None for dim in shape)
