"""A simulated server, to hold queue disciplines against each other without a clock or a socket.

Some workers share one queue. A service takes a fixed time, refusing a request a small part of it, and
both take it from the same workers. Requests come at the points of a Poisson process.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from typing import Protocol

from tidegate.serving.duration import DurationModel
from tidegate.serving.limit import GradientLimit
from tidegate.serving.queue import CallQueue

WORKERS = 4
SERVICE_S = 0.02
DEADLINE_S = 0.2
REFUSAL_SHARE = 0.01


class Policy(Protocol):
    """Who is let in, who is served next, and who is refused instead."""

    def put(self, arrived_s: float) -> bool:
        """Take a request in; False to refuse it on arrival."""
        ...

    def take(self, now_s: float) -> tuple[float | None, int]:
        """Return the arrival time of the next one to serve, and how many were refused on the way."""
        ...

    def served(self, arrived_s: float, now_s: float, took_s: float) -> None:
        """Learn from a service that ended."""
        ...


class Fifo:
    """First in, first out, to a bound."""

    def __init__(self, bound: int = 10**9, *, drop_late: bool = False) -> None:
        self._waiting: deque[float] = deque()
        self._bound = bound
        self._drop_late = drop_late

    def put(self, arrived_s: float) -> bool:
        if len(self._waiting) >= self._bound:
            return False
        self._waiting.append(arrived_s)
        return True

    def take(self, now_s: float) -> tuple[float | None, int]:
        refused = 0
        while self._waiting:
            arrived_s = self._waiting.popleft()
            if not self._drop_late or now_s + SERVICE_S <= arrived_s + DEADLINE_S:
                return arrived_s, refused
            refused += 1
        return None, refused

    def served(self, arrived_s: float, now_s: float, took_s: float) -> None:
        pass


class Ours:
    """The queue as the runner uses it, with durations learned on the way."""

    def __init__(self) -> None:
        self._duration = DurationModel({1: SERVICE_S * 1e6})
        self.queue: CallQueue[float] = CallQueue(max_batch_rows=1, call_s=self._duration.call_s)

    def put(self, arrived_s: float) -> bool:
        self.queue.put(arrived_s, n_rows=1, deadline_s=arrived_s + DEADLINE_S, now_s=arrived_s)
        return True

    def take(self, now_s: float) -> tuple[float | None, int]:
        batch, late, shed = self.queue.take(now_s)
        return (batch[0] if batch else None), len(late) + len(shed)

    def served(self, arrived_s: float, now_s: float, took_s: float) -> None:
        self._duration.observe(1, took_s)


class Limited(Fifo):
    """First in, first out, behind a limit of what is under way."""

    def __init__(self) -> None:
        super().__init__()
        self._limit = GradientLimit(minimum=WORKERS)
        self._in_flight = 0

    def put(self, arrived_s: float) -> bool:
        if self._in_flight >= self._limit.limit:
            return False
        self._in_flight += 1
        return super().put(arrived_s)

    def served(self, arrived_s: float, now_s: float, took_s: float) -> None:
        self._limit.observe(now_s - arrived_s, in_flight=self._in_flight, now_s=now_s)
        self._in_flight -= 1


def goodput(
    policy: Policy,
    overload: float,
    *,
    seconds: float = 20.0,
    slower: float = 1.0,
    refusal_share: float = REFUSAL_SHARE,
    seed: int = 1,
) -> float:
    """Return the part of the capacity that is answered in time.

    Args:
        policy: The discipline.
        overload: Offered load over capacity, of the model as it was.
        seconds: How long.
        slower: How many times as long as planned a service takes, from the start.
        refusal_share: Cost of a refusal over that of a service.
        seed: Of the arrivals.
    """
    draw = random.Random(seed)
    service_s = SERVICE_S * slower
    refusal_s = SERVICE_S * refusal_share
    rate_per_s = overload * WORKERS / SERVICE_S
    arrivals_s = draw.expovariate(rate_per_s)
    free: list[float] = [0.0] * WORKERS  # when each worker is free again
    done: list[tuple[float, float]] = []  # services under way: end and arrival
    debt_s, good = 0.0, 0
    now_s = 0.0
    while now_s < seconds:
        if arrivals_s <= free[0]:
            now_s = arrivals_s
            if not policy.put(now_s):
                debt_s += refusal_s
            arrivals_s += draw.expovariate(rate_per_s)
            continue
        now_s = free[0]
        while done and done[0][0] <= now_s:
            ended_s, arrived_s = heapq.heappop(done)
            policy.served(arrived_s, ended_s, service_s)
            good += ended_s - arrived_s <= DEADLINE_S
        arrived, refused = policy.take(now_s)
        debt_s += refused * refusal_s
        heapq.heappop(free)
        if arrived is None:
            heapq.heappush(free, max(arrivals_s, now_s) + 1e-9 + debt_s)
            debt_s = 0.0
            continue
        end_s = now_s + service_s + debt_s
        debt_s = 0.0
        heapq.heappush(free, end_s)
        heapq.heappush(done, (end_s, arrived))
    return good / (now_s * WORKERS / service_s)
