"""What an experiment has counted: of each key the first outcome that had the time to come, by arm.

A key is drawn to an arm once and stays there, and what its first answer led to says nothing of other
keys: so these values may be looked at as often as one likes. Keys are drawn evenly only over all that
came, so those without an outcome are counted, too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
import numpy as np

from tidegate.core.clock import Clock
from tidegate.journal.decode import Turns
from tidegate.journal.firsts import ENTRY, KeySet
from tidegate.journal.index import PredictionIndex
from tidegate.journal.ledger import Ledger
from tidegate.journal.matured import (
    Due,
    OutcomeEvent,
    cut_ms,
    due_requests,
    judged_rows,
    keep_cut,
    truth_between,
)
from tidegate.journal.plain import finite
from tidegate.journal.record import RecordKind
from tidegate.journal.watched import add_counts, counted, keep_keys, keys_of

_KNOWN = 2
"""Bit of a key whose outcome has been counted."""


class ExperimentWatch(msgspec.Struct, frozen=True):
    """What is counted of an experiment.

    Attributes:
        id: Its name.
        service: Name of the service.
        arms: Arm -> number of the version, stable among them.
        since_us: When it began, microseconds UTC.
        horizon_s: How long outcomes take, seconds.
        event: What is counted.
        number: Whether the outcome's value itself is what counts, not whether something happened.
        max_keys: Keys that are told apart.
    """

    id: str
    service: str
    arms: dict[str, int]
    since_us: int
    horizon_s: float
    event: OutcomeEvent
    number: bool = False
    max_keys: int = 1_000_000


class ArmCount(msgspec.Struct, frozen=True):
    """What an arm has come to.

    Attributes:
        keys: Keys that came to it.
        known: Those whose first outcome is known.
        total: Sum of their values: 1 for each where it happened.
        squares: Sum of their squares.
    """

    keys: int = 0
    known: int = 0
    total: float = 0.0
    squares: float = 0.0


class ExperimentCounts:
    """Counts experiments, in the process that writes the ledger."""

    def __init__(
        self, ledger: Ledger, folder: Path, *, clock: Clock, is_behind: Callable[[], bool] = lambda: False
    ) -> None:
        """Take up what the ledger has; see `matured.MaturedCounts`."""
        self._ledger = ledger
        self._index = PredictionIndex(folder, ledger, key_window_s=0)
        self._due = Due(clock)
        self._is_behind = is_behind
        self._known: dict[str, KeySet] = {}

    def advance(self, watch: ExperimentWatch) -> None:
        """Count what has matured since the last look."""
        if self._is_behind():
            return
        span = due_requests(self._ledger, self._due, watch.id, watch.since_us, horizon_s=watch.horizon_s)
        if span is None:
            return
        streams = [
            turns
            for turns in self._index.turns_between(*span)
            if turns.stream.service == watch.service
            and turns.stream.kind is RecordKind.PREDICTION
            and watch.arms.get(turns.stream.arm) == turns.stream.version
        ]
        try:
            with self._ledger.transaction():
                found = self._count(watch, streams, span)
                add_counts(self._ledger.connection, watch.id, found)
                keep_cut(self._ledger, watch.id, span[1])
        except BaseException:
            self._known.pop(watch.id, None)  # it is ahead of what is kept
            raise

    def _count(self, watch: ExperimentWatch, streams: list[Turns], span: tuple[int, int]) -> dict[str, float]:
        connection = self._ledger.connection
        truth = truth_between(connection, watch.service, watch.event, span)
        known = self._known.get(watch.id)
        if known is None:
            known = self._known[watch.id] = keys_of(connection, watch.id, watch.max_keys)
        first: dict[int, tuple[bytes, str, float | None]] = {}
        for turns in streams:
            keys = _keys(turns)
            for row, (request, number), yes in judged_rows(turns, watch.event, truth, span=span):
                value = None if yes is None else float(yes)
                if watch.number:
                    value = _number(truth.get((request, number)))
                key, before = int(keys[row]), first.get(int(keys[row]))
                # the first of a key; of those without an outcome it waits for the first that has one
                if before is None or _comes_before((request, value), (before[0], before[2])):
                    first[key] = (request, turns.stream.arm, value)
        return self._take(watch, known, first)

    def _take(
        self, watch: ExperimentWatch, known: KeySet, first: Mapping[int, tuple[bytes, str, float | None]]
    ) -> dict[str, float]:
        """Count keys that are new, and outcomes of those that had none; keep them."""
        keys = np.array(sorted(first), np.uint64)
        slots, is_there = known.find(keys)
        n_free = known.max_keys - len(known)
        counts: dict[str, float] = {}
        changes = []
        for key, slot, there in zip(keys.tolist(), slots.tolist(), is_there.tolist(), strict=True):
            _, arm, value = first[key]
            if not there:
                if n_free <= 0:
                    continue
                n_free -= 1
                _add(counts, f"{arm}/keys", 1)
            elif known.entries["bits"][slot] & _KNOWN:
                continue
            if value is not None:
                _add(counts, f"{arm}/known", 1)
                _add(counts, f"{arm}/total", value)
                _add(counts, f"{arm}/squares", value * value)
            if value is not None or not there:
                changes.append((key, 0.0, 1, 0, _KNOWN if value is not None else 0))
        if changes:
            change = np.array(changes, ENTRY)
            known.update(change)
            keep_keys(self._ledger.connection, watch.id, known, [change])
        return counts


def _keys(turns: Turns) -> np.ndarray:
    """Return a number for the key of each row; that of its request where there are none."""
    if turns.key_numbers is not None:
        return turns.key_numbers
    return np.frombuffer(turns.request_ids, "<u8").reshape(-1, 2)[:, 1][turns.request_of_row]


def _comes_before(one: tuple[bytes, float | None], other: tuple[bytes, float | None]) -> bool:
    """Tell which of a key's answers counts: the first whose outcome is known, else the first."""
    return (one[1] is None, one[0]) < (other[1] is None, other[0])


def _number(value: object) -> float | None:
    """Return a value that can be added up with its square."""
    number = finite(value)
    return None if number is None or not math.isfinite(number * number) else number


def _add(counts: dict[str, float], name: str, count: float) -> None:
    counts[name] = counts.get(name, 0) + count


def arm_counts(ledger: Ledger, id: str, arms: Mapping[str, int]) -> dict[str, ArmCount]:
    """Return what was counted of an experiment so far, by arm."""
    _, counts = counted(ledger, id)
    return {
        arm: ArmCount(
            int(counts.get(f"{arm}/keys", 0)),
            int(counts.get(f"{arm}/known", 0)),
            float(counts.get(f"{arm}/total", 0)),
            float(counts.get(f"{arm}/squares", 0)),
        )
        for arm in arms
    }


def counted_until_us(ledger: Ledger, id: str, since_us: int) -> int:
    """Return up to which arrival an experiment is counted, microseconds UTC."""
    return cut_ms(ledger, id, since_us) * 1000
