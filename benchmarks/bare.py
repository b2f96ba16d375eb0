"""The model alone: what a call costs with no server around it, in a process of its own."""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

WARM_UP_SHARE = 0.2


class Bare(msgspec.Struct, frozen=True):
    """Back-to-back calls of one batch size.

    Attributes:
        batch: Rows a call.
        threads: Intra-op threads of the session.
        spinning: Whether idle threads of the session wait by spinning, onnxruntime's default.
        call_us: Median wall time of a call.
        cpu_us_per_row: CPU time of the process over rows.
        rows_per_cpu_s: Its inverse.
        rows_per_s: Rows over wall time.
    """

    batch: int
    threads: int
    spinning: bool
    call_us: float
    cpu_us_per_row: float
    rows_per_cpu_s: float
    rows_per_s: float


def measure(path: Path, *, batch: int, threads: int, seconds: float, spinning: bool = True) -> Bare:
    """Measure in a process of its own, started for it."""
    command = [sys.executable, "-m", "benchmarks.bare", str(path), "--batch", str(batch)]
    command += ["--threads", str(threads), "--seconds", str(seconds)]
    if not spinning:
        command.append("--no-spinning")
    done = subprocess.run(command, capture_output=True, check=True, cwd=Path(__file__).parent.parent)
    return msgspec.json.decode(done.stdout, type=Bare)


def _run(arguments: argparse.Namespace) -> Bare:
    import onnxruntime as ort  # type: ignore[import-untyped]  # ships no types

    options = ort.SessionOptions()
    options.intra_op_num_threads = arguments.threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if arguments.spinning else "0")
    session = ort.InferenceSession(arguments.path, options, providers=["CPUExecutionProvider"])
    facts = session.get_inputs()[0]
    rng = np.random.default_rng(0)
    feed = {facts.name: rng.standard_normal((arguments.batch, facts.shape[1])).astype(np.float32)}
    run, clock = session.run, time.perf_counter_ns
    end_ns = clock() + int(arguments.seconds * WARM_UP_SHARE * 1e9)
    while clock() < end_ns:
        run(None, feed)
    taken: list[int] = []
    cpu_s = time.process_time()
    began_ns = before_ns = clock()
    end_ns = began_ns + int(arguments.seconds * 1e9)
    while before_ns < end_ns:
        run(None, feed)
        now_ns = clock()
        taken.append(now_ns - before_ns)
        before_ns = now_ns
    cpu_s = time.process_time() - cpu_s
    n_rows = len(taken) * arguments.batch
    return Bare(
        batch=arguments.batch,
        threads=arguments.threads,
        spinning=arguments.spinning,
        call_us=float(np.median(taken)) / 1e3,
        cpu_us_per_row=cpu_s / n_rows * 1e6,
        rows_per_cpu_s=n_rows / cpu_s,
        rows_per_s=n_rows / ((before_ns - began_ns) / 1e9),
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bare")
    parser.add_argument("path")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--no-spinning", dest="spinning", action="store_false")
    print(msgspec.json.encode(_run(parser.parse_args(argv))).decode())


if __name__ == "__main__":
    main()
