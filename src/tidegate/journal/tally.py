"""Tallies: counts of what happened, by service, version, arm and minute, that merge by addition."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from tidegate.journal.decode import Turns
from tidegate.journal.record import Flag, RecordKind

US_PER_MINUTE = 60_000_000
_STEPS = 4  # steps of the histogram within a doubling: a quantile is known to 2 ** (1 / 4), 19%


class TallyKey(msgspec.Struct, frozen=True, order=True):
    """Whose counts they are.

    Attributes:
        service: Name of the service.
        version: Number of the version.
        arm: Part of the route.
        kind: Prediction or shadow.
        minute: Minutes since 1970 UTC of the requests' arrival.
    """

    service: str
    version: int
    arm: str
    kind: RecordKind
    minute: int


class Tally(msgspec.Struct, omit_defaults=True):
    """Counts over any set of requests; the tally of two disjoint sets is the sum of theirs.

    Attributes:
        requests, rows: Requests, and their rows.
        turns: Model calls as this stream saw them: frames in the journal.
        batch_rows: Sum over turns of the size of the call they were part of.
        fallback, cached, invalid, late, dropped, failed: Requests with that flag.
        errors: Requests by error code.
        service_us: Sum of service times over requests, from arrival to answer, microseconds.
        service_times: Requests by step of service time; see `step_of` and `quantile_us`.
        joined: Outcomes that were joined to its rows, the first of each row and name. Rows that a
            fallback answered have none.
        corrected: Outcomes that gave such a row another value later.
    """

    requests: int = 0
    rows: int = 0
    turns: int = 0
    batch_rows: int = 0
    fallback: int = 0
    cached: int = 0
    invalid: int = 0
    late: int = 0
    dropped: int = 0
    failed: int = 0
    errors: dict[str, int] = {}
    service_us: int = 0
    service_times: dict[int, int] = {}
    joined: int = 0
    corrected: int = 0

    def add(self, other: Tally) -> None:
        """Add the counts of a disjoint set."""
        for name in _COUNTS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for own, others in ((self.errors, other.errors), (self.service_times, other.service_times)):
            _add_each(own, others)

    @property
    def mean_batch_rows(self) -> float:
        """Mean size of a model call, rows; 0 without calls."""
        return self.batch_rows / self.turns if self.turns else 0.0

    def quantile_us(self, fraction: float) -> float:
        """Return a service time that `fraction` of the requests did not exceed, to one step.

        Args:
            fraction: In [0, 1].

        Returns:
            The upper end of the step, microseconds; 0 without requests.
        """
        wanted = fraction * sum(self.service_times.values())
        seen = 0
        for step in sorted(self.service_times):
            seen += self.service_times[step]
            if seen >= wanted:
                return upper_us(step)
        return 0.0


_COUNTS = tuple(name for name in Tally.__struct_fields__ if name not in ("errors", "service_times"))


def _add_each(own: dict[Any, int], others: Mapping[Any, int]) -> None:
    for name, count in others.items():
        own[name] = own.get(name, 0) + count


def merge(tallies: Iterable[Tally]) -> Tally:
    """Return the sum of tallies of disjoint sets."""
    total = Tally()
    for tally in tallies:
        total.add(tally)
    return total


def upper_us(step: int) -> float:
    """Return the service time at which a step of the histogram ends, microseconds."""
    doubling, within = divmod(step, _STEPS)
    return float(2**doubling * (1 + (within + 1) / _STEPS)) if step >= 0 else 1.0


def step_of(service_us: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Return the histogram's step of each service time; -1 below a microsecond, and for what is no number.

    A doubling has four steps of equal width, so a step is found from the bits of the number.
    """
    known = np.nan_to_num(service_us.astype(np.float64), posinf=0.0, neginf=0.0)
    mantissa, exponent = np.frexp(np.maximum(known, 0.5))
    steps: npt.NDArray[np.int64] = (exponent.astype(np.int64) - 1) * _STEPS
    steps += ((mantissa - 0.5) * (2 * _STEPS)).astype(np.int64)
    steps[known < 1.0] = -1
    return steps


def count_turns(turns: Turns, into: dict[TallyKey, Tally]) -> None:
    """Add turns of one stream to the tallies of their minutes."""
    if not turns.n_requests:
        return
    stream = turns.stream
    minutes = turns.arrived_us // US_PER_MINUTE
    frame_minutes = turns.heads["arrived_us"] // US_PER_MINUTE
    for minute in np.unique(minutes).tolist():
        key = TallyKey(stream.service, stream.version, stream.arm, stream.kind, minute)
        tally = into.get(key)
        if tally is None:
            tally = into[key] = Tally()
        _count_minute(turns, tally, minutes == minute, frame_minutes == minute)


def _count_minute(
    turns: Turns, tally: Tally, chosen: npt.NDArray[np.bool_], frames: npt.NDArray[np.bool_]
) -> None:
    tally.requests += int(chosen.sum())
    tally.rows += int(turns.rows[chosen].sum())
    tally.turns += int(frames.sum())
    tally.batch_rows += int(turns.heads["batch_rows"][frames].sum(dtype=np.int64))
    flags = turns.flags[chosen]
    if flags.any():
        tally.fallback += int(np.count_nonzero(flags & Flag.FALLBACK))
        tally.cached += int(np.count_nonzero(flags & Flag.CACHED))
        tally.invalid += int(np.count_nonzero(flags & Flag.INVALID))
        tally.late += int(np.count_nonzero(flags & Flag.LATE))
        tally.dropped += int(np.count_nonzero(flags & Flag.DROPPED))
        tally.failed += int(np.count_nonzero(flags & Flag.FAILED))
    service_us = np.nan_to_num(turns.took_us[chosen], posinf=0.0, neginf=0.0)
    tally.service_us += int(np.rint(service_us).astype(np.int64).sum())  # whole, so that sums are exact
    steps, counts = np.unique(step_of(service_us), return_counts=True)
    _add_each(tally.service_times, dict(zip(steps.tolist(), counts.tolist(), strict=True)))
    if turns.errors is not None:
        for error, taken in zip(turns.errors, chosen.tolist(), strict=True):
            if taken and error is not None:
                tally.errors[error] = tally.errors.get(error, 0) + 1
