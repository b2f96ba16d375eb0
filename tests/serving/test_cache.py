"""Answers are kept for who sends the same: exactly the same, for a while, and no more than declared."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.serving.plane import CONTRACT, Harness, Told, answers, journalled
from tests.serving.test_chain import Silent
from tests.serving.test_dataplane import always, in_loop
from tidegate.contract.batch import Batch
from tidegate.contract.objective import Cache
from tidegate.core.error import InvalidSetting
from tidegate.journal.record import Flag
from tidegate.serving.cache import ResponseCache
from tidegate.serving.call import Group


def inputs(*values: float, tag: str | None = None) -> Batch:
    tags = np.full(len(values), tag, dtype=object)
    return Batch({"x": np.array(values), "tag": tags}, len(values))


def outputs(*values: float) -> Batch:
    return Batch({"y": np.array(values)}, len(values))


def make(ttl_s: float = 60.0, max_bytes: int = 1 << 20, version: int = 1) -> ResponseCache:
    return ResponseCache(Cache(ttl_s, max_bytes), CONTRACT, version=version)


def test_an_answer_is_given_again_until_its_time_is_over() -> None:
    cache = make(ttl_s=10)
    key = cache.key(inputs(1.0))
    cache.keep(key, outputs(2.0), 0.0)

    found = cache.find(key, 9.9)

    assert found is not None
    assert found["y"].tolist() == [2.0]
    assert cache.find(key, 10.0) is None
    assert (len(cache), cache.n_bytes) == (0, 0)


@given(
    st.lists(st.tuples(st.floats(allow_nan=False), st.none() | st.text()), min_size=1, max_size=3),
    st.lists(st.tuples(st.floats(allow_nan=False), st.none() | st.text()), min_size=1, max_size=3),
)
def test_keys_are_the_same_exactly_for_the_same_rows(one: list[Any], other: list[Any]) -> None:
    def key(rows: list[Any]) -> bytes:
        x, tag = np.array([x for x, _ in rows]), np.array([tag for _, tag in rows], dtype=object)
        return make().key(Batch({"tag": tag, "x": x}, len(rows)))

    def exactly(rows: list[Any]) -> list[Any]:
        return [(np.float64(x).tobytes(), tag) for x, tag in rows]

    assert (key(one) == key(other)) == (exactly(one) == exactly(other))


def test_versions_do_not_share_answers() -> None:
    assert make(version=1).key(inputs(1.0)) != make(version=2).key(inputs(1.0))


def test_gives_up_what_was_not_used_for_longest_to_stay_within_its_bytes() -> None:
    cache = make(max_bytes=3 * 600)
    keys = [cache.key(inputs(float(n))) for n in range(4)]
    for n in range(3):
        cache.keep(keys[n], outputs(float(n)), 0.0)
    cache.find(keys[0], 0.0)

    cache.keep(keys[3], outputs(3.0), 0.0)

    assert [cache.find(key, 0.0) is not None for key in keys] == [True, False, True, True]
    assert cache.n_bytes <= 3 * 600


def test_does_not_keep_one_answer_that_is_larger_than_all_of_it() -> None:
    cache = make(max_bytes=1000)

    cache.keep(b"k", outputs(*range(1000)), 0.0)

    assert (len(cache), cache.n_bytes) == (0, 0)


@pytest.mark.parametrize(("ttl_s", "max_bytes"), [(0.0, 1), (-1.0, 1), (1.0, 0)])
def test_a_cache_that_keeps_nothing_is_refused(ttl_s: float, max_bytes: int) -> None:
    with pytest.raises(InvalidSetting, match="keeps nothing"):
        Cache(ttl_s, max_bytes)


@in_loop
async def test_the_model_is_asked_once_and_each_answer_has_its_own_record(tmp_path: Path) -> None:
    harness = Harness(tmp_path)
    model = Told(lambda x: x * 2)
    version = harness.serve(model)
    version.cache = make()

    first, follower, other = await harness.ask([1.0], [1.0], [3.0])
    (later,) = await harness.ask([1.0])

    assert [answers(call) for call in (first, follower, other, later)] == [[2.0], [2.0], [6.0], [2.0]]
    assert sum(model.batches) == 2
    harness.journal.close()
    found = journalled(tmp_path / "journal")
    flags = [found[call.request_id][0] for call in (first, follower, other, later)]
    assert flags == [0, Flag.CACHED, 0, Flag.CACHED]


@in_loop
async def test_a_failure_is_not_kept_and_who_waited_asks_for_itself(tmp_path: Path) -> None:
    harness = Harness(tmp_path)
    failures = iter([True, False])

    def sometimes(x: Any) -> Any:
        if next(failures, False):
            raise ValueError
        return x

    model = Told(sometimes)
    version = harness.serve(model, fallbacks=[("constant", always(7.0))])
    version.cache = make()

    first, follower = await harness.ask([1.0], [1.0])

    assert (answers(first), first.group.answered_by) == ([7.0], "constant")
    assert answers(follower) == [1.0]
    assert len(version.cache) == 0


@in_loop
async def test_who_waits_for_an_answer_that_never_comes_is_answered_at_its_own_deadline(
    tmp_path: Path,
) -> None:
    harness = Harness(tmp_path)
    version = harness.serve(Silent(), fallbacks=[("constant", always(7.0))])  # type: ignore[arg-type]
    version.cache = make()

    calls = await harness.ask([1.0], [1.0], timeout_s=0.5)

    assert [answers(call) for call in calls] == [[7.0], [7.0]]
    assert version.cache.land(version.cache.key(calls[0].group.inputs)) == []


@in_loop
async def test_who_waits_for_a_caller_that_is_gone_asks_for_itself(tmp_path: Path) -> None:
    harness = Harness(tmp_path)
    model = Told(lambda x: x)
    version = harness.serve(model)
    version.cache = make()
    answered: asyncio.Future[None] = harness.loop.create_future()
    gone = harness.call([1.0], lambda call: None)
    waits = harness.call([1.0], lambda call: answered.set_result(None))

    harness.plane.submit(gone)
    harness.plane.submit(waits)
    gone.abandon()
    await asyncio.wait_for(answered, 5)

    assert answers(waits) == [1.0]
    group: Group = waits.group
    assert group.flags == 0
