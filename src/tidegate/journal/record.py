"""The journal's words: what a record is, whose it is, and what one loop turn hands over."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntFlag, StrEnum
from typing import Any

import msgspec
import numpy.typing as npt

from tidegate.contract.batch import Batch
from tidegate.contract.layout import Layout
from tidegate.contract.slicing import Slicing
from tidegate.core.digest import Digest
from tidegate.core.error import TidegateError


class JournalUnavailable(TidegateError):
    """The journal could not be written; what that means for the answer, the journal mode says.

    Attributes:
        written: How many of the frames that were handed over are in the journal all the same,
            counted from the first. A reader will see them.
    """

    code = "journal_unavailable"

    def __init__(self, message: str, *, written: int = 0, hint: str = "", **context: object) -> None:
        super().__init__(message, hint=hint, written=written, **context)
        self.written = written


UNNAMED = "outcome"
"""Name of an outcome that is reported without one."""


class RecordKind(StrEnum):
    """What a record tells of."""

    PREDICTION = "prediction"
    SHADOW = "shadow"
    OUTCOME = "outcome"
    REFUSAL = "refusal"
    EVENT = "event"


class Flag(IntFlag):
    """What was unusual about a request, 16 bits in a frame."""

    FALLBACK = 1  # answered by something else than the version itself
    CACHED = 2  # answered from the response cache
    INVALID = 4  # the model's output broke the contract
    LATE = 8  # answered after its deadline
    DROPPED = 16  # the journal lost records just before this one
    FAILED = 32  # the caller got an error
    POISON = 64  # the input ends other versions too: it is at fault, and no version is charged with it


class JournalMode(StrEnum):
    """What an answer asks of the journal."""

    AVAILABLE = "available"  # a failed write is counted, the answer leaves
    REQUIRED = "required"  # a failed write is an error to the caller
    DURABLE = "durable"  # on the disk, not only in the system's memory, before the answer leaves


class SegmentIdentity(msgspec.Struct, frozen=True):
    """Where a segment comes from; with an offset, a frame's identity everywhere.

    Attributes:
        cell: The set of servers that follow one route.
        node: The machine.
        worker: The worker's slot on that machine.
        incarnation: Hexadecimal digits drawn at the start of the process.
        sequence: Number of the segment within the incarnation, from 0.
        created_us: When it was begun, microseconds UTC; grows with the sequence.
    """

    cell: str
    node: str
    worker: int
    incarnation: str
    sequence: int
    created_us: int

    @property
    def name(self) -> str:
        """The file's name without suffix. Names sort by time."""
        return f"{self.created_us:016d}-{self.worker:03d}-{self.incarnation}-{self.sequence:06d}"


class Stream(msgspec.Struct, frozen=True):
    """What the frames of one stream have in common; declared once in each segment that has some.

    Attributes:
        service: Name of the service.
        version: Number of the version that was asked.
        contract: Fingerprint of the version's contract.
        layout: The columns, as the contract lays them out for the journal.
        arm: Part of the route that chose the version: `stable`, `candidate`, a shadow's name ...
        share: Part of the traffic that the arm had, in [0, 1].
        kind: Prediction or shadow.
        shadows: Versions that got copies of its requests.
        tolerances: Of a shadow: output field and the difference to the answer that means nothing.
        salt: Mixed into the keys' buckets. Where buckets are not stored, since there was only one arm,
            they follow from it and the key (or the request's id).
        slicing: By what its records are counted apart.
    """

    service: str
    version: int
    contract: Digest
    layout: Layout
    arm: str = "stable"
    share: float = 1.0
    kind: RecordKind = RecordKind.PREDICTION
    shadows: tuple[int, ...] = ()
    tolerances: tuple[tuple[str, float], ...] = ()
    salt: str = ""
    slicing: Slicing = Slicing()


NO_ID = bytes(16)
"""Stands for a missing trace id or key hash in a list of which others are given."""
NO_SPAN = bytes(8)


