"""The native face: JSON rows by the contract's own field names."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Annotated, Any

import msgspec

from tidegate.contract.openapi import MAX_OUTCOME_ID, MAX_OUTCOME_NAME, MAX_TIME_US, MIN_TIME_US
from tidegate.contract.violation import MalformedBody
from tidegate.contract.wire import timestamp_us
from tidegate.core.error import TidegateError
from tidegate.core.identifier import format_prediction_id, format_uuid, parse_prediction_id
from tidegate.journal.record import NO_SPAN, UNNAMED, JournalUnavailable, Outcome
from tidegate.serving.call import Call
from tidegate.serving.dataplane import DataPlane
from tidegate.serving.endpoint import Endpoint
from tidegate.serving.http.door import Door
from tidegate.serving.http.error import native_error, retry_after
from tidegate.serving.http.exchange import Exchange
from tidegate.serving.http.pin import pinned_arm

REQUEST_ID_HEADER = b"x-request-id"
TRACE_HEADER = b"traceparent"
MAX_CALLER_ID = 128
MAX_OUTCOMES = 10_000
MAX_OUTCOME_BYTES = 4 << 20
"""Of a body of outcomes. Every value is decoded to be checked, and nobody else is served meanwhile."""
MAX_VALUE_BYTES = 64 << 10
"""JSON of one outcome's value."""
MAX_DEPTH = 64
_Name = Annotated[str, msgspec.Meta(max_length=MAX_OUTCOME_NAME)]
_OwnId = Annotated[str, msgspec.Meta(max_length=MAX_OUTCOME_ID)]
_AwareTime = Annotated[datetime, msgspec.Meta(tz=True)]
_TRACE = re.compile(
    rb"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?"
)
_AS_LISTS = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


class OneAnswer(msgspec.Struct, omit_defaults=True):
    """The answer to one row."""

    prediction_id: str
    version: int
    output: Any
    answered_by: str = ""
    reason: str = ""


class RowAnswer(msgspec.Struct):
    """One of several rows' answers."""

    prediction_id: str
    output: Any


class ManyAnswers(msgspec.Struct, omit_defaults=True):
    """The answers to several rows, all by one version."""

    version: int
    rows: list[RowAnswer]
    answered_by: str = ""
    reason: str = ""


_encode = msgspec.json.Encoder().encode


def identify(exchange: Exchange, call: Call) -> None:
    """Take the caller's own request id and trace from the headers, where they are given."""
    headers = exchange.headers
    if REQUEST_ID_HEADER in headers:
        call.caller_id = headers[REQUEST_ID_HEADER][:MAX_CALLER_ID].decode("ascii", errors="replace")
    if TRACE_HEADER in headers and (match := _TRACE.fullmatch(headers[TRACE_HEADER])):
        call.trace = trace_of(match)


def trace_of(match: re.Match[bytes]) -> bytes:
    """Return the trace id and, if the caller samples the trace, the caller's span; else zeros.

    Source: W3C Trace Context, Level 2: the last bit of the flags says whether it is sampled.
    """
    trace, parent, flags = (bytes.fromhex(part.decode()) for part in match.groups())
    return trace + (parent if flags[0] & 1 else NO_SPAN)


class NativeFace:
    """What the native handlers of one service share: the shape of errors and the service's name."""

    def __init__(self, plane: DataPlane, service: str) -> None:
        self.plane = plane
        self.service = service
        self.max_body_bytes = 16 << 20
        self.door: Door | None = None

    def refuse(self, exchange: Exchange, error: TidegateError) -> None:
        """Answer with the native error body."""
        self.plane.count_refusal(self.service, error.code, error.context.get("field"))
        respond_error(exchange, error)


def respond_error(exchange: Exchange, error: TidegateError) -> None:
    """Send the native error body."""
    status, body = native_error(error)
    exchange.respond(status, body, headers=retry_after(error))


