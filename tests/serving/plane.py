"""A real data plane over a real journal, with models that do as they are told."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tidegate.contract.batch import Batch
from tidegate.contract.schema import Contract, DataType, Field, Schema
from tidegate.core.clock import SystemClock
from tidegate.core.digest import Digest
from tidegate.core.identifier import uuid7_factory
from tidegate.journal.codec import BODY_HEAD, STREAM, TURN
from tidegate.journal.decode import StreamCodec, Turns, decode_stream, mask_of
from tidegate.journal.reader import SegmentReader, list_segments
from tidegate.journal.record import JournalMode
from tidegate.journal.segment import Files, JournalWriter
from tidegate.predictor.protocol import Predictor
from tidegate.route.route import PARTS, STABLE, Arm, ServiceRoute
from tidegate.serving.call import Call
from tidegate.serving.dataplane import DataPlane
from tidegate.serving.endpoint import Endpoint, Executor, LoadedVersion
from tidegate.serving.feature import FeatureMerge
from tidegate.serving.inline import InlineExecutor
from tidegate.serving.metric import MetricPage

CONTRACT = Contract(
    Schema((Field("x", DataType.FLOAT64), Field("tag", DataType.STRING, optional=True))),
    Schema((Field("y", DataType.FLOAT64, ge=0, le=100),)),
)


class Told:
    """A predictor that applies a function to column x."""

    contract = CONTRACT

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self._function = function
        self.batches: list[int] = []

    def predict(self, batch: Batch) -> Batch:
        self.batches.append(batch.n_rows)
        y = np.asarray(self._function(batch["x"]), dtype=np.float64)
        return Batch({"y": y}, len(y))

    def warm_up(self) -> None:
        pass

    def close(self) -> None:
        pass


class Harness:
    """A data plane in the running loop, and the calls that came back from it."""

    def __init__(self, folder: Path, *, files: Files | None = None) -> None:
        self.loop = asyncio.get_running_loop()
        self.clock = SystemClock()
        self.folder = folder
        self.yielded: list[bool] = []
        self.journal = JournalWriter(
            folder / "journal", cell="test", node="n", worker=0, clock=self.clock, files=files
        )
        self.plane = DataPlane(
            self.loop,
            self.journal,
            clock=self.clock,
            metrics=MetricPage(folder / "worker-0.page"),
            new_id=uuid7_factory(self.clock, random.Random(0)),
            yields=self.yielded.append,
        )

    def serve(
        self,
        model: Predictor | Executor,
        *,
        fallbacks: Sequence[tuple[str, Predictor]] = (),
        mode: JournalMode = JournalMode.AVAILABLE,
        number: int = 1,
        safe_mode: bool = False,
        features: FeatureMerge | None = None,
    ) -> LoadedVersion:
        executor = model if hasattr(model, "submit") else InlineExecutor(model, call_soon=self.loop.call_soon)
        version = LoadedVersion(
            "svc",
            number,
            CONTRACT,
            executor=executor,
            fallbacks=fallbacks,
            journal=mode,
            features=features,
        )
        route = ServiceRoute(
            "svc",
            generation=number,
            salt="s",
            arms=(Arm(STABLE, number, ((0, PARTS),)),),
            manifests={number: Digest("sha256:" + "0" * 64)},
            safe_mode=safe_mode,
        )
        self.plane.endpoints["svc"] = Endpoint(route, {number: version}, secret=b"k")
        return version

    async def ask(self, *requests: list[float] | list[dict[str, Any]], timeout_s: float = 10.0) -> list[Call]:
        """Submit requests, all in one turn, and return their calls once all are answered."""
        answered: list[asyncio.Future[None]] = []
        calls = []
        for values in requests:
            future = self.loop.create_future()
            answered.append(future)
            calls.append(self.call(values, lambda _, f=future: f.set_result(None), timeout_s=timeout_s))
        for call in calls:
            self.plane.submit(call)
        await asyncio.wait_for(asyncio.gather(*answered), 20)
        return calls

    def call(self, values: list[Any], reply: Callable[[Call], Any], *, timeout_s: float = 10.0) -> Call:
        endpoint = self.plane.endpoint("svc")
        version = endpoint.stable
        request_id = self.plane.new_id()
        arm, _ = endpoint.pick(request_id)
        row_type = version.decoder.row_type
        rows = [row_type(**value) if isinstance(value, dict) else row_type(x=value) for value in values]
        now_s = self.clock.monotonic_s()
        return Call(
            arm,
            rows,
            n_rows=len(rows),
            request_id=request_id,
            arrived_us=self.clock.wall_us(),
            started_s=now_s,
            deadline_s=now_s + timeout_s,
            reply=reply,
        )


def answers(call: Call) -> list[float]:
    """Return the y values that a call was answered."""
    return [float(value) for value in call.outputs["y"]]


def journalled(folder: Path) -> dict[bytes, tuple[int, str | None]]:
    """Return request id -> (flags, error code) of every prediction in a journal folder."""
    found: dict[bytes, tuple[int, str | None]] = {}
    for entry in list_segments(folder):
        with SegmentReader(entry.path) as reader:
            streams: dict[int, StreamCodec] = {}
            for frame in reader.frames():
                kind, _, number = BODY_HEAD.unpack_from(frame.body)
                if kind == STREAM:
                    streams[number] = StreamCodec(decode_stream(frame.body))
                elif kind == TURN:
                    turns = Turns(streams[number], mask_of(frame.body), [frame.body])
                    errors = turns.errors or [None] * turns.n_requests
                    for position in range(turns.n_requests):
                        request = turns.request_ids[16 * position : 16 * position + 16]
                        assert request not in found, "journalled twice"
                        found[request] = (int(turns.flags[position]), errors[position])
    return found
