"""Outcomes meet predictions: each is counted once, however often, late or early it is delivered.

What an outcome says is known by its target (the prediction and the outcome's name) and its value.
Two deliveries are the same if they carry the same idempotency key, or without one the same content and
no other value was received between them. Numbers are the same by value: 1 is 1.0, but not true.

- the same delivery again: repeated, ignored
- the same key for other content: conflicting, kept aside
- a first value: joined
- the known value again, by another delivery: repeated
- another value: corrected; the value that was received last stands, the others stay as history
- a prediction that is not there yet: pending, tried again until `give_up_s`, then unknown
- one that is unknown, delivered again: pending again
- what cannot be counted: unreadable, set aside
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from tidegate.core.identifier import format_prediction_id
from tidegate.journal.index import Match, PredictionIndex, Target
from tidegate.journal.ledger import Ledger
from tidegate.journal.record import UNNAMED, Outcome
from tidegate.journal.slice import UNKNOWN, SliceBook
from tidegate.journal.tally import US_PER_MINUTE, Tally, TallyKey

_FIRST_WAIT_US = 1_000_000
_LONGEST_WAIT_US = 300_000_000

_pack = msgspec.msgpack.Encoder().encode
_sorted_json = msgspec.json.Encoder(order="sorted").encode
_plain_json = msgspec.json.decode


class Waiting(NamedTuple):
    """An outcome that is not joined yet."""

    number: int
    service: str
    request: bytes
    row: int
    key_hash: bytes
    event_us: int
    name: str
    value: str
    received_us: int
    attempts: int


class Uncountable(Exception):
    """An outcome that cannot be counted; with it nothing of its transaction is."""

    def __init__(self, outcome: Waiting) -> None:
        super().__init__(f"an outcome {outcome.name!r} of {outcome.service} cannot be counted")
        self.outcome = outcome


class _Fate(NamedTuple):
    """What became of an outcome: the value that stands now, and the one before it (None: there was none)."""

    what: str
    value: str
    before: str | None


class OutcomeRevision(msgspec.Struct, frozen=True):
    """One delivery of an outcome, as kept in the history.

    Attributes:
        name: What was observed.
        value: Any JSON value.
        state: `current`, `superseded`, `repeated`, `conflicting`, `pending`, `unknown` or `unreadable`.
        outcome_id: The sender's idempotency key.
        principal: Who sent it.
        received_us: When it was accepted, microseconds UTC; the last time, if it came again without a key.
    """

    name: str
    value: Any
    state: str
    outcome_id: str
    principal: str
    received_us: int


def _digest(*parts: object) -> bytes:
    return hashlib.blake2b(_pack(parts), digest_size=16).digest()


def _target(outcome: Outcome) -> tuple[str, bytes, int, bytes, int]:
    return outcome.service, outcome.request, outcome.row, outcome.key_hash, outcome.event_us


def _by_value(value: Any) -> Any:
    """Return a JSON value with whole numbers as integers, so that equal ones have equal texts."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_by_value(each) for each in value]
    if isinstance(value, dict):
        return {name: _by_value(each) for name, each in value.items()}
    return value


def _is_same(told: str, other: str) -> bool:
    """Tell whether two values in normal form are equal; 1 and 1.0 are."""
    return told == other or _sorted_json(_by_value(_plain_json(told))) == _sorted_json(
        _by_value(_plain_json(other))
    )


def _identify(outcome: Outcome) -> tuple[bytes, bytes, bytes]:
    """Return an outcome's value in normal form, the digest of its content and that of its identity."""
    plain = _plain_json(outcome.value)
    value = _sorted_json(plain)
    content = _digest(*_target(outcome), outcome.name, _sorted_json(_by_value(plain)))
    return value, content, _digest(outcome.service, outcome.outcome_id) if outcome.outcome_id else content


