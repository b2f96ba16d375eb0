"""Tallies by slice: the counts of each value of the fields by which a service is watched apart.

They stand beside the tallies and add up as they do. What is counted apart is written in the stream,
so that a journal that is counted again gives the same. Old minutes are put together to hours, old
hours to days.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from tidegate.contract.batch import Column
from tidegate.contract.slicing import MAX_VALUES, Slice, Slicing
from tidegate.journal.decode import Turns
from tidegate.journal.plain import finite
from tidegate.journal.record import Flag, RecordKind
from tidegate.journal.tally import US_PER_MINUTE, TallyKey

OTHER, MISSING = "any other", "missing"
SCHEMA = """
CREATE TABLE IF NOT EXISTS slice_tally (
    service TEXT NOT NULL, minute INTEGER NOT NULL, version INTEGER NOT NULL, arm TEXT NOT NULL,
    kind TEXT NOT NULL, body BLOB NOT NULL, PRIMARY KEY (service, minute, version, arm, kind)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS slice_value (
    service TEXT NOT NULL, field TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (service, field, value)
) WITHOUT ROWID
"""
_HOUR, _DAY = 60, 1440
_MINUTES_KEPT, _HOURS_KEPT = _DAY, 35 * _DAY
_ROLL_LIMIT = 2000  # rows that one call puts together at most: some 50 ms

_SELECT = """
SELECT service, version, arm, kind, minute, body FROM slice_tally
WHERE service = :service AND minute >= :since AND minute < :until
  AND (:version IS NULL OR version = :version)
ORDER BY minute, version, arm, kind
"""
_SELECT_OLD = """
SELECT service, version, arm, kind, minute, body FROM slice_tally
WHERE minute >= :since AND minute < :until AND minute % :span != 0 LIMIT :limit
"""


class SliceTally(msgspec.Struct, array_like=True):
    """Counts of the rows that have one value of one field; those of disjoint sets add up.

    Attributes:
        rows: Rows.
        failed, fallback, invalid: Rows of requests with that flag.
        service_us: Sum of service times over rows, from arrival to answer, microseconds.
        scored, score_sum: Rows whose judged output is a number, and the sum of it.
        joined: Rows that have an outcome of the judged name.
        outcome_sum: Sum of those that are numbers; true counts as 1.
        expected_sum: Sum of the judged output over rows that have an outcome.
        loss_sum: Sum of (outcome - output)², or how many were wrong where the output is no number.
    """

    rows: int = 0
    failed: int = 0
    fallback: int = 0
    invalid: int = 0
    service_us: int = 0
    scored: int = 0
    score_sum: float = 0.0
    joined: int = 0
    outcome_sum: float = 0.0
    expected_sum: float = 0.0
    loss_sum: float = 0.0

    def add(self, other: SliceTally) -> None:
        """Add the counts of a disjoint set."""
        for name in SliceTally.__struct_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    @property
    def mean_score(self) -> float | None:
        """Mean of the judged output."""
        return self.score_sum / self.scored if self.scored else None

    @property
    def mean_loss(self) -> float | None:
        """Mean loss of the rows that have an outcome."""
        return self.loss_sum / self.joined if self.joined else None

    @property
    def mean_outcome(self) -> float | None:
        """Mean outcome."""
        return self.outcome_sum / self.joined if self.joined else None


Sliced = dict[str, dict[str, SliceTally]]
"""Field -> value -> counts."""

_encode = msgspec.msgpack.Encoder().encode
_decoder = msgspec.msgpack.Decoder(Sliced)


def add_sliced(into: Sliced, other: Mapping[str, Mapping[str, SliceTally]]) -> None:
    """Add the counts of a disjoint set."""
    for field, values in other.items():
        own = into.setdefault(field, {})
        for value, tally in values.items():
            mine = own.get(value)
            if mine is None:
                mine = own[value] = SliceTally()
            mine.add(tally)


class _Codes(dict[Any, int]):
    """Code of each value of one field, in the order in which they were first seen while there is room."""

    def __init__(self, known: Iterable[str]) -> None:
        super().__init__()
        self.names = [OTHER, MISSING]
        self.fresh: list[str] = []
        self[None] = 1
        for value in known:
            self[value] = len(self.names)
            self.names.append(value)

    def __missing__(self, value: Any) -> int:
        if len(self.names) >= MAX_VALUES + 2:
            return 0
        code = self[value] = len(self.names)
        self.names.append(value)
        self.fresh.append(value)
        return code


@lru_cache(maxsize=1024)
def _cuts(slice_: Slice) -> tuple[npt.NDArray[np.float64], tuple[str, ...]]:
    return np.asarray(slice_.cuts), slice_.names


class SliceBook:
    """Counts what is read, and writes it within the ledger's transaction."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self.reset()

    def reset(self) -> None:
        """Drop what was counted and not written."""
        self._codes: dict[tuple[str, str], _Codes] = {}
        self._counted: dict[TallyKey, Sliced] = {}

    def take(self, turns: Turns) -> None:
        """Count turns of one stream."""
        slicing = turns.stream.slicing
        inputs = turns.inputs if slicing.fields else None
        if inputs is None:
            return
        stream = turns.stream
        request = turns.request_of_row
        minutes = turns.arrived_us // US_PER_MINUTE
        seen = np.unique(minutes).tolist()  # a clock may have jumped
        measures = _Measures(turns, request, slicing.judged)
        coded = [
            (slice_.field, *self._code(stream.service, slice_, inputs[slice_.field]))
            for slice_ in slicing.fields
            if slice_.field in inputs.columns
        ]
        for minute in seen:
            chosen = None if len(seen) == 1 else np.flatnonzero(minutes[request] == minute)
            key = TallyKey(stream.service, stream.version, stream.arm, stream.kind, minute)
            into = self._counted.setdefault(key, {})
            for field, codes, names in coded:
                measures.count(codes, names, into.setdefault(field, {}), chosen)

    def _code(
        self, service: str, slice_: Slice, column: Column
    ) -> tuple[npt.NDArray[np.intp], list[str] | tuple[str, ...]]:
        """Return the code of each row, and what the codes stand for."""
        if slice_.cuts:
            cuts, parts = _cuts(slice_)
            numbers = column.astype(np.float64)
            codes = np.searchsorted(cuts, numbers, side="right")
            codes[np.isnan(numbers)] = len(parts) - 1
            return codes, parts
        known = self._known(service, slice_.field)
        values = column.tolist()
        if column.dtype == np.bool_:
            values = ["true" if value else "false" for value in values]
        return np.fromiter(map(known.__getitem__, values), np.intp, len(values)), known.names

    def _known(self, service: str, field: str) -> _Codes:
        known = self._codes.get((service, field))
        if known is None:
            rows = self._connection.execute(
                "SELECT value FROM slice_value WHERE service = ? AND field = ?", (service, field)
            )
            known = self._codes[service, field] = _Codes(value for (value,) in rows)
        return known

    def join(
        self, key: TallyKey, slicing: Slicing, row: Mapping[str, Any], score: Any, *, value: Any, before: Any
    ) -> None:
        """Count an outcome.

        Args:
            key: Whose tally the prediction is in.
            slicing: Of its stream.
            row: The prediction's inputs.
            score: Its judged output.
            value: What came true.
            before: What was said of it before; `UNKNOWN` if nothing was.
        """
        change = _joined(score, value)
        if before is not UNKNOWN:
            old = _joined(score, before)
            for name in _OF_OUTCOMES:
                setattr(change, name, getattr(change, name) - getattr(old, name))
        into = self._counted.setdefault(key, {})
        for slice_ in slicing.fields:
            if slice_.field in row:
                name = self._name(key.service, slice_, row[slice_.field])
                into.setdefault(slice_.field, {}).setdefault(name, SliceTally()).add(change)

    def _name(self, service: str, slice_: Slice, value: Any) -> str:
        if slice_.cuts:
            cuts, names = _cuts(slice_)
            return names[-1] if value is None else names[int(np.searchsorted(cuts, value, side="right"))]
        if isinstance(value, bool):
            value = "true" if value else "false"
        known = self._known(service, slice_.field)
        return known.names[known[value]]

    def keep(self) -> None:
        """Write what was counted; within a transaction."""
        if not self._counted:
            return
        for (service, field), known in self._codes.items():
            if known.fresh:
                self._connection.executemany(
                    "INSERT OR IGNORE INTO slice_value VALUES (?, ?, ?)",
                    [(service, field, value) for value in known.fresh],
                )
                known.fresh = []
        for key, sliced in self._counted.items():
            _add_to(self._connection, key, sliced)
        self._counted = {}


class _Unknown:
    """Stands for an outcome of which nothing was said before; None can be one."""


UNKNOWN = _Unknown()


_OF_OUTCOMES = ("joined", "outcome_sum", "expected_sum", "loss_sum")


def _joined(score: Any, value: Any) -> SliceTally:
    """Return what one outcome counts; nothing where it cannot be held against the output."""
    expected, outcome = finite(score), finite(value)
    if expected is not None and outcome is not None:
        loss = (outcome - expected) * (outcome - expected)  # ** 2 raises where this is infinite
        if not math.isfinite(loss):
            return SliceTally()
        return SliceTally(joined=1, outcome_sum=outcome, expected_sum=expected, loss_sum=loss)
    if isinstance(score, str) and isinstance(value, str):
        return SliceTally(joined=1, loss_sum=float(score != value))
    return SliceTally()


class _Measures:
    """What is added up for each slice, by row."""

    def __init__(self, turns: Turns, request: npt.NDArray[np.intp], judged: str) -> None:
        self._service_us = np.nan_to_num(turns.took_us, posinf=0.0, neginf=0.0)[request].astype(np.float64)
        flags = turns.flags
        self._flags = flags[request] if flags.any() else None
        self._scores: npt.NDArray[np.float64] | None = None
        outputs = turns.outputs if judged else None
        if outputs is not None and judged in outputs.columns:
            column = outputs[judged]
            if column.dtype.kind in "fiub" and column.ndim == 1:
                self._scores = column.astype(np.float64)

    def count(
        self,
        codes: npt.NDArray[np.intp],
        names: list[str] | tuple[str, ...],
        into: dict[str, SliceTally],
        chosen: npt.NDArray[np.intp] | None,
    ) -> None:
        """Add the rows to the tallies of their values."""
        pick = _picked(chosen)
        codes = pick(codes)
        rows = np.bincount(codes)
        service_us = np.bincount(codes, weights=pick(self._service_us))
        sums = [rows, np.rint(service_us)]
        scores = None if self._scores is None else pick(self._scores)
        if scores is not None:
            good = np.isfinite(scores)
            n_known = len(rows)
            sums += [
                np.bincount(codes[good], minlength=n_known),
                np.bincount(codes[good], weights=scores[good], minlength=n_known),
            ]
        present = np.flatnonzero(rows).tolist()
        for code, n_rows, spent_us, *scored in zip(
            present, *(each[present].tolist() for each in sums), strict=True
        ):
            tally = into.get(names[code])
            if tally is None:
                tally = into[names[code]] = SliceTally()
            tally.rows += n_rows
            tally.service_us += int(spent_us)
            if scored:
                tally.scored += scored[0]
                tally.score_sum += scored[1]
        if self._flags is not None:
            self._count_flags(codes, pick(self._flags), names, into)

    def _count_flags(
        self, codes: Column, flags: Column, names: list[str] | tuple[str, ...], into: dict[str, SliceTally]
    ) -> None:
        for flag, name in ((Flag.FAILED, "failed"), (Flag.FALLBACK, "fallback"), (Flag.INVALID, "invalid")):
            marked = np.bincount(codes[(flags & flag) != 0])
            for code in np.flatnonzero(marked).tolist():
                tally = into[names[code]]
                setattr(tally, name, getattr(tally, name) + int(marked[code]))


def _picked(chosen: npt.NDArray[np.intp] | None) -> Callable[[Column], Column]:
    return (lambda column: column) if chosen is None else (lambda column: column[chosen])


def _add_to(connection: sqlite3.Connection, key: TallyKey, sliced: Sliced) -> None:
    place = (key.service, key.minute, key.version, key.arm, key.kind)
    row = connection.execute(
        "SELECT body FROM slice_tally WHERE service = ? AND minute = ? AND version = ? AND arm = ?"
        " AND kind = ?",
        place,
    ).fetchone()
    total: Sliced = _decoder.decode(row[0]) if row else {}
    add_sliced(total, sliced)
    connection.execute(
        "INSERT OR REPLACE INTO slice_tally VALUES (?, ?, ?, ?, ?, ?)", (*place, _encode(total))
    )


def read_slices(
    connection: sqlite3.Connection,
    service: str,
    *,
    version: int | None = None,
    since_minute: int = 0,
    until_minute: int = 1 << 60,
) -> list[tuple[TallyKey, Sliced]]:
    """Return counts by slice, in order of minutes; of old ones an hour's or a day's stand at its first."""
    rows = connection.execute(
        _SELECT, {"service": service, "version": version, "since": since_minute, "until": until_minute}
    )
    return [_row(row) for row in rows]


def _row(row: tuple[str, int, str, str, int, bytes]) -> tuple[TallyKey, Sliced]:
    service, version, arm, kind, minute, body = row
    return TallyKey(service, version, arm, RecordKind(kind), minute), _decoder.decode(body)


def roll_up(connection: sqlite3.Connection, now_minute: int) -> int:
    """Put minutes of more than a day ago together to hours, and hours of more than 35 days ago to days.

    Within a transaction. Returns how many rows it took away; ask again until there are none.
    """
    n_gone = 0
    by_day = (now_minute - _HOURS_KEPT) // _DAY * _DAY
    by_hour = (now_minute - _MINUTES_KEPT) // _HOUR * _HOUR
    for span, since, until in ((_DAY, 0, by_day), (_HOUR, by_day, by_hour)):
        old = connection.execute(
            _SELECT_OLD, {"since": since, "until": until, "span": span, "limit": _ROLL_LIMIT}
        ).fetchall()
        for row in old:
            key, sliced = _row(row)
            coarse = msgspec.structs.replace(key, minute=key.minute - key.minute % span)
            _add_to(connection, coarse, sliced)
            connection.execute(
                "DELETE FROM slice_tally WHERE service = ? AND minute = ? AND version = ? AND arm = ?"
                " AND kind = ?",
                (key.service, key.minute, key.version, key.arm, key.kind),
            )
        n_gone += len(old)
    return n_gone
