"""One request on its way through the data plane, and the group it travels in."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tidegate.contract.batch import Batch
from tidegate.core.error import TidegateError

if TYPE_CHECKING:
    from tidegate.serving.endpoint import Arm


class Overloaded(TidegateError):
    """More is waiting than can be answered in time."""

    code = "overloaded"

    @classmethod
    def after(cls, wait_s: float, service: str) -> Overloaded:
        """Return the refusal of a request that may try again in `wait_s` seconds."""
        return cls(
            f"Service {service!r} is overloaded: a request like this could not be answered in time now.",
            hint="Try again after the time in Retry-After.",
            service=service,
            retry_after_s=round(wait_s, 3),
        )


class RateLimited(TidegateError):
    """The caller has sent more than its share."""

    code = "rate_limited"

    @classmethod
    def after(cls, wait_s: float, service: str) -> RateLimited:
        """Return the refusal of a request that may try again in `wait_s` seconds."""
        return cls(
            f"Service {service!r} takes so many requests from each caller and no more for now.",
            hint="Try again after the time in Retry-After.",
            service=service,
            retry_after_s=round(wait_s, 3),
        )


class DeadlineExceeded(TidegateError):
    """The request's time was over before there was an answer."""

    code = "deadline_exceeded"


class BreakerOpen(TidegateError):
    """The version has failed too often, and is left alone for a while."""

    code = "breaker_open"


class SafeMode(TidegateError):
    """The model is not asked at present, and no fallback could answer."""

    code = "safe_mode"


class NotReady(TidegateError):
    """The service exists but has no version that is loaded and checked in this worker yet."""

    code = "not_ready"


class OutputViolation(TidegateError):
    """The model answered something its contract forbids."""

    code = "output_violation"


class Call:
    """One request: its decoded rows, its identity, and, in the end, its answer or its error."""

    __slots__ = (
        "abandoned",
        "arm",
        "arrived_us",
        "bucket",
        "cache_key",
        "caller_id",
        "criticality",
        "deadline_s",
        "error",
        "group",
        "inputs",
        "key_hashes",
        "n_rows",
        "on_abandon",
        "origin",
        "reply",
        "request_id",
        "settled",
        "start",
        "started_s",
        "trace",
    )

    def __init__(
        self,
        arm: Arm,
        inputs: list[Any] | Batch,
        *,
        n_rows: int,
        request_id: bytes,
        arrived_us: int,
        started_s: float,
        deadline_s: float,
        reply: Callable[[Call], None],
        origin: Any = None,
    ) -> None:
        """Take a decoded request.

        Args:
            arm: The arm of the route that answers it.
            inputs: Decoded rows, or columns where it came as columns.
            n_rows: How many rows.
            request_id: 16 bytes, UUID of version 7.
            arrived_us: When its last byte arrived, microseconds UTC.
            started_s: The same on the monotonic clock, seconds.
            deadline_s: When its answer stops being of use, monotonic clock.
            reply: Called once, in a turn of the event loop, when there is an answer or an error.
            origin: What `reply` needs to know of where the request came from.
        """
        self.arm = arm
        self.inputs = inputs
        self.n_rows = n_rows
        self.request_id = request_id
        self.arrived_us = arrived_us
        self.started_s = started_s
        self.deadline_s = deadline_s
        self.reply = reply
        self.origin = origin
        self.caller_id = ""
        self.trace = b""  # 16 bytes of trace id, 8 of the caller's span: zeros if it does not sample
        self.bucket = -1.0
        self.key_hashes: list[bytes] | None = None
        self.abandoned = False
        self.settled = False
        self.criticality = 2  # Criticality.NORMAL, which takes longer to look up than to write
        self.cache_key: bytes | None = None  # of an answer that others may wait for
        self.on_abandon: Callable[[], None] | None = None
        self.error: TidegateError | None = None
        self.group: Group
        self.start = 0

    def abandon(self) -> None:
        """Say that nobody waits for the answer any more."""
        self.abandoned = True
        if self.on_abandon is not None:
            self.on_abandon()

    @property
    def outputs(self) -> Batch:
        """The answer's rows as columns."""
        outputs = self.group.outputs
        assert outputs is not None  # faces ask only for calls without an error
        if self.n_rows == self.group.n_rows:
            return outputs
        return outputs.rows(self.start, self.start + self.n_rows)

    @property
    def answer_rows(self) -> list[Any]:
        """The answer's rows as encodable structs."""
        return self.group.answer_rows[self.start : self.start + self.n_rows]


class Group:
    """Calls of one arm that go through one model call and one journal frame together."""

    __slots__ = (
        "_answer_rows",
        "answered_by",
        "arm",
        "batch_rows",
        "calls",
        "error",
        "flags",
        "inputs",
        "n_rows",
        "outputs",
        "predict_us",
    )

    def __init__(self, arm: Arm, calls: list[Call], inputs: Batch) -> None:
        self.arm = arm
        self.calls = calls
        self.inputs = inputs
        self.n_rows = inputs.n_rows
        self.outputs: Batch | None = None
        self.error: TidegateError | None = None
        self.answered_by = ""
        self.flags = 0
        self.predict_us = 0.0
        self.batch_rows = inputs.n_rows
        self._answer_rows: list[Any] | None = None
        start = 0
        for call in calls:
            call.group = self
            call.start = start
            start += call.n_rows

    @classmethod
    def gather(cls, arm: Arm, calls: list[Call]) -> Group:
        """Put the rows of all `calls` one after another into one batch."""
        inputs = cls._gathered(arm, calls)
        features = arm.version.features
        return cls(arm, calls, inputs if features is None else features.widen(inputs))

    @classmethod
    def join(cls, groups: list[Group]) -> Group:
        """Put groups of one arm, without outputs yet, one after another into one."""
        first = groups[0]
        if len(groups) == 1:
            return first
        calls = [call for group in groups for call in group.calls]
        joined = cls(first.arm, calls, Batch.concat([group.inputs for group in groups]))
        joined.flags = first.flags
        return joined

    @staticmethod
    def _gathered(arm: Arm, calls: list[Call]) -> Batch:
        gather = arm.version.decoder.gather
        if len(calls) == 1:
            alone = calls[0].inputs
            return alone if isinstance(alone, Batch) else gather(alone)
        rows: list[Any] = []
        for call in calls:
            if isinstance(call.inputs, Batch):
                break
            rows += call.inputs
        else:
            return gather(rows)
        parts = [call.inputs if isinstance(call.inputs, Batch) else gather(call.inputs) for call in calls]
        return Batch.concat(parts)

    @property
    def answer_rows(self) -> list[Any]:
        """All rows of the answer as encodable structs, made once for the group."""
        if self._answer_rows is None:
            assert self.outputs is not None
            self._answer_rows = self.arm.version.encoder.rows(self.outputs)
        return self._answer_rows

    def part(self, calls: list[Call]) -> Group:
        """Return a group of some of the calls, with their rows of inputs and outputs."""
        spans = [range(call.start, call.start + call.n_rows) for call in calls]
        if len(spans) == 1:
            inputs = self.inputs.rows(spans[0].start, spans[0].stop)
            outputs = self.outputs and self.outputs.rows(spans[0].start, spans[0].stop)
        else:
            index = [row for span in spans for row in span]
            inputs = self.inputs.take(index)
            outputs = self.outputs and self.outputs.take(index)
        part = Group(self.arm, calls, inputs)
        part.outputs = outputs
        part.predict_us = self.predict_us
        part.batch_rows = self.batch_rows
        return part
