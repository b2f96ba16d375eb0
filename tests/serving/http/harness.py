"""A real data plane on a real port, in a thread of the test's process."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import numpy as np
import uvloop

from tidegate.contract.batch import Batch
from tidegate.contract.objective import Limits
from tidegate.contract.schema import Contract, DataType, Field, Schema
from tidegate.core.clock import SystemClock
from tidegate.core.digest import Digest
from tidegate.core.identifier import format_uuid, uuid7_factory
from tidegate.journal.codec import BODY_HEAD, STREAM, TURN
from tidegate.journal.decode import StreamCodec, Turns, decode_stream, mask_of
from tidegate.journal.reader import SegmentReader, list_segments
from tidegate.journal.segment import JournalWriter
from tidegate.predictor.protocol import PredictorError
from tidegate.route.route import CANDIDATE, PARTS, STABLE, Arm, ServiceRoute
from tidegate.serving.dataplane import DataPlane
from tidegate.serving.endpoint import Endpoint, LoadedVersion, Tensors
from tidegate.serving.http.connection import Connection
from tidegate.serving.http.face import resources
from tidegate.serving.http.site import Site
from tidegate.serving.inline import InlineExecutor
from tidegate.serving.metric import MetricPage

Model = Callable[[Batch], Mapping[str, np.ndarray]]

DIGEST = Digest("sha256:" + "0" * 64)


class ModelPredictor:
    """A predictor that calls a function."""

    def __init__(self, contract: Contract, model: Model) -> None:
        self.contract = contract
        self._model = model

    def predict(self, batch: Batch) -> Batch:
        return Batch(dict(self._model(batch)), batch.n_rows)

    def warm_up(self) -> None: ...

    def close(self) -> None: ...


class HeldExecutor:
    """Answers when the test says so."""

    def __init__(self, predictor: ModelPredictor) -> None:
        self._predictor = predictor
        self._held: list[Any] = []
        self.arrived = threading.Event()
        self.released = threading.Event()
        self.answered = 0

    @property
    def waiting_rows(self) -> int:
        return sum(group.n_rows for group, _ in self._held)

    @property
    def wait_s(self) -> float:
        return 0.0

    def submit(self, group: Any, done: Callable[[Any], None]) -> None:
        self._held.append((group, done))
        self.arrived.set()

    def release(self) -> None:
        """Answer all that wait; called in the loop."""
        held, self._held = self._held, []
        for group, done in held:
            try:
                group.outputs = self._predictor.predict(group.inputs)
            except PredictorError as error:
                group.error = error
            self.answered += 1
            done(group)
        self.released.set()

    def close(self) -> None: ...


def contract_of(inputs: Sequence[Field], outputs: Sequence[Field], *, batched: bool = True) -> Contract:
    return Contract(Schema(tuple(inputs)), Schema(tuple(outputs)), batched).checked()


class Service:
    """What a test serves: one contract, one function, by default one version."""

    def __init__(
        self,
        name: str,
        contract: Contract,
        model: Model,
        *,
        tensors: Tensors | None = None,
        limits: Limits | None = None,
        versions: Sequence[int] = (1,),
        standby: Sequence[int] = (),
        awaited: Sequence[int] = (),
        held: bool = False,
        deployed: bool = True,
        contracts: Mapping[int, Contract] | None = None,
    ) -> None:
        self.name = name
        self.contracts = contracts or {}
        self.contract = contract
        self.model = model
        self.tensors = tensors
        self.limits = limits
        self.versions = versions
        self.standby = standby
        self.awaited = awaited
        self.held = held
        self.deployed = deployed
        self.executors: list[Any] = []

    def endpoint(self, loop: asyncio.AbstractEventLoop) -> Endpoint:
        loaded = {number: self._load(number, loop) for number in (*self.versions, *self.standby)}
        arms: tuple[Arm, ...] = ()
        if self.deployed:
            edges = [PARTS * step // len(self.versions) for step in range(len(self.versions) + 1)]
            arms = tuple(
                Arm(STABLE if step == 0 else CANDIDATE, number, ((edges[step], edges[step + 1]),))
                for step, number in enumerate(self.versions)
            )
        route = ServiceRoute(
            self.name,
            generation=1,
            salt="salt",
            arms=arms,
            standby=(*self.standby, *self.awaited),
            manifests=dict.fromkeys([*loaded, *self.awaited], DIGEST),
        )
        return Endpoint(route, loaded if self.deployed else {}, secret=bytes(32))

    def _load(self, number: int, loop: asyncio.AbstractEventLoop) -> LoadedVersion:
        contract = self.contracts.get(number, self.contract)
        predictor = ModelPredictor(contract, self.model)
        executor = (
            HeldExecutor(predictor) if self.held else InlineExecutor(predictor, call_soon=loop.call_soon)
        )
        self.executors.append(executor)
        return LoadedVersion(
            self.name,
            number,
            contract,
            executor=executor,
            limits=self.limits,
            tensors=self.tensors,
        )


class Server:
    """A running data plane."""

    def __init__(self, folder: Path, services: Sequence[Service]) -> None:
        self.folder = folder
        self.services = services
        self.defects: list[BaseException] = []
        self.address: tuple[str, int] = ("127.0.0.1", 0)
        self.loop: asyncio.AbstractEventLoop
        self.site: Site
        self.plane: DataPlane
        self._ready = threading.Event()
        self._stop: asyncio.Event
        self._thread = threading.Thread(target=self._run, daemon=True)

    @property
    def url(self) -> str:
        return f"{self.address[0]}:{self.address[1]}"

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        clock = SystemClock()
        metrics = self.folder / "metrics"
        metrics.mkdir(exist_ok=True)
        journal = JournalWriter(self.folder / "journal", cell="local", node="here", worker=0, clock=clock)
        self.plane = DataPlane(
            loop,
            journal,
            clock=clock,
            metrics=MetricPage(metrics / "worker-0.page"),
            new_id=uuid7_factory(clock, random.Random(7)),
        )
        self.site = Site(on_defect=self.defects.append)
        for service in self.services:
            self.plane.endpoints[service.name] = service.endpoint(loop)
        self.site.publish(resources(self.plane, metrics=metrics))
        server = await loop.create_server(lambda: Connection(self.site), "127.0.0.1", 0)
        house = loop.create_task(self.site.keep_house())
        self.loop, self._stop = loop, asyncio.Event()
        self.address = server.sockets[0].getsockname()
        self._ready.set()
        await self._stop.wait()
        house.cancel()
        server.close()
        for connection in list(self.site.connections):
            connection._transport.abort()
        await asyncio.sleep(0)
        journal.close()

    def start(self) -> None:
        self._thread.start()
        assert self._ready.wait(10)

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)
        assert not self._thread.is_alive()

    def in_loop(self, function: Callable[[], Any]) -> Any:
        """Run a function in the server's loop and return what it returns."""

        async def call() -> Any:
            return function()

        return asyncio.run_coroutine_threadsafe(call(), self.loop).result(10)

    def connect(self) -> socket.socket:
        return socket.create_connection(self.address, timeout=10)

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[int, Any, dict[str, str]]:
        """Send one request; return status, decoded JSON (else bytes) and headers in lower case."""
        connection = HTTPConnection(*self.address, timeout=10)
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        connection.request(method, path, data, dict(headers or {}))
        response = connection.getresponse()
        content = response.read()
        found = {name.lower(): value for name, value in response.getheaders()}
        connection.close()
        if found.get("content-type") == "application/json" and "content-encoding" not in found and content:
            return response.status, json.loads(content), found
        return response.status, content, found


