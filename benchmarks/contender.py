"""The servers that are compared: how each is started, and what each is asked."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy as np
import onnxruntime as ort  # type: ignore[import-untyped]  # ships no types

from benchmarks.load import Target
from benchmarks.model import CACHE, SLOW, Model, case_b_slow
from benchmarks.process import Server, free_port, program, run_once

N_BODIES = 256
TOLERANCE = 1e-4
ROOT = Path(__file__).parent.parent
SERVICES = Path(__file__).parent / "service"
_METADATA = {"prediction_id", "version", "service"}


class Questions(msgspec.Struct, frozen=True):
    """Prepared request bodies and what the bare session answers to each.

    Attributes:
        bodies: JSON, one row each.
        expected: Body -> the model's outputs.
    """

    bodies: tuple[bytes, ...]
    expected: Mapping[bytes, list[float]]

    def is_right(self, body: bytes, answer: bytes) -> bool:
        """Tell whether an answer holds the model's outputs, in order, whatever its envelope."""
        found = _numbers(msgspec.json.decode(answer))
        expected = self.expected[body]
        return len(found) == len(expected) and bool(np.allclose(found, expected, atol=TOLERANCE))


def _numbers(value: Any) -> list[float]:
    if isinstance(value, dict):
        return [number for key, part in value.items() if key not in _METADATA for number in _numbers(part)]
    if isinstance(value, list):
        return [number for part in value for number in _numbers(part)]
    return [float(value)] if isinstance(value, int | float) else []


def questions(model: Model, shape: str) -> Questions:
    """Prepare bodies: `named` has a JSON field a feature, `vector` one field `x` with all.

    `matrix` is for a graph whose first dimension is 1: there the model's own row has two dimensions.
    """
    session = ort.InferenceSession(str(model.path), providers=["CPUExecutionProvider"])
    rows = model.rows(N_BODIES)
    bodies: dict[str, Callable[[list[float]], Any]] = {
        "named": lambda values: {f"f{i}": value for i, value in enumerate(values)},
        "vector": lambda values: {"x": values},
        "matrix": lambda values: {"x": [values]},
    }
    expected: dict[bytes, list[float]] = {}
    for row in rows:
        values = row.tolist()
        body = bodies[shape](values)
        outputs = session.run(None, {"x": row[None].astype(np.float32)})[0][0]
        expected[msgspec.json.encode(body)] = outputs.tolist()
    return Questions(tuple(expected), expected)


class Running(msgspec.Struct, frozen=True):
    """A contender that has given a right answer.

    Attributes:
        server: Its process tree.
        target: Where its requests go.
        first_right_answer_s: From the start of its first process.
        control_port: Where Tidegate's control plane is; 0 for the others.
        home: Tidegate's home folder; empty and unused for the others.
    """

    server: Server
    target: Target
    first_right_answer_s: float
    control_port: int
    home: Path


class Contender(Protocol):
    """Something that can be started and asked."""

    @property
    def name(self) -> str: ...

    def command(self, port: int, control_port: int, home: Path) -> list[str]:
        """Return the command line that serves on `port`."""
        ...

    def preparation(self, home: Path) -> list[list[str]]:
        """Return the command lines that have to run once, before a home is served."""
        ...

    @property
    def path(self) -> str:
        """Request target of a prediction."""
        ...

    @property
    def environment(self) -> Mapping[str, str]: ...


class Tidegate(msgspec.Struct, frozen=True):
    """`tidegate up` with its defaults: validation, routing, metrics and journal on.

    Attributes:
        source: A model file or a service folder.
        service: Name under which it serves.
        workers: Number of workers.
    """

    source: Path
    service: str
    workers: int = 2
    name: str = "tidegate"

    @property
    def environment(self) -> Mapping[str, str]:
        return {"PYTHONPATH": str(ROOT)}  # the declared services are part of this package

    def preparation(self, home: Path) -> list[list[str]]:
        if self.source.is_file():
            link = self._link(home)
            if not link.exists():
                link.symlink_to(self.source.absolute())
            return []
        return [[program("tidegate"), "train", str(self.source), "--home", str(home)]]

    def _link(self, home: Path) -> Path:
        """Return where a model file seems to be: the inferred contract is written beside it."""
        return home.parent / self.source.name

    def command(self, port: int, control_port: int, home: Path) -> list[str]:
        source = self._link(home) if self.source.is_file() else self.source
        return [
            *(program("tidegate"), "up", str(source)),
            *("--workers", str(self.workers), "--home", str(home)),
            *("--port", str(port), "--control-port", str(control_port)),
        ]

    @property
    def path(self) -> str:
        return f"/services/{self.service}/predict"