class OutcomeBook:
    """Takes outcomes in and joins them; every change happens within the ledger's transaction."""

    def __init__(
        self, ledger: Ledger, index: PredictionIndex, *, give_up_s: float, slices: SliceBook
    ) -> None:
        self._ledger = ledger
        self._slices = slices
        self._index = index
        self._give_up_us = int(give_up_s * 1e6)

    def take(self, outcomes: Iterable[Outcome], *, try_us: int) -> None:
        """Note outcomes as they stand in the journal, to be joined from `try_us` on."""
        execute = self._ledger.connection.execute
        counts: dict[tuple[str, int, str], int] = {}
        for outcome in outcomes:
            try:
                value, content, identity = _identify(outcome)
            except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError):
                # it was never to be accepted; counting what comes after it must not end here
                for what in ("delivered", "unreadable"):
                    _count(counts, outcome.service, outcome.received_us, what)
                continue
            target = _target(outcome)
            known = execute(
                "SELECT id, content, state, received_us FROM outcome"
                " WHERE identity = ? AND state != 'conflicting'",
                (identity,),
            ).fetchone()
            _count(counts, outcome.service, outcome.received_us, "delivered")
            if known is not None:
                what = "repeated" if known[1] == content else "conflicting"
                if what == "repeated" and self._take_again(outcome, known[0], *known[2:], try_us=try_us):
                    continue
                _count(counts, outcome.service, outcome.received_us, what)
                if what == "repeated":
                    continue
            execute(
                "INSERT INTO outcome (identity, content, service, request, row, key_hash, event_us, name,"
                " value, outcome_id, principal, received_us, state, next_try_us)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    identity,
                    content,
                    *target,
                    outcome.name,
                    value.decode(),
                    outcome.outcome_id,
                    outcome.principal,
                    outcome.received_us,
                    "pending" if known is None else "conflicting",
                    try_us,
                ),
            )
        self._ledger.add_outcome_counts(counts)

    def _take_again(
        self, outcome: Outcome, number: int, state: str, received_us: int, *, try_us: int
    ) -> bool:
        """Take the same outcome again; tell whether it is to be joined anew.

        Without an idempotency key its last receipt counts, in whatever order the deliveries are read.
        """
        execute = self._ledger.connection.execute
        is_later = not outcome.outcome_id and outcome.received_us > received_us
        if state == "unknown" or (is_later and state in ("superseded", "repeated")):
            execute(
                "UPDATE outcome SET state = 'pending', received_us = ?, next_try_us = ?, attempts = 0"
                " WHERE id = ?",
                (outcome.received_us, try_us, number),
            )
            return True
        if is_later:
            execute("UPDATE outcome SET received_us = ? WHERE id = ?", (outcome.received_us, number))
        return False

    def due(self, *, now_us: int, before_us: int, limit: int) -> list[Waiting]:
        """Return outcomes to be tried by `now_us`, of those that were received before `before_us`."""
        rows = self._ledger.connection.execute(
            "SELECT id, service, request, row, key_hash, event_us, name, value, received_us, attempts"
            " FROM outcome WHERE state = 'pending' AND next_try_us <= ? AND received_us < ?"
            " ORDER BY next_try_us LIMIT ?",
            (now_us, before_us, limit),
        )
        return [Waiting(*row) for row in rows]

    def retry_all(self) -> None:
        """Let every pending outcome be tried at once."""
        self._ledger.connection.execute("UPDATE outcome SET next_try_us = 0 WHERE state = 'pending'")

    def locate(self, waiting: Sequence[Waiting]) -> dict[int, tuple[Target, list[Match]]]:
        """Find the predictions of outcomes; by the outcome's number, those that are there."""
        targets: dict[int, Target] = {}
        keyed: dict[str, dict[tuple[bytes, int], list[int]]] = {}
        for outcome in waiting:
            if outcome.request:
                targets[outcome.number] = (outcome.request, outcome.row)
            else:
                by_key = keyed.setdefault(outcome.service, {})
                by_key.setdefault((outcome.key_hash, outcome.event_us), []).append(outcome.number)
        for service, by_key in keyed.items():
            for key, target in self._index.find_by_key(service, by_key).items():
                targets.update(dict.fromkeys(by_key[key], target))
        found = self._index.find(set(targets.values()))
        services = {outcome.number: outcome.service for outcome in waiting}
        located: dict[int, tuple[Target, list[Match]]] = {}
        for number, target in targets.items():
            # the id of another service's prediction is unknown to this one
            matches = [one for one in found.get(target, ()) if one.stream.service == services[number]]
            if matches:
                located[number] = (target, matches)
        return located

    def settle(
        self,
        waiting: Sequence[Waiting],
        located: Mapping[int, tuple[Target, list[Match]]],
        *,
        now_us: int,
        commit: int,
    ) -> int:
        """Join what was located, put off the rest; return how many are no longer pending.

        Raises:
            Uncountable: One cannot be counted: roll back, set it aside, and settle the others again.
        """
        counts: dict[tuple[str, int, str], int] = {}
        tallies: dict[TallyKey, Tally] = {}
        n_settled = 0
        for outcome in sorted(waiting, key=lambda one: (one.received_us, one.number)):
            found = located.get(outcome.number)
            try:
                if found is None:
                    what = self._put_off(outcome, now_us)
                else:
                    what = self._count_joined(outcome, *found, commit=commit, tallies=tallies)
            except sqlite3.Error:
                raise  # it is the ledger that fails
            except Exception as error:
                raise Uncountable(outcome) from error
            if what:
                n_settled += 1
                _count(counts, outcome.service, outcome.received_us, what)
        self._ledger.add_outcome_counts(counts)
        self._ledger.add_tallies(tallies)
        self._slices.keep()
        return n_settled

    def set_aside(self, outcome: Waiting) -> None:
        """Try an outcome no more that cannot be counted; forget what was counted with it."""
        self._slices.reset()
        self._ledger.connection.execute(
            "UPDATE outcome SET state = 'unreadable' WHERE id = ?", (outcome.number,)
        )
        counts: dict[tuple[str, int, str], int] = {}
        _count(counts, outcome.service, outcome.received_us, "unreadable")
        self._ledger.add_outcome_counts(counts)

    def _count_joined(
        self,
        outcome: Waiting,
        target: Target,
        matches: Sequence[Match],
        *,
        commit: int,
        tallies: dict[TallyKey, Tally],
    ) -> str:
        fate = self._join(outcome, target, matches, commit=commit)
        for match in matches if fate.what != "repeated" else ():
            if match.instead:  # it tells nothing of the version that was to answer
                continue
            tally = tallies.setdefault(match.key, Tally())
            setattr(tally, fate.what, getattr(tally, fate.what) + 1)
            self._count_apart(outcome, match, fate)
        return fate.what

    def _count_apart(self, outcome: Waiting, match: Match, fate: _Fate) -> None:
        slicing = match.stream.slicing
        if not match.parts or outcome.name not in (slicing.outcome, UNNAMED):
            return
        score = match.outputs.get(slicing.judged)
        before = UNKNOWN if fate.before is None else _plain_json(fate.before)
        value = _plain_json(fate.value)
        self._slices.join(match.key, slicing, match.parts, score, value=value, before=before)

    def _put_off(self, outcome: Waiting, now_us: int) -> str:
        execute = self._ledger.connection.execute
        if now_us - outcome.received_us >= self._give_up_us:
            execute("UPDATE outcome SET state = 'unknown' WHERE id = ?", (outcome.number,))
            return "unknown"
        wait_us = min(_FIRST_WAIT_US << min(outcome.attempts, 20), _LONGEST_WAIT_US)
        execute(
            "UPDATE outcome SET attempts = attempts + 1, next_try_us = ? WHERE id = ?",
            (now_us + wait_us, outcome.number),
        )
        return ""

    def _join(self, outcome: Waiting, target: Target, matches: Sequence[Match], *, commit: int) -> _Fate:
        execute = self._ledger.connection.execute
        place = (outcome.service, *target, outcome.name)
        known = execute(
            "SELECT value, revision, outcome, received_us FROM truth"
            " WHERE service = ? AND request = ? AND row = ? AND name = ?",
            place,
        ).fetchone()
        stands = known is None or outcome.received_us >= self._last_us(place)
        if known is None:
            what, state, revision = "joined", "current", 1
        elif _is_same(known[0], outcome.value):
            what, state, revision = "repeated", "repeated", known[1]
        else:
            what, revision = "corrected", known[1] + 1
            state = "current" if stands else "superseded"
        execute(
            "UPDATE outcome SET state = ?, request = ?, row = ? WHERE id = ?",
            (state, *target, outcome.number),
        )
        if what == "repeated":
            return _Fate(what, outcome.value, outcome.value)
        if stands and known is not None:
            execute("UPDATE outcome SET state = 'superseded' WHERE id = ?", (known[2],))
        value, number, received_us = (
            (outcome.value, outcome.number, outcome.received_us) if stands else (known[0], known[2], known[3])
        )
        execute(
            "INSERT OR REPLACE INTO truth VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (*place, value, revision, number, received_us, commit),
        )
        self._ledger.connection.executemany(
            "INSERT OR IGNORE INTO joined VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [(outcome.service, *target, *_joined_values(match)) for match in matches],
        )
        return _Fate(what, value, None if known is None else known[0])

    def _last_us(self, place: tuple[str, bytes, int, str]) -> int:
        """Return when the value that stands was received last: it may have been told again since."""
        (last_us,) = self._ledger.connection.execute(
            "SELECT coalesce(max(received_us), 0) FROM outcome"
            " WHERE service = ? AND request = ? AND row = ? AND name = ?"
            " AND state IN ('current', 'repeated')",
            place,
        ).fetchone()
        return int(last_us)


