"""What a service promises about itself, beside its schema."""

from __future__ import annotations

from enum import IntEnum

import msgspec

from tidegate.core.declared import check_above, check_types
from tidegate.core.error import InvalidSetting


class Criticality(IntEnum):
    """How much a request matters when not all can be answered: the least is refused first."""

    SHADOW = 0  # a copy whose answer nobody waits for
    BATCH = 1  # work that can be done later
    NORMAL = 2
    CRITICAL = 3  # a person or a payment waits for it


class Objectives(msgspec.Struct, frozen=True):
    """Declared service levels; gates, releases and monitors measure against them.

    Attributes:
        latency_p99_ms: 99th percentile of service time, milliseconds.
        availability: Share of requests answered well, in (0, 1).
        outcome_within_s: Time after which an outcome that has not arrived will not, seconds.
        tolerance: Output field -> difference between two versions' answers that means nothing, in the
            field's unit.
    """

    latency_p99_ms: float | None = None
    availability: float | None = None
    outcome_within_s: float | None = None
    tolerance: dict[str, float] = {}

    def __post_init__(self) -> None:
        """Refuse what no service can hold.

        Raises:
            InvalidSetting: A value has another type or is out of its range; the message names it.
        """
        check_types(self)
        check_above(self, 0, "latency_p99_ms", "availability", "outcome_within_s")
        if self.availability is not None and not self.availability < 1:
            raise InvalidSetting(f"availability must lie between 0 and 1, got {self.availability}.")
        for name, value in self.tolerance.items():
            if not value >= 0:
                raise InvalidSetting(f"tolerance of {name!r} must be at least 0, got {value}.", field=name)


class Limits(msgspec.Struct, frozen=True):
    """Bounds that keep one request, or one caller, from taking a worker from all others.

    Attributes:
        deadline_ms: Time a request may take when it does not say itself. Two seconds: a caller
            that waits longer has mostly gone.
        max_rows: Rows of one request.
        max_body_bytes: Bytes of one body, after decompression.
        max_waiting_rows: Rows that may wait for a slow model, per worker. At one row a millisecond
            this is half a second, past which a refusal serves the caller better than a wait.
        pinning: Whether a caller may name the version or the arm that answers, by header. Off: who may
            choose could keep away from a candidate, or load one that was only to be tried.
        criticality: How much a request matters that does not say itself: `shadow`, `batch`, `normal`
            or `critical`. Under overload the least is refused first.
        caller_rate_per_s: Requests a second that one caller may send to one worker; None for no
            bound. For fairness among callers; overload needs no bound of this kind.
        caller_burst: Requests that a caller may send at once after a pause.
        caller_header: Header by which callers are told apart; "" for their network address.
    """

    deadline_ms: float = 2_000.0
    max_rows: int = 10_000
    max_body_bytes: int = 16 << 20
    max_waiting_rows: int = 512
    pinning: bool = False
    criticality: str = "normal"
    caller_rate_per_s: float | None = None
    caller_burst: int = 20
    caller_header: str = ""

    def __post_init__(self) -> None:
        """Refuse what contradicts itself.

        Raises:
            InvalidSetting: A value has another type or is out of its range; the message names it.
        """
        check_types(self)
        check_above(self, 0, "deadline_ms")
        check_above(self, 1, "max_rows", "max_body_bytes", "max_waiting_rows", "caller_burst", or_equal=True)
        known = [one.name.lower() for one in Criticality]
        if self.criticality not in known:
            raise InvalidSetting(
                f"Limits.criticality is {self.criticality!r}.", hint=f"Use one of: {', '.join(known)}."
            )
        if self.caller_rate_per_s is not None and not self.caller_rate_per_s > 0:
            raise InvalidSetting(
                f"Limits.caller_rate_per_s is {self.caller_rate_per_s}, expected a number above 0.",
                hint="Leave it out for no bound.",
            )


class Cache(msgspec.Struct, frozen=True):
    """How long and how much answers are kept for others who send the same.

    Attributes:
        ttl_s: How long an answer may be given again, seconds.
        max_bytes: What the kept answers of one version may take in one worker.
    """

    ttl_s: float
    max_bytes: int = 64 << 20

    def __post_init__(self) -> None:
        """Refuse what keeps nothing.

        Raises:
            InvalidSetting: A value has another type or is not above 0.
        """
        check_types(self)
        if not (self.ttl_s > 0 and self.max_bytes > 0):
            raise InvalidSetting(
                f"A cache of {self.ttl_s:g} s and {self.max_bytes} bytes keeps nothing.",
                hint="Declare both above 0, or no cache.",
            )
