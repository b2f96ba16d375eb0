"""What a worker has in memory: its model's runtime and its own few modules; never the user's code."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import msgspec
import psutil
import pytest

from tests.system.model import add_version, write_sum
from tests.system.server import Client, Server, free_ports, running, wait_until
from tidegate.bootstrap.process import WorkerSettings, command

pytestmark = pytest.mark.slow

FOREIGN = {
    "alembic",
    "click",
    "jinja2",
    "lightgbm",
    "onnx",
    "pandas",
    "polars",
    "prometheus_client",
    "pydantic",
    "rich",
    "scipy",
    "sklearn",
    "skl2onnx",
    "sqlalchemy",
    "sqlite3",
    "starlette",
    "uvicorn",
    "xgboost",
    "service",
    "neighbour",
}
DECLARED = {"tidegate.evaluation", "tidegate.evaluation.declaration"}
"""Of evaluation a worker reads what a manifest may hold."""

WITH_LIBRARIES = {"httptools", "msgspec", "numpy", "numpy.libs", "onnxruntime", "uvloop"}
"""Installed packages whose compiled parts a worker may map."""

SERVICE = """
import os
from pathlib import Path

import neighbour
import tidegate as tg

with (Path(__file__).parent / "imported-by").open("a") as file:
    file.write(f"{os.getpid()}\\n")


class Pair(tg.Input):
    a: float
    b: float


class Total(tg.Output):
    total: float


service = tg.Service("sum", input=Pair, output=Total)
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with running(tmp_path_factory.mktemp("weight")) as server:
        folder = server.folder / "project"
        folder.mkdir()
        (folder / "service.py").write_text(SERVICE)
        (folder / "neighbour.py").write_text("")
        write_sum(folder / "sum.onnx", 0.0)
        add_version(server, "sum", folder / "sum.onnx")
        server.start(folder)
        for client in server.client_of_each_worker().values():
            ask(client)
        yield server


def ask(client: Client) -> None:
    """Have a worker do all that it can, so that it has loaded what it loads late."""
    with client:
        for body, status in [(b'{"a":1,"b":2}', 200), (b'{"rows":[{"a":1,"b":2}]}', 200), (b"{", 400)]:
            assert client.post("/services/sum/predict", body).status == status
        outcome = {"prediction_id": "01a1fb68-cfe4-7738-8a8e-6a3f7ba4a1ef", "value": 1}
        assert client.post("/services/sum/outcomes", outcome).status == 202
        tensors = [{"name": name, "shape": [1], "datatype": "FP64", "data": [1.0]} for name in ("a", "b")]
        assert client.post("/v2/models/sum/infer", {"inputs": tensors}).status == 200
        for path in ("/openapi.json", "/v2", "/v2/models/sum", "/v2/models/sum/stats", "/v2/health/ready"):
            assert client.get(path).status == 200


def mapped(pid: int) -> set[str]:
    """Return the installed packages of which a process has a compiled part in memory."""
    found = set()
    for each in psutil.Process(pid).memory_maps(grouped=True):
        if match := re.search(r"/site-packages/([^/]+?)(\.cpython[^/]*)?(/|$)", each.path):
            found.add(match[1])
    return found


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="memory maps are read from /proc")
def test_a_worker_maps_the_libraries_of_its_own_only(server):
    for worker in server.workers():
        assert mapped(worker.pid) <= WITH_LIBRARIES
        assert mapped(worker.pid) >= {"msgspec", "numpy", "onnxruntime"}
        assert not any("_sqlite3" in each.path for each in psutil.Process(worker.pid).memory_maps())


def test_the_service_module_is_imported_by_no_process_that_serves(server):
    importers = {int(line) for line in (server.folder / "project" / "imported-by").read_text().split()}
    serving = {each.pid for each in psutil.Process(server.pid).children(recursive=True)}

    assert importers
    assert not importers & serving


def test_a_worker_imports_no_database_no_data_frames_and_no_user_code(server, tmp_path):
    """A worker of its own on the same home, which says what it imports while it starts and serves."""
    imported = imports_of_a_worker(server, free_ports(1)[0], tmp_path / "imports.log")

    assert {"tidegate", "numpy", "msgspec", "uvloop", "httptools", "onnxruntime"} <= imported
    assert {name.partition(".")[0] for name in imported} & FOREIGN == set()
    assert {name for name in imported if name.startswith("tidegate.evaluation")} == DECLARED, (
        "what measures costs each worker memory and is never used there"
    )


def imports_of_a_worker(server: Server, port: int, log: Path) -> set[str]:
    settings = msgspec.structs.replace(server.local().settings.server, port=port, supervisor=os.getpid())
    with socket.create_server(("127.0.0.1", port)) as listener, log.open("wb") as file:
        worker = WorkerSettings(
            settings, slot=7, incarnation=0, sockets=str(log.parent), listener=listener.fileno()
        )
        process = subprocess.Popen(
            [sys.executable, "-X", "importtime", *command("worker", worker)[1:]],
            stdin=subprocess.DEVNULL,
            stderr=file,
            pass_fds=[listener.fileno()],
        )
    try:
        wait_until(
            lambda: any(worker.pid == process.pid for worker in server.workers()), what=log.read_text()
        )
        ask(Client(port))
    finally:
        process.terminate()
        process.wait(30)
    names = re.findall(r"^import time:.*\| +([\w.]+)$", log.read_text(), re.MULTILINE)
    return set(names)
