"""The service a good engineer writes by hand: FastAPI, pydantic, onnxruntime, nothing else.

Run by uvicorn with two workers, uvloop, httptools and no access log. The endpoint is async, the answer
is a ready `Response` (returning a dict or a response model measured slower), and the session has one
thread, as two workers share two cores. It does less than Tidegate: nothing is counted, nothing is
journalled, no version is chosen.

Settings, from the environment because uvicorn starts the workers: BENCH_MODEL, path of an ONNX graph
with an input `x` [n, features] and one output [n, outputs]; BENCH_SHAPE, `named` (a JSON field a feature,
of which there must be 20) or `vector` (one field `x`); BENCH_SLOW, a file that makes every call take
twice as long while it is there, or nothing.
"""

from __future__ import annotations

import os
from typing import Annotated, Any

import numpy as np
import onnxruntime as ort  # type: ignore[import-untyped]  # ships no types
import orjson
from annotated_types import Len
from fastapi import FastAPI, Response
from pydantic import BaseModel


def _open_session(path: str) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


session = _open_session(os.environ["BENCH_MODEL"])
N_FEATURES: int = session.get_inputs()[0].shape[1]
SLOW = os.environ.get("BENCH_SLOW", "")
app = FastAPI(openapi_url=None)


class NamedRow(BaseModel):
    """A row with a field a feature."""

    f0: float
    f1: float
    f2: float
    f3: float
    f4: float
    f5: float
    f6: float
    f7: float
    f8: float
    f9: float
    f10: float
    f11: float
    f12: float
    f13: float
    f14: float
    f15: float
    f16: float
    f17: float
    f18: float
    f19: float


class VectorRow(BaseModel):
    """A row with all features in one field."""

    x: Annotated[list[float], Len(N_FEATURES, N_FEATURES)]


def _answer(row: list[float]) -> Response:
    if SLOW and os.path.exists(SLOW):  # noqa: PTH110 - the quickest way to ask
        session.run(None, {"x": np.array([row], dtype=np.float32)})
    outputs = session.run(None, {"x": np.array([row], dtype=np.float32)})[0][0]
    return Response(orjson.dumps({"prediction": outputs.tolist()}), media_type="application/json")


async def predict_named(row: NamedRow) -> Response:
    """Answer one row of named fields."""
    return _answer(list(row.__dict__.values()))


async def predict_vector(row: VectorRow) -> Response:
    """Answer one row that came as a vector."""
    return _answer(row.x)


app.post("/predict")(predict_vector if os.environ.get("BENCH_SHAPE") == "vector" else predict_named)
