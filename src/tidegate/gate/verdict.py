"""How a gate says what it found."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from tidegate.core.decision import Evidence, Verdict
from tidegate.statistics.interval import Interval

APPLIES = "applies"


def found(
    gate: str,
    verdict: Verdict,
    reason: str,
    *,
    statistic: float | None = None,
    parameters: Mapping[str, Any] | None = None,
    observed: Mapping[str, Any] | None = None,
) -> Evidence:
    """Return what a gate found, with the figures behind it."""
    return Evidence(
        rule=gate,
        verdict=verdict,
        reason=reason,
        parameters=_plain(parameters or {}),
        observed=_plain(observed or {}),
        statistic=statistic,
    )


def _plain(value: Any) -> Any:
    """Return plain data that JSON can keep: a figure that is not finite is None."""
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def not_asked(gate: str, reason: str) -> Evidence:
    """Return that a gate has nothing to look at, and therefore stops nothing; shown as such."""
    return found(gate, Verdict.SAFE, reason, observed={APPLIES: False})


def applies(evidence: Evidence) -> bool:
    """Whether a gate had something to look at."""
    return bool(evidence.observed.get(APPLIES, True))


def against_margin(interval: Interval | None, margin: float) -> Verdict:
    """Return what an interval of "how much worse" says about a margin that it must stay below.

    Safe where all of it lies at or below the margin, regressed where all of it lies above.
    """
    if interval is None or math.isnan(interval.low) or math.isnan(interval.high):
        return Verdict.UNDECIDED
    if interval.high <= margin:
        return Verdict.SAFE
    return Verdict.REGRESSED if interval.low > margin else Verdict.UNDECIDED


def times_as_many(interval: Interval, value: float, margin: float) -> str:
    """Say how many times the evidence would decide if the figure stays where it is; "" if none would."""
    distance = abs(margin - value)
    width = max(interval.high - value, value - interval.low)
    if distance <= 0 or width <= distance:
        return ""
    factor = math.ceil((width / distance) ** 2)
    return f"about {factor} times as many would decide" if factor <= 50 else ""
