"""What is counted of the calls of one arm."""

from __future__ import annotations

from math import ceil

from tidegate.journal.record import Flag
from tidegate.serving.call import Group
from tidegate.serving.endpoint import Arm
from tidegate.serving.metric import Counter, Histogram, MetricPage

ON_DEMAND = "(on demand)"
"""Label of all services together that are loaded on demand."""


class Meter:
    """The counters of one arm."""

    __slots__ = (
        "_batch_rows",
        "_batches",
        "_begun",
        "_cached",
        "_failed",
        "_failed_us",
        "_fallback",
        "_last_ms",
        "_latency",
        "_ok",
        "_predict_us",
        "_rows",
    )

    def __init__(self, page: MetricPage, arm: Arm) -> None:
        labels = {"service": arm.service, "version": str(arm.version.number), "arm": arm.name}
        if arm.version.is_on_demand:  # a page has no room for thousands; the ledger counts each
            labels = {"service": ON_DEMAND, "version": "", "arm": arm.name}

        def counter(name: str, **more: str) -> Counter:
            return page.counter(name, {**labels, **more})

        self._ok = counter("tidegate_requests_total", result="ok")
        self._failed = counter("tidegate_requests_total", result="error")
        self._fallback = counter("tidegate_requests_total", result="fallback")
        self._rows = counter("tidegate_rows_total")
        self._batches = counter("tidegate_model_calls_total")
        self._batch_rows = counter("tidegate_model_call_rows_total")
        self._predict_us = counter("tidegate_model_call_microseconds_total")
        self._failed_us = counter("tidegate_failed_microseconds_total")
        self._cached = counter("tidegate_cached_total")
        self._last_ms = page.counter("tidegate_last_inference_milliseconds", labels, gauge=True)
        self._begun = 0.0
        self._latency: Histogram = page.histogram("tidegate_request_duration_us", labels)

    def count(self, group: Group, now_s: float) -> None:
        """Count a finished group.

        Args:
            group: With outputs or an error.
            now_s: Monotonic time of its answers.
        """
        calls = group.calls
        if group.error is None:
            self._ok.add(len(calls))
        elif group.outputs is not None:
            self._fallback.add(len(calls))
        else:
            self._failed.add(len(calls))
            self._failed_us.add(sum(int((now_s - call.started_s) * 1e6) for call in calls))
        self._rows.add(group.n_rows)
        if group.flags & Flag.CACHED:
            self._cached.add(len(calls))
        elif group.error is None:
            self._count_model_call(group)
        self._latency.observe_all([int((now_s - call.started_s) * 1e6) for call in calls])

    def _count_model_call(self, group: Group) -> None:
        """Count the part of a model call that a group was, or the several calls that it took."""
        share = group.n_rows / group.batch_rows if group.batch_rows else 1.0
        if share >= 1.0:
            self._batches.add(ceil(share))
            self._predict_us.add(int(group.predict_us))
        else:
            self._begun += share
            if self._begun > 0.999:  # thirds and sevenths do not add up to one
                self._begun -= 1.0
                self._batches.add(1)
            self._predict_us.add(int(group.predict_us * share))
        self._batch_rows.add(group.n_rows)
        self._last_ms.set(group.calls[-1].arrived_us // 1000)
