"""A shadow gets copies of what was answered, and nobody notices: invariant I7."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.serving.plane import CONTRACT, Harness, Told, answers
from tests.serving.test_dataplane import in_loop
from tidegate.core.digest import Digest
from tidegate.journal.codec import BODY_HEAD, STREAM, TURN
from tidegate.journal.decode import StreamCodec, Turns, decode_stream, mask_of
from tidegate.journal.reader import SegmentReader, list_segments
from tidegate.journal.record import Flag, RecordKind
from tidegate.predictor.protocol import PredictorError
from tidegate.route.route import PARTS, STABLE, Arm, ServiceRoute, Shadow
from tidegate.serving import shadow
from tidegate.serving.call import Call, Group
from tidegate.serving.endpoint import Endpoint, LoadedVersion
from tidegate.serving.inline import InlineExecutor
from tidegate.serving.metric import MetricPage
from tidegate.serving.shadow import ShadowLane

DIGEST = Digest("sha256:" + "0" * 64)


@pytest.fixture(autouse=True)
def _quiet_machine(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Whatever else runs on the machine, the loop does not count as late."""
    monkeypatch.setattr(shadow, "LATE_S", 60.0)
    if request.node.originalname != test_the_loop_is_left_alone_after_a_call_in_it.__name__:
        monkeypatch.setattr(shadow, "LONG_REST", shadow.SHORT_REST)  # a call that was held up is no slow one


class Silent:
    """A model that takes what it is given and never answers."""

    is_there = True
    waiting_rows = 0
    wait_s = 0.0

    def __init__(self) -> None:
        self.asked: list[tuple[Group, Callable[[Group], None]]] = []

    def submit(self, group: Group, done: Callable[[Group], None]) -> None:
        self.asked.append((group, done))

    def close(self) -> None: ...


def serve(harness: Harness, stable: Any, *shadows: Any, parts: int = PARTS) -> Endpoint:
    """Serve `stable` as version 1, and the others as its shadows 2, 3, ..."""
    versions = {}
    for number, model in enumerate((stable, *shadows), start=1):
        executor = (
            model if hasattr(model, "submit") else InlineExecutor(model, call_soon=harness.loop.call_soon)
        )
        versions[number] = LoadedVersion("svc", number, CONTRACT, executor=executor, tolerances={"y": 0.5})
    route = ServiceRoute(
        "svc",
        generation=1,
        salt="s",
        arms=(Arm(STABLE, 1, ((0, PARTS),)),),
        shadows=tuple(Shadow(number, parts) for number in versions if number > 1),
        manifests=dict.fromkeys(versions, DIGEST),
    )
    endpoint = harness.plane.endpoints["svc"] = Endpoint(route, versions, secret=b"k")
    return endpoint


def records(folder: Path) -> list[tuple[int, RecordKind, bytes, int, list[float] | None, str | None]]:
    """Return version, kind, request, flags, outputs and error of every request in the journal, in order."""
    found = []
    for entry in list_segments(folder):
        with SegmentReader(entry.path) as reader:
            streams: dict[int, StreamCodec] = {}
            for frame in reader.frames():
                kind, _, number = BODY_HEAD.unpack_from(frame.body)
                if kind == STREAM:
                    streams[number] = StreamCodec(decode_stream(frame.body))
                elif kind == TURN:
                    turns = Turns(streams[number], mask_of(frame.body), [frame.body])
                    first = 0
                    for position, n_rows in enumerate(turns.rows.tolist()):
                        request = turns.request_ids[16 * position : 16 * position + 16]
                        ys = (
                            None
                            if turns.outputs is None
                            else turns.outputs["y"][first : first + n_rows].tolist()
                        )
                        error = turns.errors[position] if turns.errors else None
                        flags = int(turns.flags[position])
                        found.append((turns.stream.version, turns.stream.kind, request, flags, ys, error))
                        first += n_rows
    return found


async def settle(*shadows: Told, rows: int) -> None:
    """Wait until the shadows were asked so many rows in all."""
    for _ in range(4000):
        if sum(sum(each.batches) for each in shadows) >= rows:
            break
        await asyncio.sleep(0.005)
    else:
        raise AssertionError([each.batches for each in shadows])
    await asyncio.sleep(0.005)