class PredictHandler(NativeFace):
    """`POST /services/{name}/predict`: one object, `{"rows": [...]}` or `{"columns": {...}}`."""

    def __init__(self, plane: DataPlane, service: str) -> None:
        super().__init__(plane, service)
        self._endpoint: Endpoint = plane.endpoint(service)
        self._face = self._endpoint.stable if self._endpoint.arms else None
        if self._face is not None:
            self.max_body_bytes = self._face.limits.max_body_bytes
            self.door = Door(plane, self._face, shape=native_error)

    def admit(self, exchange: Exchange) -> None:
        """Refuse what could not be answered in time."""
        door = self.door
        if door is None:
            _ = self._endpoint.stable  # says what is missing
            return
        exchange.wish = wish = door.wish(exchange)
        door.check(wish, exchange.connection)

    def handle(self, exchange: Exchange, body: bytes) -> None:
        """Decode, pick an arm and submit."""
        plane, endpoint = self.plane, self._endpoint
        face = self._face or endpoint.stable
        wish = exchange.wish
        assert wish is not None  # where there is a face there is a door
        rows, single = face.decoder.decode(body)
        request_id = plane.new_id()
        keys = endpoint.keys_of(rows) if face.key_name else None
        pinned = pinned_arm(exchange, endpoint)
        arm, bucket = (pinned, -1.0) if pinned else endpoint.pick(keys[0] if keys else request_id)
        clock = plane.clock
        now_s = clock.monotonic_s()
        call = Call(
            arm,
            rows if arm.version is face else arm.version.adopt(rows, face),
            n_rows=len(rows),
            request_id=request_id,
            arrived_us=clock.wall_us(),
            started_s=now_s,
            deadline_s=now_s + wish.timeout_s,
            reply=_reply_one if single else _reply_many,
            origin=exchange,
        )
        call.key_hashes = keys
        call.bucket = bucket
        call.criticality = wish.criticality
        identify(exchange, call)
        exchange.on_abandon = call.abandon
        plane.submit(call)


def _reply_one(call: Call) -> None:
    """Send the answer to a request of one object."""
    exchange: Exchange = call.origin
    if call.error is not None:
        respond_error(exchange, call.error)
        return
    group = call.group
    answer = OneAnswer(format_uuid(call.request_id), call.arm.version.number, group.answer_rows[call.start])
    if group.answered_by:
        answer.answered_by, answer.reason = group.answered_by, group.error.code if group.error else ""
    exchange.respond(200, _encode(answer))


def _reply_many(call: Call) -> None:
    """Send the answer to a request of several rows."""
    exchange: Exchange = call.origin
    if call.error is not None:
        respond_error(exchange, call.error)
        return
    group = call.group
    rows = [
        RowAnswer(format_prediction_id(call.request_id, number), row)
        for number, row in enumerate(call.answer_rows)
    ]
    answer = ManyAnswers(call.arm.version.number, rows)
    if group.answered_by:
        answer.answered_by, answer.reason = group.answered_by, group.error.code if group.error else ""
    exchange.respond(200, _encode(answer))


class SentOutcome(msgspec.Struct, forbid_unknown_fields=True):
    """What a caller reports of one prediction.

    Attributes:
        value: What was observed, any JSON value.
        prediction_id: The prediction, as the answer named it.
        key: Or the value of the service's key field; then the latest prediction of that key at or
            before `event_time` is meant.
        event_time: The time that goes with the key, RFC 3339 or microseconds UTC.
        name: What was observed, for a service with several outcomes.
        id: The caller's idempotency key for this report.
    """

    value: msgspec.Raw
    prediction_id: str = ""
    key: str | int | float | None = None
    event_time: str | int | float | None = None
    name: _Name = UNNAMED
    id: _OwnId = ""


class SentOutcomes(msgspec.Struct, forbid_unknown_fields=True):
    """Several reports in one request."""

    outcomes: list[SentOutcome]


