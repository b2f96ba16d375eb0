"""One worker's shadows in a world drawn from one seed: I7, checked after every step.

Shadows answer at once, later, twice, never, with the wrong rows, or fail; some hold the loop up while
they run; the worker becomes busy, the journal breaks, routes forget a shadow. Time is that of the world.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from tests.serving.plane import CONTRACT
from tidegate.contract.batch import Batch
from tidegate.core.digest import Digest
from tidegate.journal.record import JournalUnavailable, RecordKind, Stream, Turn
from tidegate.predictor.protocol import PredictorError
from tidegate.route.route import PARTS, STABLE, Arm, ServiceRoute, Shadow
from tidegate.serving import shadow
from tidegate.serving.call import Call, Group
from tidegate.serving.endpoint import Endpoint, LoadedVersion
from tidegate.serving.metric import MetricPage
from tidegate.serving.shadow import ShadowLane

DIGEST = Digest("sha256:" + "0" * 64)
LONGEST_S = 0.02
"""What the slowest shadow's call holds the loop up for."""


class Broken(AssertionError):
    """I7 does not hold; the message names the seed, so that it can be run again."""


class Timer:
    """A call that is due later."""

    def __init__(self, at_s: float, act: Callable[[], None]) -> None:
        self.at_s = at_s
        self.act = act
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True


