"""Spans of requests, from their records: whole, waiting, model call.

A worker does nothing for them: the journal holds when a request arrived, how long it took, how long
its model call took, and which span of the caller it belongs to.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import blake2b
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tidegate.core.identifier import format_uuid
from tidegate.journal.decode import Turns
from tidegate.journal.record import NO_ID, NO_SPAN, Flag

SERVER, INTERNAL = 2, 1
"""Kinds of span, as the protocol numbers them."""


class Span(NamedTuple):
    """One span.

    Attributes:
        trace: 16 bytes.
        id: 8 bytes.
        parent: 8 bytes; empty for the first of a trace.
        name: What was done.
        kind: `SERVER` or `INTERNAL`.
        start_us, end_us: Microseconds UTC.
        attributes: Plain values by name; none of an input or output.
        error: Code of the error that was answered; "" for a good answer.
    """

    trace: bytes
    id: bytes
    parent: bytes
    name: str
    kind: int
    start_us: int
    end_us: int
    attributes: dict[str, Any]
    error: str = ""


def spans_of(turns: Turns, *, share: float) -> Iterator[Span]:
    """Return the spans of those requests that are sampled.

    A caller's `traceparent` decides for itself. Of requests without one, a share that their ids choose:
    their trace has the request's own id, so that a prediction id leads to its trace.

    Args:
        turns: Predictions of one stream.
        share: Of requests without a trace, in [0, 1].
    """
    ids, n = turns.request_ids, turns.n_requests
    traces, parents = turns.trace_ids or NO_ID * n, turns.parent_ids or NO_SPAN * n
    chosen = _chosen(ids, traces, parents, share)
    if not len(chosen):
        return
    arrived, took, model = turns.arrived_us, turns.took_us, turns.service_us
    errors, answered, flags = turns.errors, turns.answered_by, turns.flags
    stream, frame = turns.stream, turns.frame_of_request
    for at in chosen.tolist():
        request = ids[16 * at : 16 * at + 16]
        trace, parent = traces[16 * at : 16 * at + 16], parents[8 * at : 8 * at + 8]
        whole = _id(request, b"request")
        start = int(arrived[at])
        end = start + max(0, round(float(took[at])))
        called = min(max(0, round(float(model[at]))), end - start)
        flag = int(flags[at])
        error = (errors[at] if errors is not None else None) or ""
        fallback = answered[int(frame[at])] if answered is not None else ""
        trace = trace if trace != NO_ID else request
        yield Span(
            trace,
            whole,
            b"" if parent == NO_SPAN else parent,
            f"predict {stream.service}",
            SERVER,
            start,
            end,
            {
                "tidegate.version": stream.version,
                "tidegate.arm": stream.arm,
                "tidegate.request": format_uuid(request),
                "tidegate.rows": int(turns.rows[at]),
                **({"tidegate.answered_by": fallback} if fallback else {}),
                **({"tidegate.cached": True} if flag & Flag.CACHED else {}),
            },
            error,
        )
        if called and not flag & Flag.CACHED:
            inner = {"tidegate.batch_rows": int(turns.heads["batch_rows"][frame[at]])}
            wait = _id(request, b"wait")
            yield Span(trace, wait, whole, "wait", INTERNAL, start, end - called, {})
            yield Span(trace, _id(request, b"model"), whole, "model", INTERNAL, end - called, end, inner)


def _chosen(ids: bytes, traces: bytes, parents: bytes, share: float) -> npt.NDArray[np.intp]:
    caller = np.frombuffer(parents, "<u8") != 0
    foreign = (np.frombuffer(traces, "<u8").reshape(-1, 2) != 0).any(axis=1)
    # the last 32 bits of a UUID of version 7 are random
    own = np.frombuffer(ids, ">u4").reshape(-1, 4)[:, 3] < share * 2.0**32
    return np.flatnonzero(caller | (own & ~foreign))


def _id(request: bytes, part: bytes) -> bytes:
    """Return the id of a span: the same, whenever it is made again of the same record."""
    return blake2b(request, digest_size=8, person=part).digest()
