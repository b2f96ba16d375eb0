"""Case B as a Python function that can be made twice as slow while it serves, by a file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tidegate as tg
from benchmarks import model

CODE = '''"""Case B, run twice as often while the file {slow} is there."""

import os

import numpy as np
import onnxruntime as ort

options = ort.SessionOptions()
options.intra_op_num_threads = len(os.sched_getaffinity(0))
options.add_session_config_entry("session.intra_op.allow_spinning", "0")
session = ort.InferenceSession({path!r}, options, providers=["CPUExecutionProvider"])


def predict(columns):
    x = np.ascontiguousarray(columns["x"], dtype=np.float32)
    if os.path.exists({slow!r}):
        session.run(None, {{"x": x}})
    return {{"y": session.run(None, {{"x": x}})[0].astype(np.float64)}}
'''


class Row(tg.Input):
    """A row in one field."""

    x: list[float] = tg.vector(model.B_FEATURES)


class Score(tg.Output):
    """What the last layer gives."""

    y: list[float] = tg.vector(model.B_OUTPUTS)


service = tg.Service("case-b-slow", input=Row, output=Score)


@service.trainer
def train(data: Any, params: Mapping[str, Any]) -> tg.Trained:
    """Return the function that all servers under test run in their own way."""
    del data, params
    case = model.case_b()
    path = model.CACHE / "case_b_slow.py"
    path.write_text(CODE.format(path=str(case.path), slow=str(model.SLOW)))
    return tg.Trained(model=Path(path), sample={"x": case.rows(64)}, notes="benchmark case B, by a function")
