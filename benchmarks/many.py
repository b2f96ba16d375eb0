"""Thousands of small models on one server within a bound of memory, asked as popularity is: by Zipf's law.

8,000 perceptrons 20 -> 16 -> 1, each a service; two workers may take 512 MB together. Set
`BENCH_MANY_MODELS` for another number.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from benchmarks.load import HOST, Target
from benchmarks.measure import Goal, Options, Report, Table
from benchmarks.model import CACHE, IR_VERSION, OPSET, SEED
from benchmarks.process import Server, free_port, listens, memory, program, run_once

N_FEATURES, WIDTH = 20, 16
N_MODELS = int(os.environ.get("BENCH_MANY_MODELS", "8000"))
MEMORY_MB = 512
N_CONNECTIONS = 8
ZIPF = 1.0
N_HOT = 50
REST_S = 10.0
COLD_LIMIT_MS, HIT_FACTOR = 50.0, 1.25


class Answered(msgspec.Struct, frozen=True):
    """One request: which model it was for, its status and how long it took."""

    model: int
    status: int
    took_ms: float


class Watched(msgspec.Struct):
    """What was seen of the workers' memory while something ran, MB of 10^6 bytes."""

    most_pss_mb: float = 0.0
    n_looks: int = 0


def write_models(folder: Path, count: int) -> None:
    """Write `count` different models."""
    folder.mkdir(parents=True)
    for number in range(count):
        rng = np.random.default_rng(SEED + number)
        weights = {
            "w": rng.normal(size=(N_FEATURES, WIDTH)),
            "b": rng.normal(size=WIDTH),
            "v": rng.normal(size=(WIDTH, 1)),
            "c": rng.normal(size=1),
        }
        graph = helper.make_graph(
            [
                helper.make_node("Gemm", ["x", "w", "b"], ["h"]),
                helper.make_node("Relu", ["h"], ["r"]),
                helper.make_node("Gemm", ["r", "v", "c"], ["z"]),
                helper.make_node("Sigmoid", ["z"], ["y"]),
            ],
            "many",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", N_FEATURES])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 1])],
            [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
        )
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
        onnx.save(made, str(folder / f"m{number}.onnx"))


def request(model: int) -> bytes:
    """Return the request for one row of one model."""
    body = msgspec.json.encode({"x": [round(0.1 * value, 1) for value in range(N_FEATURES)]})
    head = f"POST /services/m{model}/predict HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


async def ask_each(port: int, models: Sequence[int]) -> list[Answered]:
    """Ask for one model after another over one connection."""
    reader, writer = await asyncio.open_connection(HOST, port)
    found = []
    try:
        for model in models:
            began_s = time.perf_counter()
            writer.write(request(model))
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
            await reader.readexactly(length)
            took_ms = (time.perf_counter() - began_s) * 1e3
            found.append(Answered(model, int(head[9:12]), took_ms))
    finally:
        writer.close()
    return found


async def ask_all(
    port: int, streams: Sequence[Sequence[int]], workers: Sequence[int]
) -> tuple[list[Answered], Watched]:
    """Ask over one connection a stream, all at once, and look at the workers' memory meanwhile."""
    asked = asyncio.gather(*(ask_each(port, stream) for stream in streams))
    watched = Watched()
    while not asked.done():
        sizes = [found.pss_mb for pid in workers if (found := memory(pid)) is not None]
        watched.most_pss_mb = max(watched.most_pss_mb, sum(sizes))
        watched.n_looks += 1
        await asyncio.wait([asked], timeout=0.5)
    return [one for stream in await asked for one in stream], watched


def zipf(rng: np.random.Generator, n_models: int, count: int) -> list[int]:
    """Draw models, the k-th most popular one with a probability that goes as 1/k."""
    weights = 1.0 / np.arange(1, n_models + 1) ** ZIPF
    return [int(each) for each in rng.choice(n_models, size=count, p=weights / weights.sum())]


def p50(found: Sequence[Answered]) -> float:
    """Return the median latency, milliseconds."""
    return statistics.median(one.took_ms for one in found)


def prepared_home(n_models: int) -> tuple[Path, float]:
    """Return a home in which the models are registered and deployed, and how long that took, seconds."""
    folder = CACHE / f"many-{n_models}"
    home, note = folder / "home", folder / "took"
    if not note.exists():
        shutil.rmtree(folder, ignore_errors=True)
        write_models(folder / "models", n_models)
        began_s = time.monotonic()
        code = (
            "import sys; from pathlib import Path; from tidegate.bootstrap.local import Local; "
            "from tidegate.bootstrap.setting import Settings; from tidegate.bootstrap.start import "
            "prepare_folder; prepare_folder(Local(Settings(home=sys.argv[1])), Path(sys.argv[2]))"
        )
        run_once([program("python"), "-c", code, str(home), str(folder / "models")], {})
        note.write_text(str(time.monotonic() - began_s))
    for left in ("journal", "run", "metrics", "records"):  # each run begins without what one before has left
        shutil.rmtree(home / left, ignore_errors=True)
    return home, float(note.read_text())


def serve(home: Path, workers: int, memory_mb: int) -> tuple[Server, int]:
    """Return a server that is not started yet, and its port."""
    port, control_port = free_port(), free_port()
    command = [program("tidegate"), "up", "--home", str(home), "--workers", str(workers)]
    command += ["--port", str(port), "--control-port", str(control_port)]
    environment = {"TIDEGATE_MEMORY_MB": str(memory_mb)}
    return Server(command, log=CACHE / f"many-{home.parent.name}.log", environment=environment), port


def run(options: Options) -> Iterator[Report]:
    """Measure many models beside one."""
    n_models, memory_mb = (400, 220) if options.short else (N_MODELS, MEMORY_MB)
    rounds, count = options.rounds, 400 if options.short else 6000
    home, took_s = prepared_home(n_models)
    alone, _ = prepared_home(1)
    many_server, port = serve(home, options.workers, memory_mb)
    one_server, one_port = serve(alone, options.workers, memory_mb)
    rng = np.random.default_rng(SEED)
    with many_server as server, one_server as other:
        body = request(0).partition(b"\r\n\r\n")[2]
        up_s = server.wait_right(Target(port, "/services/m0/predict", (body,)), lambda sent, got: True)
        other.wait_right(Target(one_port, "/services/m0/predict", (body,)), lambda sent, got: True)
        workers = [pid for pid in server.tree() if listens(pid, port)]
        first = asyncio.run(ask_each(port, range(n_models - 1, n_models - 201, -1)))
        found = Found(n_models, memory_mb, took_s, up_s, first)
        for _ in range(rounds):
            streams = [zipf(rng, n_models, count) for _ in range(N_CONNECTIONS)]
            got, seen = asyncio.run(ask_all(port, streams, workers))
            found.answered += got
            found.watched.append(seen)
            hot = [number % N_HOT for number in range(1000)]
            time.sleep(
                0.0 if options.short else REST_S
            )  # the ledger counts the traffic yet, on the same cores
            asyncio.run(ask_each(port, hot[:N_HOT] * 4))
            found.hits_ms.append(p50(asyncio.run(ask_each(port, hot))))
            found.single_ms.append(p50(asyncio.run(ask_each(one_port, [0] * 1000))))
    yield _report(found)


class Found(msgspec.Struct):
    """All that was measured.

    Attributes:
        n_models: Models on the server.
        memory_mb: What the workers may take.
        registered_s: How long registering and deploying took.
        up_s: From the command to the first answer.
        first: Requests for models that nobody had asked for.
        answered: Requests by Zipf's law.
        watched: Memory, by round.
        hits_ms: Median latency of hot models, by round.
        single_ms: The same of a server with one model.
    """

    n_models: int
    memory_mb: int
    registered_s: float
    up_s: float
    first: list[Answered]
    answered: list[Answered] = []
    watched: list[Watched] = []
    hits_ms: list[float] = []
    single_ms: list[float] = []


def _report(found: Found) -> Report:
    failed = sum(one.status != 200 for one in [*found.first, *found.answered])
    most_mb = max(each.most_pss_mb for each in found.watched)
    ratio = statistics.median(a / b for a, b in zip(found.hits_ms, found.single_ms, strict=True))
    slow = sum(one.took_ms > 2 * statistics.median(found.hits_ms) + 2 for one in found.answered)
    rows = [
        ["models", f"{found.n_models:,}"],
        ["registered and deployed, ms each", f"{1e3 * found.registered_s / found.n_models:.1f}"],
        ["`up` to the first answer, s", f"{found.up_s:.1f}"],
        ["first request of a model, p50 ms", f"{p50(found.first):.1f}"],
        [
            "first request of a model, p95 ms",
            f"{np.quantile([one.took_ms for one in found.first], 0.95):.1f}",
        ],
        ["requests by Zipf's law", f"{len(found.answered):,}"],
        ["of them slower than a hit, %", f"{100 * slow / len(found.answered):.1f}"],
        ["errors", str(failed)],
        ["hot models, one connection, p50 ms", f"{statistics.median(found.hits_ms):.3f}"],
        ["one model alone on a server, p50 ms", f"{statistics.median(found.single_ms):.3f}"],
        ["most memory of the workers, PSS MB", f"{most_mb:.0f}"],
    ]
    report = Report("many models")
    report.tables.append(Table(f"Many models within {found.memory_mb} MB", ["", ""], rows))
    report.goals = [
        Goal("many: requests that failed", failed, 0, False),
        Goal("many: p50 of a hit over that of one model alone", ratio, HIT_FACTOR, False, "x"),
        Goal("many: cold load p50", p50(found.first), COLD_LIMIT_MS, False, "ms"),
        Goal("many: most memory of the workers", most_mb, found.memory_mb, False, "MB"),
    ]
    report.raw = {"watched": found.watched, "hits_ms": found.hits_ms, "single_ms": found.single_ms}
    return report