class OutcomeHandler(NativeFace):
    """`POST /services/{name}/outcomes`: what became of predictions, now or much later."""

    def __init__(self, plane: DataPlane, service: str) -> None:
        super().__init__(plane, service)
        self.max_body_bytes = MAX_OUTCOME_BYTES
        self._endpoint = plane.endpoint(service)
        self._one = msgspec.json.Decoder(SentOutcome)
        self._many = msgspec.json.Decoder(SentOutcomes)

    def admit(self, exchange: Exchange) -> None:
        """Take outcomes whatever the load: they are cheap, and each is evidence."""

    def handle(self, exchange: Exchange, body: bytes) -> None:
        """Journal the outcomes, then say so. The same one again does no harm."""
        sent = self._decode(body)
        now_us = self.plane.clock.wall_us()
        outcomes = [self._outcome(one, position, now_us) for position, one in enumerate(sent)]

        def answer(error: JournalUnavailable | None) -> None:
            if error is not None:
                self.refuse(exchange, error)
            else:
                exchange.respond(202, _encode({"accepted": len(outcomes)}))

        self.plane.record_outcomes(outcomes, answer)

    def _decode(self, body: bytes) -> list[SentOutcome]:
        many = re.match(rb'\s*\{\s*"outcomes"', body) is not None
        try:
            sent = self._many.decode(body).outcomes if many else [self._one.decode(body)]
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
            raise MalformedBody(
                f"This is not an outcome: {error}",
                hint='Send {"prediction_id": "...", "value": ...} or {"outcomes": [...]}.',
            ) from error
        if not 0 < len(sent) <= MAX_OUTCOMES:
            raise MalformedBody(
                f"A request reports 1 to {MAX_OUTCOMES} outcomes, got {len(sent)}.",
                hint="Send several requests.",
            )
        return sent

    def _outcome(self, sent: SentOutcome, position: int, now_us: int) -> Outcome:
        request, row, key_hash, event_us = b"", 0, b"", 0
        if sent.prediction_id:
            try:
                request, row = parse_prediction_id(sent.prediction_id)
            except ValueError as error:
                raise MalformedBody(
                    f"Field 'prediction_id' of outcome {position} is not a prediction's id: {error}.",
                    hint="Send the id that came with the answer.",
                    field="prediction_id",
                ) from error
        elif sent.key is not None and sent.event_time is not None:
            key_hash = self._endpoint.hash_key(_key(sent.key, position))
            event_us = self._event_us(sent.event_time, position)
        else:
            raise MalformedBody(
                f"Outcome {position} names no prediction.",
                hint="Send 'prediction_id', or 'key' together with 'event_time'.",
                field="prediction_id",
            )
        return Outcome(
            self.service,
            sent.name,
            self._value(sent.value, position),
            now_us,
            request,
            row,
            key_hash,
            event_us,
            sent.id,
        )

    def _value(self, value: msgspec.Raw, position: int) -> msgspec.Raw:
        """Return the value in a form that whoever reads the journal can decode."""
        try:
            if len(value) > MAX_VALUE_BYTES:
                raise ValueError(f"it has more than {MAX_VALUE_BYTES} bytes")
            plain = _encode(msgspec.json.decode(value))
            if _is_deep(plain):
                raise ValueError(f"it is nested deeper than {MAX_DEPTH}")
            return msgspec.Raw(plain)
        except (msgspec.MsgspecError, RecursionError, ValueError) as error:
            raise MalformedBody(
                f"Field 'value' of outcome {position} is not JSON that can be kept: {error}.",
                hint="Send a number, a text, or another plain value.",
                field="value",
            ) from error

    def _event_us(self, given: str | float, position: int) -> int:
        time = _integral(given)
        if isinstance(time, int | float):
            if isinstance(time, float) or not MIN_TIME_US <= time <= MAX_TIME_US:
                raise MalformedBody(
                    f"Field 'event_time' of outcome {position} is not a time: as a number it is whole "
                    f"microseconds since 1970, in the years 1 to 9999. Got {_shown(time)}.",
                    hint="Send RFC 3339 with an offset, or microseconds UTC.",
                    field="event_time",
                )
            return time
        try:
            instant_us = timestamp_us(msgspec.convert(time, _AwareTime))
            if not MIN_TIME_US <= instant_us <= MAX_TIME_US:
                raise ValueError("with its offset it is outside the years 1 to 9999")
            return instant_us
        except ValueError as error:
            raise MalformedBody(
                f"Field 'event_time' of outcome {position} is not a time: {error}.",
                hint="Send RFC 3339 with an offset, or microseconds UTC.",
                field="event_time",
            ) from error


def _integral(value: str | float) -> str | int | float:
    """Return 3 for 3.0: to JSON both are the same integer."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _shown(number: float) -> str:
    try:
        return f"{number:.9g}"
    except OverflowError:  # an integer that is no float
        return "a number of hundreds of digits"


def _key(value: str | float, position: int) -> str | int:
    """Return a key as rows have it."""
    key = _integral(value)
    if isinstance(key, float):
        raise MalformedBody(
            f"Field 'key' of outcome {position} must be a text or a whole number.",
            hint="Send the value of the key field as it was sent with the row.",
            field="key",
        )
    return key


def _is_deep(value: bytes) -> bool:
    """Tell whether lists and objects are nested deeper than whoever reads the journal will follow."""
    if value.count(b"[") + value.count(b"{") <= MAX_DEPTH:
        return False
    parts = value.replace(rb"\\", b"").replace(rb"\"", b"").split(b'"')  # every second one is a text
    brackets = b"".join(parts[::2]).translate(_AS_LISTS, _NO_BRACKETS)
    for _ in range(MAX_DEPTH):
        brackets = brackets.replace(b"[]", b"")  # the innermost
    return bool(brackets)


class DocumentHandler:
    """Answers GET with a JSON document that is made when it is asked for."""

    max_body_bytes = 1 << 16
    door = None

    def __init__(self, make: Callable[[], Mapping[str, Any]]) -> None:
        self._make = make

    def admit(self, exchange: Exchange) -> None:
        """Take every request."""

    def handle(self, exchange: Exchange, body: bytes) -> None:
        """Send the document."""
        exchange.respond(200, _encode(self._make()))

    def refuse(self, exchange: Exchange, error: TidegateError) -> None:
        """Answer with the native error body."""
        respond_error(exchange, error)