@in_loop
async def test_a_shadow_answers_copies_after_the_answer_has_left(tmp_path: Path) -> None:
    harness = Harness(tmp_path)
    other = Told(lambda x: x + 1)
    serve(harness, Told(lambda x: x * 2), other)

    calls = await harness.ask([1.0], [2.0, 3.0])
    asked_before = list(other.batches)
    await settle(other, rows=3)

    assert [answers(call) for call in calls] == [[2.0], [4.0, 6.0]]
    assert asked_before == []
    harness.journal.close()
    found = records(tmp_path / "journal")
    ids = [call.request_id for call in calls]
    assert [record[:3] for record in found] == [
        (1, RecordKind.PREDICTION, ids[0]),
        (1, RecordKind.PREDICTION, ids[1]),
        (2, RecordKind.SHADOW, ids[0]),
        (2, RecordKind.SHADOW, ids[1]),
    ]
    assert [record[4] for record in found[2:]] == [[2.0], [3.0, 4.0]]


@in_loop
async def test_several_shadows_each_get_every_request(tmp_path: Path) -> None:
    harness = Harness(tmp_path)
    shadows = [Told(lambda x: x + 1), Told(lambda x: x + 2)]
    serve(harness, Told(lambda x: x), *shadows)

    await harness.ask([1.0])
    await settle(*shadows, rows=2)

    harness.journal.close()
    found = {(record[0], record[1]): record[4] for record in records(tmp_path / "journal")}
    assert found == {
        (1, RecordKind.PREDICTION): [1.0],
        (2, RecordKind.SHADOW): [2.0],
        (3, RecordKind.SHADOW): [3.0],
    }


@in_loop
async def test_what_a_shadow_does_wrong_is_recorded_and_changes_no_answer(tmp_path: Path) -> None:
    def picky(x: np.ndarray) -> np.ndarray:
        if (x == 13).any():
            raise PredictorError("not this one")
        return np.where(x == 7, np.nan, x)

    harness = Harness(tmp_path)
    other = Told(picky)
    serve(harness, Told(lambda x: x), other)

    calls = await harness.ask([13.0], [7.0], [5.0])
    await settle(other, rows=6)  # all of them together, then each alone

    assert [answers(call) for call in calls] == [[13.0], [7.0], [5.0]]
    assert [call.error for call in calls] == [None] * 3
    harness.journal.close()
    shadows = {record[2]: record[3:] for record in records(tmp_path / "journal") if record[0] == 2}
    raised, broken, good = (shadows[call.request_id] for call in calls)
    assert raised == (Flag.FAILED, None, "predictor_failed")
    assert broken == (Flag.FAILED | Flag.INVALID, None, "output_violation")
    assert good == (0, [5.0], None)


@in_loop
async def test_a_shadow_that_stands_still_delays_nobody_and_its_queue_is_bounded(tmp_path: Path) -> None:
    harness = Harness(tmp_path)
    silent = Silent()
    serve(harness, Told(lambda x: x), silent)

    for _ in range(60):
        calls = await harness.ask(*([1.0] * 50 for _ in range(2)))
        assert all(call.error is None for call in calls)
        await asyncio.sleep(0.001)

    lane = next(iter(harness.plane.outbox._shadow._lanes.values()))
    assert len(silent.asked) == 1
    assert lane.n_rows <= shadow.MAX_WAITING_ROWS
    page = harness.plane._metrics
    dropped = page.counter("tidegate_shadow_dropped_total", {"service": "svc", "version": "2"})
    assert dropped._values[dropped._index] == 120 - 2 - lane.n_rows // 50


@in_loop
async def test_a_silent_shadow_is_recorded_as_too_late(tmp_path: Path) -> None:
    within_s = 0.05
    harness = Harness(tmp_path)
    silent = Silent()
    endpoint = serve(harness, Told(lambda x: x), silent)
    endpoint.versions[2].deadline_s = within_s

    (call,) = await harness.ask([1.0])
    await asyncio.sleep(within_s + 0.3)
    group, done = silent.asked[0]
    group.outputs = group.inputs
    done(group)  # too late: it was recorded already

    harness.journal.close()
    (late,) = [record for record in records(tmp_path / "journal") if record[0] == 2]
    assert late[2:] == (call.request_id, Flag.FAILED, None, "deadline_exceeded")