class Turn(msgspec.Struct):
    """All rows of one stream in one turn of the event loop, as the data plane hands them over.

    "Per request" lists have one element a request, "per row" ones as many as there are rows.

    Attributes:
        request_ids: Per request, 16 bytes: a UUID of version 7.
        arrived_us: Per request, when its last byte arrived, microseconds UTC.
        inputs: Rows of all requests, one request's after the other's. At least the layout's input columns.
        outputs: The answers' rows; None if there are none.
        rows_per_request: Per request, its number of rows; None if each has one.
        caller_ids: Per request, the id the caller gave it ("" without one).
        trace_ids: Per request, 16 bytes (`NO_ID` without one).
        key_hashes: Per row, 16 bytes of keyed hash of the row's key (`NO_ID` without one).
        buckets: Per row, where it fell on the route's unit interval.
        flags: For all requests, or per request.
        errors: Per request, code of the error that was answered; None for a good answer.
        service_time_us: Duration of the model call they were part of, for all requests, or per request.
        took_us: Per request, from its arrival until its record was made, which is just before its answer
            leaves; None where nobody waits for an answer.
        parent_ids: Per request, 8 bytes: the caller's span, if the caller samples the trace (`NO_SPAN`
            else).
        batch_rows: Rows of the model call that they were part of.
        answered_by: Name of the fallback that answered; "" for the version itself.
    """

    request_ids: Sequence[bytes]
    arrived_us: Sequence[int]
    inputs: Batch | None
    outputs: Batch | None = None
    rows_per_request: Sequence[int] | None = None
    caller_ids: Sequence[str] | None = None
    trace_ids: Sequence[bytes] | None = None
    key_hashes: Sequence[bytes] | None = None
    buckets: npt.NDArray[Any] | Sequence[float] | None = None
    flags: int | Sequence[int] = 0
    errors: Sequence[str | None] | None = None
    service_time_us: float | Sequence[float] = 0.0
    batch_rows: int = 1
    answered_by: str = ""
    took_us: Sequence[float] | None = None
    parent_ids: Sequence[bytes] | None = None


class Outcome(msgspec.Struct, frozen=True, array_like=True):
    """What became of a prediction, as it was reported.

    It names its prediction by id (`request` and `row`), or by key and time: then it is that of the
    key's latest prediction at or before `event_us`.

    Attributes:
        service: Name of the service.
        name: What was observed, for example an output field or `revenue`.
        value: Any JSON value, encoded.
        received_us: When it was accepted, microseconds UTC.
        request: The request's 16 bytes; empty if the key names the prediction.
        row: The row within the request.
        key_hash: 16 bytes of keyed hash; empty if the id names the prediction.
        event_us: The time that goes with the key.
        outcome_id: The sender's idempotency key; "" without one.
        principal: Who sent it.
    """

    service: str
    name: str
    value: msgspec.Raw
    received_us: int
    request: bytes = b""
    row: int = 0
    key_hash: bytes = b""
    event_us: int = 0
    outcome_id: str = ""
    principal: str = ""


class Refusal(msgspec.Struct, frozen=True, array_like=True):
    """Requests that were turned away for one reason during one stretch of time, counted.

    Attributes:
        service: Name of the service; "" where it was refused before one was known.
        code: The error's code.
        count: How many.
        at_us: End of the stretch, microseconds UTC.
        field: The field of the contract that was wrong; "" where it is none, or there are too many.
    """

    service: str
    code: str
    count: int
    at_us: int
    field: str = ""

    @property
    def cause(self) -> str:
        """The code, with the field in brackets where there is one."""
        return f"{self.code}({self.field})" if self.field else self.code


class Event(msgspec.Struct, frozen=True):
    """Something that happened to the process or the route.

    Attributes:
        name: `noun.verb_past`, for example `route.changed`.
        at_us: When, microseconds UTC.
        service: The service it concerns, if one.
        detail: Plain JSON values.
    """

    name: str
    at_us: int
    service: str = ""
    detail: dict[str, Any] = {}
