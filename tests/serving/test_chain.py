"""Who answers in place of a version that cannot: first the stable one, then tables and constants."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.serving.plane import CONTRACT, Harness, Told, answers, journalled
from tests.serving.test_dataplane import always, in_loop
from tidegate.core.digest import Digest
from tidegate.journal.record import Flag
from tidegate.predictor.protocol import Predictor, PredictorError
from tidegate.route.route import CANDIDATE, PARTS, STABLE, Arm, ServiceRoute
from tidegate.serving.admission import Backlog
from tidegate.serving.call import Call, Group
from tidegate.serving.duration import DurationModel
from tidegate.serving.endpoint import Endpoint, LoadedVersion
from tidegate.serving.inline import InlineExecutor

ZERO = Digest("sha256:" + "0" * 64)


def broken(x: Any) -> Any:
    raise ValueError("broken")


def release(
    harness: Harness, stable: Predictor, candidate: Predictor, *, fallback: Predictor | None = None
) -> tuple[LoadedVersion, LoadedVersion]:
    """Serve a stable version that answers nobody and a candidate that answers all."""
    fallbacks = [("constant", fallback)] if fallback is not None else []
    versions = {
        number: LoadedVersion(
            "svc",
            number,
            CONTRACT,
            executor=InlineExecutor(model, call_soon=harness.loop.call_soon),
            fallbacks=fallbacks,
        )
        for number, model in ((1, stable), (2, candidate))
    }
    route = ServiceRoute(
        "svc",
        generation=1,
        salt="s",
        arms=(Arm(STABLE, 1, ()), Arm(CANDIDATE, 2, ((0, PARTS),))),
        manifests=dict.fromkeys(versions, ZERO),
    )
    harness.plane.endpoints["svc"] = Endpoint(route, versions, secret=b"k")
    return versions[1], versions[2]


def said(call: Call) -> tuple[list[float], str, str]:
    group: Group = call.group
    return answers(call), group.answered_by, group.error.code if group.error else ""


@in_loop
async def test_the_stable_version_answers_what_the_candidate_cannot_and_the_record_says_so(
    tmp_path: Path,
) -> None:
    harness = Harness(tmp_path)
    release(harness, Told(lambda x: x + 1), Told(broken), fallback=always(7.0))

    calls = await harness.ask([1.0], [2.0, 3.0])

    assert said(calls[0]) == ([2.0], "version:1", "predictor_failed")
    assert said(calls[1]) == ([3.0, 4.0], "version:1", "predictor_failed")
    assert {call.arm.version.number for call in calls} == {2}
    harness.journal.close()
    found = journalled(tmp_path / "journal")
    assert all(found[call.request_id] == (Flag.FALLBACK, "predictor_failed") for call in calls)


@in_loop
async def test_what_the_stable_version_cannot_answer_either_goes_to_the_table(tmp_path: Path) -> None:
    harness = Harness(tmp_path)
    release(harness, Told(broken), Told(lambda x: x * float("nan")), fallback=always(7.0))

    (call,) = await harness.ask([1.0])

    assert said(call) == ([7.0], "constant", "output_violation")


@in_loop
async def test_without_anybody_left_the_candidates_own_error_is_the_answer(tmp_path: Path) -> None:
    harness = Harness(tmp_path)
    release(harness, Told(broken), Told(broken))

    (call,) = await harness.ask([1.0])

    assert call.error is not None
    assert call.error.code == "predictor_failed"


@in_loop
async def test_a_version_that_keeps_failing_is_left_alone_and_asked_again_by_and_by(tmp_path: Path) -> None:
    harness = Harness(tmp_path)
    is_broken = True
    model = Told(lambda x: broken(x) if is_broken else x)
    _, candidate = release(harness, Told(lambda x: x + 1), model)
    for _ in range(10):
        await harness.ask([1.0])
    assert not candidate.breaker.is_closed
    asked = len(model.batches)

    (call,) = await harness.ask([1.0])

    assert said(call) == ([2.0], "version:1", "breaker_open")
    assert len(model.batches) == asked
    is_broken = False
    candidate.breaker._reopens_s = 0.0
    calls = await harness.ask([1.0], [2.0], [3.0])
    assert [said(call)[1] for call in calls] == ["", "version:1", "version:1"]
    for _ in range(2):
        await harness.ask([1.0])
    assert candidate.breaker.is_closed
    assert said((await harness.ask([5.0]))[0]) == ([5.0], "", "")


@in_loop
async def test_rows_that_break_the_contract_open_the_breaker_as_errors_do(tmp_path: Path) -> None:
    harness = Harness(tmp_path)
    _, candidate = release(harness, Told(lambda x: x), Told(lambda x: x * 0 - 1))

    await harness.ask(*([float(n)] for n in range(12)))

    assert not candidate.breaker.is_closed


@in_loop
async def test_good_calls_keep_the_breaker_closed_between_failures(tmp_path: Path) -> None:
    harness = Harness(tmp_path)
    _, candidate = release(harness, Told(lambda x: x), Told(lambda x: broken(x) if (x == 13).any() else x))

    for _ in range(20):
        await harness.ask([13.0])
        await harness.ask([1.0], [2.0])

    assert candidate.breaker.is_closed


class Silent:
    """An executor that takes rows and never answers."""

    is_there = True
    waiting_rows = 0
    wait_s = 0.0

    def submit(self, group: Group, done: Any) -> None:
        pass

    def close(self) -> None:
        pass


@in_loop
async def test_a_version_that_answers_nothing_at_all_counts_as_failing_and_its_callers_get_the_table(
    tmp_path: Path,
) -> None:
    harness = Harness(tmp_path)
    version = harness.serve(Silent(), fallbacks=[("constant", always(7.0))])  # type: ignore[arg-type]

    calls = [call for n in range(12) for call in await harness.ask([float(n)], timeout_s=0.02)]

    assert [call.group.answered_by for call in calls] == ["constant"] * 12
    assert not version.breaker.is_closed


@in_loop
async def test_a_caller_that_is_gone_before_its_turn_costs_the_model_nothing(tmp_path: Path) -> None:
    harness = Harness(tmp_path)
    model = Told(lambda x: x)
    harness.serve(model)
    call = harness.call([1.0], lambda call: None)
    harness.plane.submit(call)

    call.abandon()
    await asyncio.sleep(0.01)

    assert model.batches == []


class Elsewhere:
    """An executor that keeps what it is given until a test fails it, as a model in a runner may."""

    in_loop = False
    is_there = True

    def __init__(self) -> None:
        self.backlog = Backlog(DurationModel({}), max_batch_rows=8)
        self.kept: list[tuple[Group, Callable[[Group], None]]] = []

    def submit(self, group: Group, done: Callable[[Group], None]) -> None:
        self.kept.append((group, done))

    def fail(self, number: int) -> None:
        group, done = self.kept[number]
        group.error = PredictorError("broken")
        done(group)

    def close(self) -> None:
        pass


@in_loop
async def test_a_stand_in_that_answers_at_once_leaves_alone_what_still_waits(tmp_path: Path) -> None:
    harness = Harness(tmp_path)
    harness.plane.outbox.is_alone = lambda: True
    _, candidate = release(harness, Told(lambda x: x + 1), Told(broken))
    elsewhere = candidate.executor = Elsewhere()  # type: ignore[assignment]  # all of an executor that is asked here
    loop = harness.loop
    defects: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda loop, context: defects.append(context))
    loop.call_later(0.01, lambda: elsewhere.fail(0))
    first = loop.create_task(harness.ask([1.0]))
    await asyncio.sleep(0)
    second = loop.create_task(harness.ask([2.0], timeout_s=0.05))

    assert said((await first)[0]) == ([2.0], "version:1", "predictor_failed")
    (late,) = await second
    assert late.error is not None
    assert late.error.code == "deadline_exceeded"
    assert defects == []