@in_loop
async def test_a_busy_worker_drops_copies_first_and_counts_them(tmp_path: Path) -> None:
    harness = Harness(tmp_path)
    other = Told(lambda x: x)
    rested_at_s: float | None = None

    def used() -> float:
        return harness.clock.monotonic_s() if rested_at_s is None else rested_at_s

    harness.plane.outbox._shadow = lane = ShadowLane(
        harness.loop,
        harness.journal,
        clock=harness.clock,
        metrics=MetricPage(tmp_path / "other.page"),
        used_s=used,
    )
    serve(harness, Told(lambda x: x), other)
    lane._observe(harness.clock.monotonic_s())
    await asyncio.sleep(0.15)
    lane._observe(harness.clock.monotonic_s())

    calls = await harness.ask([1.0])
    await asyncio.sleep(0.05)

    assert answers(calls[0]) == [1.0]
    assert other.batches == []
    rested_at_s = lane._look[1]
    await asyncio.sleep(0.15)
    await harness.ask([2.0])  # by this one it is seen that there is time again
    await harness.ask([3.0])
    await settle(other, rows=1)
    assert other.batches == [1]


@in_loop
async def test_a_share_of_the_keys_is_copied_and_buckets_are_each_rows_own(tmp_path: Path) -> None:
    harness = Harness(tmp_path)
    other = Told(lambda x: x)
    endpoint = serve(harness, Told(lambda x: x), other, parts=PARTS // 2)
    answered: list[Call] = []
    for number in range(64):
        call = harness.call([float(number), 1.0], answered.append)
        keys = [b"%016d" % number, b"other%011d" % number]
        call.arm, call.bucket = endpoint.pick(keys[0])
        call.key_hashes = keys
        harness.plane.submit(call)
    for _ in range(1000):
        if len(answered) == 64:
            break
        await asyncio.sleep(0.001)
    wanted = {call.request_id for call in answered if call.bucket < 0.5}
    await settle(other, rows=2 * len(wanted))

    harness.journal.close()
    copied = {record[2] for record in records(tmp_path / "journal") if record[1] is RecordKind.SHADOW}
    assert 10 < len(wanted) < 54
    assert copied == wanted
    call = answered[0]
    own = [endpoint._bucket(key) for key in call.key_hashes or ()]
    assert call.arm.buckets_of(call) == own
    assert own[0] == call.bucket != own[1]


@in_loop
async def test_a_defect_of_the_shadows_lane_costs_no_answer(tmp_path: Path) -> None:
    harness = Harness(tmp_path)
    serve(harness, Told(lambda x: x), Told(lambda x: x))
    harness.plane.outbox._shadow._clock = None  # type: ignore[assignment]  # whatever touches it raises

    calls = await harness.ask([1.0], [2.0])

    assert [answers(call) for call in calls] == [[1.0], [2.0]]


@in_loop
async def test_a_version_is_no_shadow_of_itself(tmp_path: Path) -> None:
    harness = Harness(tmp_path)
    endpoint = serve(harness, Told(lambda x: x), Told(lambda x: x))

    pinned = endpoint.pin(2)

    (stable,) = endpoint.arms
    assert [each.version.number for each in stable.shadows] == [2]
    assert stable.stream.shadows == (2,)
    assert stable.shadows[0].stream.tolerances == (("y", 0.5),)
    assert pinned.shadows == ()


@pytest.mark.parametrize("took_s", [0.0005, 0.004])
def test_the_loop_is_left_alone_after_a_call_in_it(tmp_path: Path, took_s: float) -> None:
    async def run() -> tuple[float, float]:
        harness = Harness(tmp_path)

        def slow(x: np.ndarray) -> np.ndarray:
            end_s = harness.clock.monotonic_s() + took_s
            while harness.clock.monotonic_s() < end_s:
                pass
            return x

        serve(harness, Told(lambda x: x), Told(slow))
        await harness.ask([1.0])
        for _ in range(200):
            await asyncio.sleep(0.002)
            (lane,) = harness.plane.outbox._shadow._lanes.values()
            if lane.not_before_s:
                break
        return lane.not_before_s, harness.clock.monotonic_s()

    not_before_s, now_s = asyncio.run(run())
    rest = shadow.SHORT_REST if took_s < shadow.SHORT_S else shadow.LONG_REST
    assert not_before_s > now_s - 0.1 + 0.5 * rest * took_s
