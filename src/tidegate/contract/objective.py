"""What a service promises about itself, beside its schema."""

from __future__ import annotations

import msgspec


class Objectives(msgspec.Struct, frozen=True):
    """Declared service levels; gates, releases and monitors measure against them.

    Attributes:
        latency_p99_ms: 99th percentile of service time, milliseconds.
        availability: Share of requests answered well, in (0, 1).
        outcome_within_s: Time after which an outcome that has not arrived will not, seconds.
    """

    latency_p99_ms: float | None = None
    availability: float | None = None
    outcome_within_s: float | None = None


class Limits(msgspec.Struct, frozen=True):
    """Bounds that keep one request, or one caller, from taking a worker from all others.

    Attributes:
        deadline_ms: Time a request may take when it does not say itself. Two seconds: a caller
            that waits longer has mostly gone.
        max_rows: Rows of one request.
        max_body_bytes: Bytes of one body, after decompression.
        max_waiting_rows: Rows that may wait for a slow model, per worker. At one row a millisecond
            this is half a second, past which a refusal serves the caller better than a wait.
    """

    deadline_ms: float = 2_000.0
    max_rows: int = 10_000
    max_body_bytes: int = 16 << 20
    max_waiting_rows: int = 512
