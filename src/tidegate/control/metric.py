"""The workers' metric pages as Prometheus reads them.

Counts of all workers are added up, those of workers that died included: a page outlives its process.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from tidegate.core.error import Corrupt
from tidegate.serving.metric import Labels, read_page

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_DURATION = "_us"
_US_PER_S = 1e6


class PageCollector(Collector):
    """Reads every page of a folder each time it is asked."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def collect(self) -> Iterator[Metric]:
        """Yield the families: counters and histograms added up, gauges by page."""
        totals: dict[str, dict[Labels, int]] = defaultdict(lambda: defaultdict(int))
        gauges: dict[str, dict[Labels, int]] = defaultdict(dict)
        unreadable = 0
        for path in sorted(self._folder.glob("*.page")):
            try:
                samples = list(read_page(path))
            except (Corrupt, OSError):
                unreadable += 1
                continue
            for sample in samples:
                if sample.gauge:
                    gauges[sample.name][*sample.labels, ("process", path.stem)] = sample.value
                else:
                    totals[sample.name][sample.labels] += sample.value
        yield from _counters(totals)
        yield from _histograms(totals)
        for name, values in sorted(gauges.items()):
            yield _gauge(name, values)
        pages = GaugeMetricFamily("tidegate_metric_pages_unreadable", "Metric pages that cannot be read")
        pages.add_metric([], unreadable)
        yield pages


class WatchCollector(Collector):
    """What the controller knows: how far it is behind, how often it failed, what the monitors found."""

    def __init__(self, behind_bytes: int, failures: int, signals: Mapping[tuple[str, str, str], int]) -> None:
        self._behind_bytes = behind_bytes
        self._failures = failures
        self._signals = signals

    def collect(self) -> Iterator[Metric]:
        """Yield one series a service, monitor and severity: as many as are declared, never one a field."""
        behind = GaugeMetricFamily("tidegate_journal_behind_bytes", "Bytes of the journal not counted yet")
        behind.add_metric([], self._behind_bytes)
        yield behind
        failed = CounterMetricFamily("tidegate_controller_failures", "Looks at the journal that failed")
        failed.add_metric([], self._failures)
        yield failed
        signals = GaugeMetricFamily(
            "tidegate_signals_open", "Signals that are not over", labels=["service", "monitor", "severity"]
        )
        for labels, count in sorted(self._signals.items()):
            signals.add_metric(list(labels), count)
        yield signals


def exposition(folder: Path, *more: Collector) -> bytes:
    """Return the metrics of all processes of a server in Prometheus's text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(PageCollector(folder))
    for collector in more:
        registry.register(collector)
    return generate_latest(registry)


def _is_histogram(name: str) -> bool:
    return name.endswith((f"{_DURATION}_bucket", f"{_DURATION}_sum"))


def _counters(totals: dict[str, dict[Labels, int]]) -> Iterator[Metric]:
    for name, values in sorted(totals.items()):
        if _is_histogram(name):
            continue
        labels = _label_names(values)
        family = CounterMetricFamily(name.removesuffix("_total"), _describe(name), labels=labels)
        for key, value in sorted(values.items()):
            family.add_metric(_label_values(labels, key), value)
        yield family


def _histograms(totals: dict[str, dict[Labels, int]]) -> Iterator[Metric]:
    for bucket_name, buckets in sorted(totals.items()):
        if not bucket_name.endswith(f"{_DURATION}_bucket"):
            continue
        name = bucket_name.removesuffix("_bucket")
        sums = totals.get(f"{name}_sum", {})
        by_series: dict[Labels, list[tuple[float, int]]] = defaultdict(list)
        for key, count in buckets.items():
            bound = float(next(value for label, value in key if label == "le"))
            by_series[tuple(pair for pair in key if pair[0] != "le")].append((bound, count))
        labels = _label_names(by_series)
        family = HistogramMetricFamily(
            name.removesuffix(_DURATION) + "_seconds", _describe(name), labels=labels
        )
        for key, counts in sorted(by_series.items()):
            family.add_metric(
                _label_values(labels, key), _cumulative(counts), sum_value=sums.get(key, 0) / _US_PER_S
            )
        yield family


def _cumulative(counts: list[tuple[float, int]]) -> list[tuple[str, float]]:
    """Return bucket counts as Prometheus has them: seconds, each with all below it."""
    total, found = 0, []
    for bound_us, count in sorted(counts):
        total += count
        found.append(("+Inf" if bound_us == float("inf") else repr(bound_us / _US_PER_S), float(total)))
    return found


def _gauge(name: str, values: dict[Labels, int]) -> Metric:
    labels = _label_names(values)
    family = GaugeMetricFamily(name, _describe(name), labels=labels)
    for key, value in sorted(values.items()):
        family.add_metric(_label_values(labels, key), value)
    return family


def _label_names(keys: Iterable[Labels]) -> list[str]:
    return sorted({label for key in keys for label, _ in key})


def _label_values(names: list[str], key: Labels) -> list[str]:
    given = dict(key)
    return [given.get(name, "") for name in names]


def _describe(name: str) -> str:
    words = name.removeprefix("tidegate_").removesuffix("_total").removesuffix(_DURATION)
    return words.replace("_", " ").capitalize()
