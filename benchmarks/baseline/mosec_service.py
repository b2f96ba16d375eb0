"""Case B on Mosec with dynamic batching, as its documentation sets it up.

Settings from the environment, as the command line is Mosec's own: BENCH_MODEL, path of an ONNX graph
with an input `x` [n, features]; BENCH_WORKERS, number of worker processes, one thread each.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import onnxruntime as ort  # type: ignore[import-untyped]  # ships no types
from mosec import Server, Worker  # type: ignore[import-not-found]  # compared only where it is installed

MAX_BATCH = 64
MAX_WAIT_MS = 2


class Predict(Worker):  # type: ignore[misc]  # its base is untyped
    """Runs the graph on whatever rows were collected."""

    def __init__(self) -> None:
        super().__init__()
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        self.session = ort.InferenceSession(
            os.environ["BENCH_MODEL"], options, providers=["CPUExecutionProvider"]
        )

    def forward(self, data: list[Any]) -> list[Any]:
        """Answer a batch of `{"x": [...]}`."""
        rows = np.array([each["x"] for each in data], dtype=np.float32)
        outputs = self.session.run(None, {"x": rows})[0]
        return [{"prediction": row} for row in outputs.tolist()]


if __name__ == "__main__":
    server = Server()
    server.append_worker(
        Predict,
        num=int(os.environ.get("BENCH_WORKERS", "2")),
        max_batch_size=MAX_BATCH,
        max_wait_time=MAX_WAIT_MS,
    )
    server.run()
