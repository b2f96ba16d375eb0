"""Small models whose answers tell who gave them, and services made of them."""

from __future__ import annotations

import textwrap
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
from onnx import TensorProto, helper

import tidegate as tg
from tests.system.server import Server
from tidegate.bootstrap.local import Local
from tidegate.bootstrap.publish import Origin, publish
from tidegate.contract.declare import contract_of
from tidegate.contract.schema import Contract
from tidegate.core.decision import Decision
from tidegate.operation import release
from tidegate.operation.key import new_key
from tidegate.operation.register import register
from tidegate.operation.release import deploy_first, switch_to
from tidegate.predictor.lookup import LookupOptions
from tidegate.predictor.protocol import Spec
from tidegate.registry.version import Version
from tidegate.service.manifest import Manifest


class Pair(tg.Input):
    a: float
    b: float


class Total(tg.Output):
    total: float


class Bounded(tg.Output):
    total: float = tg.field(ge=0, le=100)


PAIR = contract_of(Pair, Total)
BOUNDED = contract_of(Pair, Bounded)


def write_graph(path: Path, nodes: list[Any], constants: dict[str, float | list[float]]) -> Path:
    """Write an ONNX graph from columns `a` and `b` to the column `total`."""
    columns = {name: helper.make_tensor_value_info(name, TensorProto.DOUBLE, ["rows", 1]) for name in "ab"}
    total = helper.make_tensor_value_info("total", TensorProto.DOUBLE, ["rows", 1])
    values = [
        helper.make_tensor(
            name,
            TensorProto.DOUBLE,
            [] if isinstance(value, float) else [len(value)],
            [value] if isinstance(value, float) else value,
        )
        for name, value in constants.items()
    ]
    graph = helper.make_graph(nodes, "graph", list(columns.values()), [total], values)
    # versions that every onnxruntime since 1.22 reads, whatever this onnx would write
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    return path


def write_sum(path: Path, constant: float) -> Path:
    """Write a graph that answers a + b + constant, so that an answer tells which version gave it."""
    nodes = [
        helper.make_node("Add", ["a", "b"], ["sum"]),
        helper.make_node("Add", ["sum", "constant"], ["total"]),
    ]
    return write_graph(path, nodes, {"constant": constant})


def write_ratio(path: Path) -> Path:
    """Write a graph that answers a / b: NaN or infinity where b is 0."""
    return write_graph(path, [helper.make_node("Div", ["a", "b"], ["total"])], {})


def write_function(path: Path, body: str) -> Path:
    """Write a Python predictor whose `predict(columns)` has that body; numpy, os and time are there."""
    head = "import ctypes, os, signal, time\nimport numpy as np\n\n\ndef predict(columns):\n"
    path.write_text(head + textwrap.indent(textwrap.dedent(body).strip() + "\n", "    "))
    return path


def add_version(
    server: Server, service: str, model: Path, contract: Contract = PAIR, **options: Any
) -> Version:
    """Register a model file as the next version of a service, from this process."""
    with server.local() as local:
        origin = Origin(changelog=f"model file {model.name}")
        return publish(local, service, model, contract=contract, origin=origin, **options).version


def deploy(server: Server, service: str, *, version: int | None = None) -> None:
    """Give a service its first route, which a running server follows."""
    with server.local() as local:
        deploy_in(local, service, version=version)


def deploy_in(local: Local, service: str, *, version: int | None = None) -> None:
    """Give a service of an opened home its first route."""
    deploy_first(
        local.unit,
        local.cell,
        service,
        fallback_of=local.fallback_of,
        principal=local.principal,
        clock=local.clock,
        version=version,
    )


def add_manifest(server: Server, manifest: Manifest) -> Version:
    """Register a manifest as it is, whether its model keeps what it says or not."""
    with server.local() as local:
        return register(
            local.unit,
            local.artifacts,
            service=manifest.service,
            manifest=manifest.to_json(),
            artifacts=manifest.artifacts,
            contract=manifest.contract.fingerprint,
            principal=local.principal,
            key=new_key(),
            clock=local.clock,
        ).result


def manifest_of(server: Server, version: Version) -> Manifest:
    """Return what a version was compiled to."""
    return Manifest.from_json(server.local().artifacts.read_bytes(version.manifest))


def switch(server: Server, service: str, version: int, **options: Any) -> Decision:
    """Move all traffic from this process, as `tidegate switch` does."""
    with server.local() as local:
        return switch_to(
            local.unit,
            local.cell,
            service,
            version=version,
            fallback_of=local.fallback_of,
            principal=local.principal,
            clock=local.clock,
            **options,
        ).decision


def roll_back(server: Server, service: str, **options: Any) -> Decision:
    """Undo what moved last from this process, as `tidegate rollback` does."""
    with server.local() as local:
        return release.roll_back(
            lambda: local.unit,
            local.cell,
            service,
            principal=local.principal,
            clock=local.clock,
            **options,
        ).decision


class Everything(tg.Input):
    """A field of every type, with every kind of bound."""

    customer: str = tg.field(key=True, min_length=1, max_length=20)
    code: str = tg.field(pattern="^[A-Z]{2,3}$")
    carrier: str = tg.category("AA", "UA", "WN")
    is_member: bool
    seats: int = tg.field(ge=1, le=9)
    level: int = tg.field(default=0)
    price: float = tg.field(gt=0, lt=10_000, unit="USD")
    weight: np.float32 = tg.field(ge=0)
    booked_at: datetime
    took: timedelta = tg.duration(default=timedelta(minutes=5))
    place: list[float] = tg.vector(3, ge=-1, le=1)
    visits: list[int] = tg.vector(default=[])
    picture: bytes = tg.field(default=b"", max_length=64)
    diagnosis: str | None = tg.field(default=None, max_length=8, sensitive=True)


class Verdict(tg.Output):
    score: float = tg.field(ge=0, le=1)
    label: str = tg.category("good", "bad")
    is_sure: bool
    n_seen: int
    note: str
    spread: list[float] = tg.vector(2)


EVERYTHING = contract_of(Everything, Verdict)
ROW: dict[str, Any] = {
    "customer": "c-17",
    "code": "ABC",
    "carrier": "UA",
    "is_member": True,
    "seats": 2,
    "price": 99.5,
    "weight": 3.5,
    "booked_at": "2026-11-20T12:00:00Z",
    "place": [0.0, 0.5, -1.0],
}
VERDICT = {"score": 0.5, "label": "good", "is_sure": True, "n_seen": 3, "note": "so so", "spread": [0.1, 0.9]}


def add_constant(
    server: Server, service: str, contract: Contract, answer: dict[str, Any], **options: Any
) -> Version:
    """Register a version that gives every row the same answer; it takes whatever its contract takes."""
    spec = Spec("constant", options=msgspec.to_builtins(LookupOptions(default=answer)))
    return add_manifest(server, Manifest(service, contract, spec, **options))