class FastApi(msgspec.Struct, frozen=True):
    """`baseline/fastapi_service.py` under uvicorn."""

    model: Model
    shape: str
    workers: int = 2
    name: str = "fastapi"
    path: str = "/predict"

    @property
    def environment(self) -> Mapping[str, str]:
        return {
            "BENCH_MODEL": str(self.model.path),
            "BENCH_SHAPE": self.shape,
            "BENCH_SLOW": str(SLOW) if self.model == case_b_slow() else "",
        }

    def preparation(self, home: Path) -> list[list[str]]:
        del home  # it has none
        return []

    def command(self, port: int, control_port: int, home: Path) -> list[str]:
        del control_port, home  # it has neither
        return [
            *(sys.executable, "-m", "uvicorn", "benchmarks.baseline.fastapi_service:app"),
            *("--port", str(port), "--workers", str(self.workers), "--loop", "uvloop", "--http", "httptools"),
            *("--no-access-log", "--log-level", "warning"),
        ]


class Mosec(msgspec.Struct, frozen=True):
    """`baseline/mosec_service.py`: a server with dynamic batching, where it is installed.

    Its interpreter may be another one, named by BENCH_MOSEC_PYTHON: one that has mosec, numpy and
    onnxruntime.
    """

    model: Model
    workers: int = 2
    name: str = "mosec"
    path: str = "/inference"

    @property
    def environment(self) -> Mapping[str, str]:
        return {"BENCH_MODEL": str(self.model.path), "BENCH_WORKERS": str(self.workers)}

    def preparation(self, home: Path) -> list[list[str]]:
        del home  # it has none
        return []

    def command(self, port: int, control_port: int, home: Path) -> list[str]:
        del control_port, home  # it has neither
        return [
            *(_mosec_python(), "-m", "benchmarks.baseline.mosec_service"),
            *("--address", "127.0.0.1", "--port", str(port), "--timeout", "60000", "--log-level", "warning"),
        ]


def _mosec_python() -> str:
    return os.environ.get("BENCH_MOSEC_PYTHON", sys.executable)


def has_mosec() -> bool:
    """Tell whether Mosec is installed beside us, or where BENCH_MOSEC_PYTHON says."""
    found = subprocess.run([_mosec_python(), "-c", "import mosec"], capture_output=True, check=False)
    return found.returncode == 0


def tidegate_of(model: Model, shape: str, *, workers: int) -> Tidegate:
    """Return Tidegate serving `model`.

    Named fields come from the declared service in `service/`; the other shapes are what a bare model
    file gets: its contract is inferred from the graph.
    """
    declared = shape == "named" or model == case_b_slow()
    source = SERVICES / model.name.replace("-", "_") if declared else model.path
    return Tidegate(source, model.name, workers)


@contextmanager
def running(
    contender: Contender,
    asked: Questions,
    *,
    home: Path | None = None,
) -> Iterator[Running]:
    """Start a contender in an empty home (or the one given) and wait until it answers rightly.

    Raises:
        ServerFailed: It did not.
    """
    CACHE.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="home-", dir=CACHE) as fresh:
        port, control_port = free_port(), free_port()
        target = Target(port, contender.path, asked.bodies)
        home = home or Path(fresh) / "home"
        for step in contender.preparation(home):
            run_once(step, contender.environment)
        command = contender.command(port, control_port, home)
        log = CACHE / f"{contender.name}.log"
        with Server(command, log=log, environment=contender.environment) as server:
            ready_s = server.wait_right(target, asked.is_right)
            is_ours = isinstance(contender, Tidegate)
            yield Running(server, target, ready_s, control_port if is_ours else 0, home)


def listed(contenders: Sequence[Contender]) -> str:
    """Return the names of contenders for a title."""
    return " beside ".join(contender.name for contender in contenders)