@contextmanager
def serving(folder: Path, *services: Service) -> Iterator[Server]:
    """Serve while the block runs; fail it if the server had a defect."""
    server = Server(folder, services)
    server.start()
    try:
        yield server
    finally:
        server.stop()
    assert not server.defects, server.defects


def scalar(name: str, kind: DataType = DataType.FLOAT32, **more: Any) -> Field:
    return Field(name, kind, **more)


def records(folder: Path) -> list[dict[str, Any]]:
    """Return every journalled prediction of a server: its id, arm, caller's id and outputs."""
    found = []
    for entry in list_segments(folder / "journal"):
        with SegmentReader(entry.path) as reader:
            streams: dict[int, StreamCodec] = {}
            for frame in reader.frames():
                kind, _, number = BODY_HEAD.unpack_from(frame.body)
                if kind == STREAM:
                    streams[number] = StreamCodec(decode_stream(frame.body))
                elif kind == TURN:
                    found += _rows(Turns(streams[number], mask_of(frame.body), [frame.body]))
    return found


def _rows(turns: Turns) -> Iterator[dict[str, Any]]:
    outputs = turns.outputs
    for row, request in enumerate(turns.request_of_row.tolist()):
        yield {
            "id": format_uuid(turns.request_ids[16 * request : 16 * request + 16]),
            "arm": turns.stream.arm,
            "caller": turns.caller_ids[request] if turns.caller_ids else None,
            **({name: outputs[name][row] for name in outputs.columns} if outputs is not None else {}),
        }