class Loop:
    """The worker's loop and clock; what runs in it may let time pass."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.timers: list[Timer] = []

    def time(self) -> float:
        return self.now_s

    def monotonic_s(self) -> float:
        return self.now_s

    def wall_us(self) -> int:
        return round(self.now_s * 1e6)

    def call_later(self, within_s: float, act: Callable[..., Any], *arguments: Any) -> Timer:
        timer = Timer(self.now_s + within_s, lambda: act(*arguments))
        self.timers.append(timer)
        return timer

    def next_timer(self, until_s: float) -> Timer | None:
        self.timers = [each for each in self.timers if not each.is_cancelled]
        due = min(self.timers, key=lambda each: each.at_s, default=None)
        if due is None or due.at_s > until_s:
            return None
        self.timers.remove(due)
        self.now_s = max(self.now_s, due.at_s)
        return due


class Journal:
    """Notes whose shadow record was written how often; breaks off where it is told to."""

    def __init__(self) -> None:
        self.is_down = False
        self.written: Counter[tuple[int, bytes]] = Counter()

    def stream(self, stream: Stream) -> Any:
        assert stream.kind is RecordKind.SHADOW
        return _Encoder(stream.version)

    def append(self, frames: Sequence[Any]) -> None:
        if self.is_down:
            raise JournalUnavailable("The disk is full.")
        for version, requests in frames:
            self.written.update((version, request) for request in requests)


class _Encoder:
    def __init__(self, version: int) -> None:
        self.version = version

    def encode(self, turn: Turn) -> Any:
        return self.version, turn.request_ids


class Model:
    """A shadow that does what the seed says."""

    waiting_rows = 0
    wait_s = 0.0

    def __init__(self, world: World) -> None:
        self.world = world
        self.is_there = True
        self.takes_s = world.random.choice([0.0, 0.0003, 0.004, LONGEST_S])

    def submit(self, group: Group, done: Callable[[Group], None]) -> None:
        world = self.world
        world.spend(self.takes_s)
        way = world.random.randrange(9)
        if way == 0:
            raise RuntimeError("a defect")
        if way == 1:
            return  # it never answers
        if way == 2:
            group.error = PredictorError("no")
        else:
            rows = group.n_rows + (way == 3)
            y = np.full(rows, np.nan if way == 4 else 1.0)
            group.outputs = Batch({"y": y}, rows)
        if way in (5, 6):
            world.loop.call_later(world.random.choice([0.001, 0.5, 40.0]), done, group)
        else:
            done(group)
        if way == 7:
            world.loop.call_later(0.01, done, group)  # once more

    def close(self) -> None: ...


class World:
    """A worker with two shadows, and whoever asks it.

    Args:
        seed: Everything follows from it.
        folder: Where counters are mapped.
    """

    def __init__(self, seed: int, folder: Path) -> None:
        self.seed = seed
        self.random = Random(seed)
        self.log: list[str] = []
        self.loop = Loop()
        self.journal = Journal()
        self.page = MetricPage(folder / f"{seed}.page")
        self.used_s = 0.0
        self.busy = 0.0
        self.spent: list[tuple[float, float]] = []
        self.lane = ShadowLane(
            self.loop,  # type: ignore[arg-type]
            self.journal,
            clock=self.loop,
            metrics=self.page,
            used_s=lambda: self.used_s,
        )
        self.models = [Model(self) for _ in range(2)]
        versions = {
            number: LoadedVersion("svc", number, CONTRACT, executor=model, tolerances={"y": 0.5})
            for number, model in enumerate([Model(self), *self.models], start=1)
        }
        shares = [PARTS, self.random.choice([PARTS, PARTS // 2])]
        route = ServiceRoute(
            "svc",
            generation=1,
            salt="s",
            arms=(Arm(STABLE, 1, ((0, PARTS),)),),
            shadows=tuple(Shadow(number, share) for number, share in zip((2, 3), shares, strict=True)),
            manifests=dict.fromkeys(versions, DIGEST),
        )
        self.endpoint = Endpoint(route, versions, secret=b"k")
        self.offered = {2: 0, 3: 0}
        self.requests: set[bytes] = set()

    def spend(self, took_s: float) -> None:
        self.loop.now_s += took_s
        if took_s:
            self.spent.append((self.loop.now_s, took_s))

    def run(self, n_steps: int = 60) -> None:
        """Live through some seconds."""
        actions = [self._ask, self._ask, self._ask, self._pass, self._pass, self._flip]
        for _ in range(n_steps):
            action = self.random.choice(actions)
            self.log.append(action.__name__)
            action()
            self.check()
        self.journal.is_down, self.busy = False, 0.0
        self._until(self.loop.now_s + 200.0)
        self.check_end()

    def _ask(self) -> None:
        (arm,) = self.endpoint.arms
        calls, values = [], []
        for _ in range(self.random.choice([1, 1, 3])):
            n_rows = self.random.choice([1, 2, 60])
            request = self.random.randbytes(16)
            _, bucket = self.endpoint.pick(request)
            call = Call(
                arm, [], n_rows=n_rows, request_id=request, arrived_us=self.loop.wall_us(),
                started_s=self.loop.now_s, deadline_s=self.loop.now_s + 1.0, reply=lambda _: None,
            )  # fmt: skip
            call.bucket = bucket
            calls.append(call)
            values += [float(len(values))] * n_rows
            self.requests.add(request)
        inputs = Batch({"x": np.array(values), "tag": np.array([None] * len(values), object)}, len(values))
        group = Group(arm, calls, inputs)
        group.outputs = Batch({"y": np.array(values) % 100}, len(values))
        before = (group.outputs["y"].tobytes(), inputs["x"].tobytes(), group.error, group.flags, list(calls))
        for each in arm.shadows:
            taken = [call for call in calls if each.share >= 1 or call.bucket < each.share]
            self.offered[each.version.number] += len(taken)
        began_s = self.loop.now_s
        self.lane.offer(group)
        after = (group.outputs["y"].tobytes(), inputs["x"].tobytes(), group.error, group.flags, group.calls)
        if after != before or any(call.group is not group or call.error for call in calls):
            raise self._broken("a shadow changed an answer")
        if self.loop.now_s != began_s:
            raise self._broken("an answer waited for a shadow")

    def _pass(self) -> None:
        self._until(self.loop.now_s + self.random.choice([0.001, 0.02, 0.3, 6.0]))

    def _until(self, until_s: float) -> None:
        while (timer := self.loop.next_timer(until_s)) is not None:
            began_s = self.loop.now_s
            timer.act()
            held_s = self.loop.now_s - began_s
            if held_s > 2 * LONGEST_S + 2 * shadow.BURST_S:  # a call of each shadow at most
                raise self._broken(f"shadows held the loop up for {held_s:.4f} s")
            self.used_s += held_s
        idle_s = max(0.0, until_s - self.loop.now_s)
        self.loop.now_s += idle_s
        self.used_s += self.busy * idle_s

    def _flip(self) -> None:
        what = self.random.randrange(4)
        if what == 0:
            self.busy = self.random.choice([0.0, 0.0, 0.95])
        elif what == 1:
            self.journal.is_down = not self.journal.is_down
        else:
            model = self.random.choice(self.models)
            model.is_there = not model.is_there

    def _count(self, name: str, version: int) -> int:
        counter = self.page.counter(name, {"service": "svc", "version": str(version)})
        return int(counter._values[counter._index])

    def check(self) -> None:
        """Check what holds at every moment."""
        for lane in self.lane._lanes.values():
            if lane.n_rows > shadow.MAX_WAITING_ROWS:
                raise self._broken(f"{lane.n_rows} rows wait")
        twice = [place for place, count in self.journal.written.items() if count > 1]
        if twice:
            raise self._broken("a copy was recorded twice")
        if any(request not in self.requests for _, request in self.journal.written):
            raise self._broken("a copy of nothing was recorded")
        self._check_time()

    def _check_time(self) -> None:
        """Of any second that ends here shadows have had a fifth at most, and one call each."""
        since_s = self.loop.now_s - 1.0
        held_s = sum(took for at_s, took in self.spent if at_s > since_s)
        if held_s > 2 * (0.2 + LONGEST_S) + 0.01:
            raise self._broken(f"shadows had {held_s:.3f} s of a second")

    def check_end(self) -> None:
        """Check that nothing is left, and that every copy was either asked or dropped."""
        for model in self.models:
            model.is_there = True
        self._until(self.loop.now_s + 200.0)
        for lane in self.lane._lanes.values():
            if lane.waiting or lane.asked:
                raise self._broken(f"{len(lane.waiting)} copies still wait, {len(lane.asked)} are asked")
        for version, offered in self.offered.items():
            copied = self._count("tidegate_shadow_copied_total", version)
            dropped = self._count("tidegate_shadow_dropped_total", version)
            written = sum(1 for place in self.journal.written if place[0] == version)
            if not offered <= copied + dropped or copied > offered or written > copied:
                raise self._broken(
                    f"version {version}: {offered} offered, {copied} asked, {dropped} dropped, "
                    f"{written} written"
                )

    def _broken(self, what: str) -> Broken:
        history = "\n".join(self.log[-40:])
        return Broken(f"seed {self.seed}: {what}\n{history}\nReplay: World({self.seed}, folder).run()")
