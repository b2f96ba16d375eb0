"""Loading ONNX graphs into onnxruntime, and saying in words why one cannot be loaded."""

from __future__ import annotations

import mmap
import re
from collections.abc import Sequence
from pathlib import Path

import onnxruntime as ort  # type: ignore[import-untyped]  # ships no types
from onnxruntime.capi import (  # type: ignore[import-untyped]  # ships no types
    onnxruntime_pybind11_state as engine,
)

from tidegate.predictor.protocol import LoadError

ENGINE_ERRORS: tuple[type[Exception], ...] = (
    *(kind for kind in vars(engine).values() if isinstance(kind, type) and issubclass(kind, Exception)),
    RuntimeError,
    TypeError,
    ValueError,
)
"""What onnxruntime raises: its own exceptions have no common base, its bindings add Python's."""


def model_path(root: Path) -> Path:
    """Return the graph's file: `root` itself, or the one `.onnx` file of a folder.

    Raises:
        LoadError: The folder holds none or several.
    """
    if root.is_file():
        return root
    found = sorted(root.glob("*.onnx"))
    if len(found) != 1:
        raise LoadError(
            f"An ONNX artifact has exactly one .onnx file at its top; {root.name} has {len(found)}.",
            path=str(root),
        )
    return found[0]


def open_session(model: Path | bytes, *, n_threads: int = 1, spin: bool = False) -> ort.InferenceSession:
    """Load a graph for a process that shares its cores with others.

    Args:
        model: The `.onnx` file, or the folder that holds it and its external data, or the bytes of
            a graph that has no external data.
        n_threads: Threads within one call.
        spin: Idle threads busy-wait between operators: a little faster, at the price of a core.

    Raises:
        LoadError: It cannot be loaded; says why and what to do.
    """
    path = Path("model.onnx") if isinstance(model, bytes) else model_path(model)
    if isinstance(model, Path):
        _check_external_data(path, model if model.is_dir() else model.parent)
    ort.disable_telemetry_events()
    options = ort.SessionOptions()
    options.intra_op_num_threads = n_threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 4  # what fails is raised, and told here in words without any value
    spinning = "1" if spin and n_threads > 1 else "0"
    options.add_session_config_entry("session.intra_op.allow_spinning", spinning)
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    try:
        source = model if isinstance(model, bytes) else str(path)
        return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except ENGINE_ERRORS as error:
        raise _load_error(path, error) from error


_LOAD_HINTS: Sequence[tuple[str, str, str]] = (
    (
        r"Unsupported model IR version: (\d+), max supported IR version: (\d+)",
        "it was written with ONNX IR version {0}, and this onnxruntime reads up to {1}",
        "Export it with an older onnx package, lower model.ir_version, or update onnxruntime.",
    ),
    (
        r"Opset (\d+) is under development and support for this is limited.*domain \S+ is till opset (\d+)",
        "it uses operator set {0}, and this onnxruntime knows up to {1}",
        "Export it with a lower opset (target_opset, opset_version), or update onnxruntime.",
    ),
    (
        r"[Oo]pset (\d+)",
        "it uses operator set {0}, which this onnxruntime does not know",
        "Export it with a lower opset (target_opset, opset_version), or update onnxruntime.",
    ),
    (
        r"No Op registered for (\S+)|([\w.:]+)\(-?\d*\) is not a registered function/op",
        "it uses the operator {0}, which this onnxruntime does not know",
        "Export it with standard operators only.",
    ),
    (
        r"Could not find an implementation for (\w+)",
        "onnxruntime has no implementation of its operator {0} for these types",
        "Export it with float32 tensors, or with another opset.",
    ),
    (
        r"[Pp]rotobuf parsing failed|ModelProto does not have a graph",
        "it is not an ONNX model, or it is damaged",
        "Compare its size and checksum with the original, or export it again.",
    ),
    (
        r"[Ee]xternal data",
        "its external data cannot be used",
        "Keep every external data file beside the model, as a plain file with a relative name.",
    ),
)


def _load_error(path: Path, error: Exception) -> LoadError:
    text = str(error)
    for pattern, reason, hint in _LOAD_HINTS:
        match = re.search(pattern, text, re.DOTALL)
        if match:
            parts = [part for part in match.groups() if part is not None]
            return LoadError(
                f"The ONNX model {path.name} cannot be loaded: {reason.format(*parts)}.",
                hint=hint,
                path=str(path),
                engine=brief(text),
            )
    return LoadError(f"The ONNX model {path.name} cannot be loaded: {brief(text)}", path=str(path))


def brief(text: str) -> str:
    """Return an engine's message without its source locations, one line, bounded."""
    text = re.sub(r"\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text)
    text = re.sub(r"/\S+\.(?:cc|h|cpp):\d+ [^\n]*?\) ", "", text)
    return " ".join(text.split())[:400]


_LOCATION = b"\x0a\x08location\x12"  # field 1, 8 bytes, "location"; field 2: how protobuf writes the pair


def _bytes_of(path: Path) -> mmap.mmap | bytes:
    with path.open("rb") as file:
        try:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError:  # an empty file cannot be mapped
            return b""


def external_files(path: Path) -> list[str]:
    """Return the relative names of the files that a graph keeps weights in.

    Reads the bytes instead of the graph: the onnx package is not there where models are served.
    """
    data = _bytes_of(path)
    names: dict[str, None] = {}
    at = data.find(_LOCATION)
    while at >= 0:
        start = at + len(_LOCATION)
        length = data[start]
        start += 1
        if length >= 0x80:  # a second varint byte: names of 128 to 16383 bytes
            length = (length & 0x7F) | data[start] << 7
            start += 1
        names[bytes(data[start : start + length]).decode(errors="replace")] = None
        at = data.find(_LOCATION, start)
    return list(names)


def _check_external_data(path: Path, root: Path) -> None:
    """Refuse weights outside the artifact: they would be neither verified nor carried along."""
    for name in external_files(path):
        target = (path.parent / name).resolve()
        if not target.is_relative_to(root.resolve()):
            raise LoadError(
                f"The ONNX model {path.name} keeps weights outside its folder: {name!r}.",
                hint="Put the external data file beside the model, under a relative name.",
                path=str(path),
            )
        if not target.is_file():
            raise LoadError(
                f"The ONNX model {path.name} needs the external data file {name!r}, which is not there.",
                hint="Keep it beside the model; register the folder, not the file alone.",
                path=str(path),
            )
