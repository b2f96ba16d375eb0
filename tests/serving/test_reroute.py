"""A version that was rolled back answers nothing that still waits for it, and nobody is refused for that."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from tests.serving.plane import CONTRACT, Harness, Told, answers, journalled
from tests.serving.test_dataplane import always, in_loop
from tests.serving.test_shadow import DIGEST, Silent
from tidegate.route.route import CANDIDATE, PARTS, STABLE, Arm, Latch, ServiceRoute
from tidegate.serving.call import Call, Group
from tidegate.serving.endpoint import Endpoint, LoadedVersion
from tidegate.serving.inline import InlineExecutor


class Held(Silent):
    """A model that keeps what it is asked until it is told to answer, and takes cancelled rows back."""

    def answer(self) -> None:
        asked, self.asked = self.asked, []
        for group, done in asked:
            group.outputs = InlineExecutor(Told(lambda x: x + 50), call_soon=lambda _: None)._predict(
                group.inputs
            )
            done(group)


def route_of(*, latched: bool = False, safe_mode: bool = False) -> ServiceRoute:
    """Half of the keys go to version 2, or none of them once it is latched."""
    half = PARTS // 2
    arms = (Arm(STABLE, 1, ((half, PARTS),)), Arm(CANDIDATE, 2, ((0, half),)))
    route = ServiceRoute(
        "svc", generation=1, salt="s", arms=arms, manifests=dict.fromkeys((1, 2), DIGEST), fallback=("zero",)
    )
    if latched:
        stable = (Arm(STABLE, 1, ((0, PARTS),)),)
        route = msgspec.structs.replace(
            route, generation=2, arms=stable, latched=(Latch(2, "bad", "ana", 0),)
        )
    return msgspec.structs.replace(route, safe_mode=safe_mode)


class Site:
    def __init__(self, folder: Path, stable: Any, candidate: Held) -> None:
        self.harness = Harness(folder)
        executor = InlineExecutor(stable, call_soon=self.harness.loop.call_soon)
        self.versions = {
            1: LoadedVersion("svc", 1, CONTRACT, executor=executor, fallbacks=[("zero", always(0.0))]),
            2: LoadedVersion("svc", 2, CONTRACT, executor=candidate, fallbacks=[("zero", always(0.0))]),
        }
        self.answered: list[Call] = []
        self.publish(route_of())

    def publish(self, route: ServiceRoute) -> Endpoint:
        endpoint = self.harness.plane.endpoints["svc"] = Endpoint(route, self.versions, secret=b"k")
        self.harness.plane.reroute(endpoint)
        return endpoint

    def ask(self, n_requests: int) -> None:
        for number in range(n_requests):
            call = self.harness.call([float(number)], self.answered.append)
            endpoint = self.harness.plane.endpoint("svc")
            call.arm, call.bucket = endpoint.pick(call.request_id)
            self.harness.plane.submit(call)

    async def until(self, test: Callable[[], bool]) -> None:
        for _ in range(500):
            if test():
                return
            await asyncio.sleep(0.002)
        raise AssertionError("it did not come to that")


@in_loop
async def test_what_waits_for_a_latched_version_is_answered_by_stable_and_recorded_once(
    tmp_path: Path,
) -> None:
    candidate = Held()
    site = Site(tmp_path, Told(lambda x: x), candidate)
    site.ask(40)
    await site.until(lambda: sum(len(group.calls) for group, _ in candidate.asked) > 5)
    waited = [call for group, _ in candidate.asked for call in group.calls]

    site.publish(route_of(latched=True))
    await site.until(lambda: len(site.answered) == 40)
    candidate.answer()  # too late: nobody hears of it
    await asyncio.sleep(0.01)

    assert len(site.answered) == 40
    assert {call.arm.version.number for call in site.answered} == {1}
    assert [call.error for call in site.answered] == [None] * 40
    assert sorted(answers(call)[0] for call in site.answered) == [float(number) for number in range(40)]
    assert all(call.settled and call.abandoned for call in waited)
    site.harness.journal.close()
    assert set(journalled(tmp_path / "journal")) == {call.request_id for call in site.answered}


@in_loop
async def test_what_waits_when_safe_mode_begins_is_answered_by_the_fallback(tmp_path: Path) -> None:
    candidate = Held()
    site = Site(tmp_path, Told(lambda x: x), candidate)
    site.ask(40)
    await site.until(lambda: bool(candidate.asked))
    n_before = len(site.answered)

    site.publish(route_of(safe_mode=True))
    await site.until(lambda: len(site.answered) == 40)

    assert {call.group.answered_by for call in site.answered[n_before:]} == {"zero"}


@in_loop
async def test_what_came_in_the_same_turn_as_the_new_route_does_not_wait_for_the_old(tmp_path: Path) -> None:
    candidate = Held()
    site = Site(tmp_path, Told(lambda x: x), candidate)
    site.ask(40)

    site.publish(route_of(latched=True))
    await site.until(lambda: len(site.answered) == 40)

    assert {call.arm.version.number for call in site.answered} == {1}


@in_loop
async def test_a_client_that_leaves_after_that_is_heard_of(tmp_path: Path) -> None:
    candidate = Held()
    site = Site(tmp_path, Told(lambda x: x), candidate)
    site.ask(40)
    await site.until(lambda: bool(candidate.asked))
    waited = [call for group, _ in candidate.asked for call in group.calls]

    site.publish(route_of(latched=True))
    for call in waited:
        call.abandon()
    await site.until(lambda: len(site.answered) == 40 - len(waited))
    await asyncio.sleep(0.01)

    assert len(site.answered) == 40 - len(waited)


@in_loop
async def test_a_version_that_keeps_its_keys_keeps_what_waits(tmp_path: Path) -> None:
    candidate = Held()
    site = Site(tmp_path, Told(lambda x: x), candidate)
    site.ask(40)
    await site.until(lambda: bool(candidate.asked))
    waited: list[Group] = [group for group, _ in candidate.asked]

    site.publish(msgspec.structs.replace(route_of(), generation=3))
    candidate.answer()
    await site.until(lambda: len(site.answered) == 40)

    by_candidate = [call for call in site.answered if call.arm.version.number == 2]
    assert len(by_candidate) == sum(group.n_rows for group in waited) > 0
