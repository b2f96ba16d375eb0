"""How fast the error budget of an objective burns, over two windows at once.

One window alone is either late or nervous: the long one says that it matters, the short one that it
goes on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from tidegate.contract.objective import Objectives
from tidegate.journal.tally import Tally, upper_us

MIN_EVENTS = 10
"""Bad requests in the long window below which nobody is called: of 3 requests at night one may fail."""


class BurnRule(NamedTuple):
    """A pair of windows and the rate at which to call."""

    rate: float
    long_minutes: int
    short_minutes: int


RULES = (BurnRule(14.4, 60, 5), BurnRule(6.0, 360, 30))
"""2% of a month's budget in an hour, 5% in six. Source: Google, The Site Reliability Workbook, chapter 5."""


class Burn(msgspec.Struct, frozen=True):
    """One objective that burns too fast.

    Attributes:
        objective: `availability` or `latency`.
        rate: Times as fast as the budget allows, over the long window.
        short_rate: The same over the short one.
        long_minutes, short_minutes: The windows.
        n_bad, n_requests: Over the long window.
        target: Share of requests that must be good.
    """

    objective: str
    rate: float
    short_rate: float
    long_minutes: int
    short_minutes: int
    n_bad: int
    n_requests: int
    target: float


def burning(minutes: Mapping[int, Tally], now_minute: int, objectives: Objectives) -> list[Burn]:
    """Return the objectives whose budget burns too fast at a minute.

    Args:
        minutes: Minute -> what happened in it, all versions and arms together.
        now_minute: Minutes since 1970 UTC; the windows end with it.
        objectives: What the service promises. Of the latency at most 1% may be slower.
    """
    found = []
    targets = []
    if objectives.availability is not None:
        targets.append(("availability", objectives.availability))
    if objectives.latency_p99_ms is not None:
        targets.append(("latency", 0.99))
    for name, target in targets:
        for rule in RULES:
            limit_us = (objectives.latency_p99_ms or 0.0) * 1000
            bad, total = _window(minutes, now_minute, rule.long_minutes, name, limit_us)
            if bad < MIN_EVENTS:
                continue
            short_bad, short_total = _window(minutes, now_minute, rule.short_minutes, name, limit_us)
            rate = bad / total / (1 - target)
            short = short_bad / short_total / (1 - target) if short_total else 0.0
            if rate >= rule.rate and short >= rule.rate:
                found.append(
                    Burn(name, rate, short, rule.long_minutes, rule.short_minutes, bad, total, target)
                )
                break
    return found


def _window(
    minutes: Mapping[int, Tally], now_minute: int, length: int, objective: str, limit_us: float
) -> tuple[int, int]:
    bad = total = 0
    for minute in range(now_minute - length + 1, now_minute + 1):
        tally = minutes.get(minute)
        if tally is None:
            continue
        total += tally.requests
        if objective == "availability":
            bad += tally.failed
        else:
            bad += sum(
                count for step, count in tally.service_times.items() if upper_us(step) > limit_us * 1.19
            )
    return bad, total
