"""What the journal and the ledger hold, as Prometheus reads it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from tidegate.core.clock import Clock
from tidegate.core.error import TidegateError
from tidegate.journal.ledger import Ledger
from tidegate.journal.reader import list_segments
from tidegate.journal.tally import US_PER_MINUTE
from tidegate.operation.journal import SliceView, slices_since

_MINUTES = 60
_LABELS = ["service", "field", "value"]


class JournalCollector(Collector):
    """Size of the journal, and each slice's traffic of the last hour.

    At most 12 fields a service and 66 values a field: what is bounded where it is counted is bounded here.
    """

    def __init__(self, journal: Path, ledger: Path, *, clock: Clock, waiting: int | None = None) -> None:
        """Take the places, and how many files of records wait to be copied (None: none are)."""
        self._waiting = waiting
        self._journal = journal
        self._ledger = ledger
        self._clock = clock

    def collect(self) -> Iterator[Metric]:
        """Yield the journal's size, then a series a service, field and value."""
        yield _gauge("tidegate_journal_bytes", "Size of the journal's segments", _size_bytes(self._journal))
        if self._waiting is not None:
            yield _gauge(
                "tidegate_delta_waiting_parts", "Files of records not in Delta tables yet", self._waiting
            )
        rows = GaugeMetricFamily("tidegate_slice_rows", "Rows of the last hour by slice", labels=_LABELS)
        failed = GaugeMetricFamily(
            "tidegate_slice_failed_rows", "Rows of the last hour answered with an error", labels=_LABELS
        )
        score = GaugeMetricFamily(
            "tidegate_slice_score_mean", "Mean judged output of the last hour by slice", labels=_LABELS
        )
        for service, view in self._views():
            labels = [service, view.field, view.value]
            rows.add_metric(labels, view.rows)
            failed.add_metric(labels, view.failed)
            if view.mean_score is not None:
                score.add_metric(labels, view.mean_score)
        yield from (rows, failed, score)

    def _views(self) -> Iterator[tuple[str, SliceView]]:
        since = self._clock.wall_us() // US_PER_MINUTE - _MINUTES
        try:
            with closing(Ledger(self._ledger, read_only=True)) as ledger:
                for service in ledger.asked_since(since):
                    for view in slices_since(ledger, service, since_minute=since):
                        yield service, view
        except TidegateError:  # nothing was counted yet, or it cannot be read: other metrics matter more
            return


def _gauge(name: str, doc: str, value: float) -> Metric:
    family = GaugeMetricFamily(name, doc)
    family.add_metric([], value)
    return family


def _size_bytes(folder: Path) -> int:
    total = 0
    for entry in list_segments(folder):
        try:
            total += entry.path.stat().st_size
        except FileNotFoundError:  # renamed or deleted since it was listed
            continue
    return total
