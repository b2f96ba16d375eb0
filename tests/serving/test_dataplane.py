"""Calls go through the model, the contract and the journal, whatever the model does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvloop

from tests.journal.fake import FailingFiles
from tests.serving.plane import CONTRACT, Harness, Told, answers, journalled
from tidegate.core.error import TidegateError
from tidegate.journal.codec import REFUSALS
from tidegate.journal.decode import decode_refusals
from tidegate.journal.reader import SegmentReader, list_segments
from tidegate.journal.record import Flag, JournalMode
from tidegate.predictor.lookup import LookupOptions, LookupPredictor
from tidegate.serving.call import Call, Group

Test = Callable[[Path], Awaitable[None]]


def in_loop(test: Test) -> Callable[[Path], None]:
    def run(tmp_path: Path) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(test(tmp_path))  # type: ignore[arg-type]

    run.__name__ = test.__name__
    return run


def always(value: float) -> LookupPredictor:
    return LookupPredictor(CONTRACT, LookupOptions(default={"y": value}))


@in_loop
async def test_answers_each_request_with_its_own_rows_when_many_share_a_turn(tmp_path: Path) -> None:
    harness = Harness(tmp_path)
    model = Told(lambda x: x * 2)
    harness.serve(model)

    calls = await harness.ask([1.0], [2.0, 3.0], [4.0])

    assert [answers(call) for call in calls] == [[2.0], [4.0, 6.0], [8.0]]
    assert model.batches == [4]
    harness.journal.close()
    assert set(journalled(tmp_path / "journal")) == {call.request_id for call in calls}


@in_loop
async def test_yields_the_core_while_calls_crowd_and_takes_it_for_a_lone_one(tmp_path: Path) -> None:
    harness = Harness(tmp_path)
    harness.serve(Told(lambda x: x))

    await harness.ask([1.0])
    await harness.ask([1.0], [2.0], [3.0], [4.0])
    crowded = list(harness.yielded)
    await harness.ask([5.0])

    assert (crowded, harness.yielded) == ([True], [True, False])


@in_loop
async def test_splits_a_large_request_over_turns_without_mixing_rows(tmp_path: Path) -> None:
    harness = Harness(tmp_path)
    model = Told(lambda x: x)
    harness.serve(model)
    values = [float(value % 97) for value in range(1300)]

    (call,) = await harness.ask(values)

    assert answers(call) == values
    assert model.batches == [512, 512, 276]


@in_loop
async def test_fails_only_the_poisoned_request_when_the_model_raises(tmp_path: Path) -> None:
    def explode_on_13(x: Any) -> Any:
        if (x == 13).any():
            raise ValueError("unlucky")
        return x

    harness = Harness(tmp_path)
    harness.serve(Told(explode_on_13))

    good, bad, other = await harness.ask([1.0], [13.0], [2.0])

    assert (answers(good), answers(other)) == ([1.0], [2.0])
    assert bad.error is not None
    assert bad.error.code == "predictor_failed"
    assert "unlucky" not in str(bad.error), "what a model says may hold what a caller sent"
    harness.journal.close()
    records = journalled(tmp_path / "journal")
    assert records[bad.request_id] == (Flag.FAILED, "predictor_failed")
    assert records[good.request_id] == (0, None)


@pytest.mark.parametrize("broken", [np.nan, np.inf, 101.0, -0.5])
def test_refuses_outputs_outside_of_the_contract(tmp_path: Path, broken: float) -> None:
    async def test(folder: Path) -> None:
        harness = Harness(folder)
        harness.serve(Told(lambda x: np.where(x == 7, broken, x)))

        good, bad = await harness.ask([1.0, 2.0], [3.0, 7.0])

        assert answers(good) == [1.0, 2.0]
        assert bad.error is not None
        assert bad.error.code == "output_violation"
        assert "'y'" in bad.error.message
        harness.journal.close()
        assert journalled(folder / "journal")[bad.request_id] == (
            Flag.FAILED | Flag.INVALID,
            "output_violation",
        )

    in_loop(test)(tmp_path)


@in_loop
async def test_finds_every_bad_request_when_more_rows_are_bad_than_a_report_lists(tmp_path: Path) -> None:
    harness = Harness(tmp_path)
    harness.serve(Told(lambda x: np.where(x > 50, np.nan, x)))

    calls = await harness.ask(*([float(value)] for value in range(100)))

    assert [call.error is None for call in calls] == [value <= 50 for value in range(100)]


@pytest.mark.parametrize("n_rows", [0, 1, 3])
def test_refuses_an_answer_of_another_length(tmp_path: Path, n_rows: int) -> None:
    async def test(folder: Path) -> None:
        harness = Harness(folder)
        harness.serve(Told(lambda _: np.zeros(n_rows)))

        (call,) = await harness.ask([1.0, 2.0])

        assert call.error is not None
        assert call.error.code == "predictor_failed"

    in_loop(test)(tmp_path)


@in_loop
async def test_falls_back_in_order_and_marks_the_answer(tmp_path: Path) -> None:
    harness = Harness(tmp_path)
    harness.serve(
        Told(lambda _: 1 / 0),
        fallbacks=[("broken", Told(lambda x: x * np.nan)), ("mean", always(42.0))],
    )

    (call,) = await harness.ask([1.0, 2.0])

    assert answers(call) == [42.0, 42.0]
    assert call.error is None
    assert call.group.answered_by == "mean"
    harness.journal.close()
    assert journalled(tmp_path / "journal")[call.request_id] == (Flag.FALLBACK, "predictor_failed")


class Silent:
    """An executor that never answers, until it is told to."""

    waiting_rows = 0
    wait_s = 0.0

    def __init__(self) -> None:
        self.held: list[tuple[Group, Callable[[Group], None]]] = []

    def submit(self, group: Group, done: Callable[[Group], None]) -> None:
        self.held.append((group, done))

    def close(self) -> None:
        pass


@in_loop
async def test_answers_late_requests_from_the_fallback_and_ignores_the_model_afterwards(
    tmp_path: Path,
) -> None:
    harness = Harness(tmp_path)
    executor = Silent()
    harness.serve(executor, fallbacks=[("mean", always(5.0))])

    patient: list[Call] = []
    slow = harness.call([3.0], patient.append, timeout_s=30)
    harness.plane.submit(slow)
    (late,) = await harness.ask([1.0], timeout_s=0.03)
    group, done = executor.held[0]
    group.outputs = always(9.0).predict(group.inputs)
    done(group)
    await asyncio.sleep(0)
    await asyncio.sleep(0)

    assert answers(late) == [5.0]
    assert late.group.error is not None
    assert late.group.error.code == "deadline_exceeded"
    assert patient == [slow]
    assert answers(slow) == [9.0]
    harness.journal.close()
    records = journalled(tmp_path / "journal")
    assert records[late.request_id] == (Flag.FALLBACK | Flag.LATE, "deadline_exceeded")
    assert records[slow.request_id] == (0, None)


@in_loop
async def test_a_moment_of_silence_is_one_failure_however_many_waited(tmp_path: Path) -> None:
    harness = Harness(tmp_path)
    version = harness.serve(Silent(), fallbacks=[("mean", always(5.0))])

    await harness.ask(*[[float(number)] for number in range(40)], timeout_s=0.03)

    assert version.breaker.is_closed  # the loop itself may have stood still, its answers waiting to be read


@in_loop
async def test_runs_nothing_for_a_caller_who_has_gone(tmp_path: Path) -> None:
    harness = Harness(tmp_path)
    model = Told(lambda x: x)
    harness.serve(model)
    replied: list[Call] = []
    gone = harness.call([1.0], replied.append)
    harness.plane.submit(gone)
    gone.abandon()

    await harness.ask([2.0])

    assert model.batches == [1]
    assert replied == []


@pytest.mark.parametrize(
    ("mode", "answered"),
    [(JournalMode.AVAILABLE, True), (JournalMode.REQUIRED, False), (JournalMode.DURABLE, False)],
)
def test_answers_as_the_journal_mode_says_when_the_disk_is_full(
    tmp_path: Path, mode: JournalMode, answered: bool
) -> None:
    async def test(folder: Path) -> None:
        files = FailingFiles()
        harness = Harness(folder, files=files)
        harness.serve(Told(lambda x: x), mode=mode)
        (before,) = await harness.ask([1.0])
        files.free_bytes = 0
        (during,) = await harness.ask([2.0])
        files.free_bytes = None
        await asyncio.sleep(1.1)  # the writer waits a second before it tries to begin a segment again
        (after,) = await harness.ask([3.0])

        assert before.error is None
        assert (during.error is None) is answered
        if during.error is not None:
            assert during.error.code == "journal_unavailable"
        assert after.error is None
        harness.journal.close()
        records = journalled(folder / "journal")
        assert set(records) == {before.request_id, after.request_id}

    in_loop(test)(tmp_path)


@in_loop
async def test_answers_after_the_sync_in_durable_mode(tmp_path: Path) -> None:
    files = FailingFiles()
    harness = Harness(tmp_path, files=files)
    harness.serve(Told(lambda x: x), mode=JournalMode.DURABLE)

    await harness.ask([1.0])
    assert "sync" in files.calls

    files.failing.add("sync")
    (call,) = await harness.ask([2.0])
    assert call.error is not None
    assert call.error.code == "journal_unavailable"


@in_loop
async def test_names_the_known_services_when_one_is_unknown(tmp_path: Path) -> None:
    harness = Harness(tmp_path)
    harness.serve(Told(lambda x: x))

    with pytest.raises(TidegateError, match="svc"):
        harness.plane.endpoint("other")


@in_loop
async def test_asks_the_fallback_instead_of_the_model_in_safe_mode(tmp_path: Path) -> None:
    harness = Harness(tmp_path)
    model = Told(lambda x: x)
    harness.serve(model, fallbacks=[("mean", always(3.0))], safe_mode=True)

    (call,) = await harness.ask([1.0])

    assert answers(call) == [3.0]
    assert model.batches == []
    harness.journal.close()
    assert journalled(tmp_path / "journal")[call.request_id] == (Flag.FALLBACK, "safe_mode")


@in_loop
async def test_an_answer_that_cannot_be_written_costs_no_other(tmp_path: Path) -> None:
    harness = Harness(tmp_path)
    harness.serve(Told(lambda x: x))
    replies: list[str | None] = []

    def break_once(call: Call) -> None:
        replies.append(call.error and call.error.code)
        if call.error is None:
            raise ValueError("a defect")

    harness.plane.submit(harness.call([1.0], break_once))
    (call,) = await harness.ask([2.0])

    assert answers(call) == [2.0]
    assert replies == [None, "internal"]


@in_loop
async def test_a_fallback_that_raises_anything_leaves_the_models_error(tmp_path: Path) -> None:
    harness = Harness(tmp_path)
    harness.serve(Told(lambda _: 1 / 0), fallbacks=[("broken", Told(lambda _: {}["missing"]))])

    (call,) = await harness.ask([1.0])

    assert call.error is not None
    assert call.error.code == "predictor_failed"


def test_a_refusal_names_a_field_of_the_contract_and_none_that_a_caller_made_up(tmp_path: Path) -> None:
    async def refuse() -> None:
        harness = Harness(tmp_path)
        harness.serve(Told(lambda x: x))
        for field in ("x", "x", *(f"made up {n}" for n in range(50)), None):
            harness.plane.count_refusal("svc", "contract_violation", field)
        harness.plane.count_refusal("nowhere", "contract_violation", "x")
        harness.plane.journal_refusals()
        harness.journal.close()

    asyncio.run(refuse())

    (entry,) = list_segments(tmp_path / "journal")
    with SegmentReader(entry.path) as reader:
        bodies = [frame.body for frame in reader.frames() if frame.body[0] == REFUSALS]
        counts = {(each.service, each.cause): each.count for body in bodies for each in decode_refusals(body)}
    assert counts == {
        ("svc", "contract_violation(x)"): 2,
        ("svc", "contract_violation(an unknown field)"): 50,
        ("svc", "contract_violation"): 1,
        ("nowhere", "contract_violation(an unknown field)"): 1,
    }