def _joined_values(match: Match) -> tuple[object, ...]:
    key = match.key
    outputs = msgspec.json.encode(match.outputs).decode()
    return key.version, key.arm, key.kind.value, key.minute, outputs, match.instead


def _count(counts: dict[tuple[str, int, str], int], service: str, received_us: int, what: str) -> None:
    key = (service, received_us // US_PER_MINUTE, what)
    counts[key] = counts.get(key, 0) + 1


def history(ledger: Ledger, service: str, target: Target) -> list[OutcomeRevision]:
    """Return every delivery of outcomes for one prediction that was kept, in order of receipt."""
    rows = ledger.connection.execute(
        "SELECT name, value, state, outcome_id, principal, received_us FROM outcome"
        " WHERE service = ? AND request = ? AND row = ? ORDER BY received_us, id",
        (service, *target),
    )
    return [OutcomeRevision(row[0], _plain_json(row[1]), *row[2:]) for row in rows]


def describe_pending(ledger: Ledger, *, limit: int = 100) -> list[dict[str, Any]]:
    """Return outcomes that wait for their prediction, longest first, as plain values."""
    rows = ledger.connection.execute(
        "SELECT service, request, row, name, received_us, attempts FROM outcome WHERE state = 'pending'"
        " ORDER BY received_us LIMIT ?",
        (limit,),
    )
    return [
        {
            "service": service,
            "prediction_id": format_prediction_id(request, row) if request else None,
            "name": name,
            "received_us": received_us,
            "attempts": attempts,
        }
        for service, request, row, name, received_us, attempts in rows
    ]
