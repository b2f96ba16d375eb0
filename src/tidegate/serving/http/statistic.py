"""What the workers counted, in the form of the Open Inference Protocol's statistics extension.

Source: Triton Inference Server, statistics extension of the protocol.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec

from tidegate.core.error import Corrupt
from tidegate.serving.metric import Sample, read_page


class DurationStatistic(msgspec.Struct):
    """How often something happened, and how long it took in all, nanoseconds."""

    count: int = 0
    ns: int = 0


class InferenceStatistics(msgspec.Struct):
    """Requests by result, and the stations of their way.

    Times in the queue, of the cache and of the model's own input and output are not measured apart: 0.

    Attributes:
        success: Requests that were answered, by the model or a fallback; from arrival to answer.
        fail: Requests that got an error from the model.
        compute_infer: Calls of the model.
        cache_hit: Requests that the answer of an earlier one was good for.
    """

    success: DurationStatistic
    fail: DurationStatistic
    queue: DurationStatistic
    compute_input: DurationStatistic
    compute_infer: DurationStatistic
    compute_output: DurationStatistic
    cache_hit: DurationStatistic
    cache_miss: DurationStatistic


class BatchStatistics(msgspec.Struct):
    """Calls of the model of one batch size."""

    batch_size: int
    compute_input: DurationStatistic
    compute_infer: DurationStatistic
    compute_output: DurationStatistic


class ModelStatistics(msgspec.Struct):
    """What was counted of one version since the home's metric pages were begun.

    Attributes:
        name: The service.
        version: The version's number.
        last_inference: When the last request that the model answered arrived, milliseconds since 1970 UTC; 0
            if there was none.
        inference_count: Rows that the model answered.
        execution_count: Calls of the model.
        inference_stats: Requests.
        batch_stats: Not counted by size, empty.
    """

    name: str
    version: str
    last_inference: int
    inference_count: int
    execution_count: int
    inference_stats: InferenceStatistics
    batch_stats: list[BatchStatistics]


class StatisticsAnswer(msgspec.Struct):
    """The body of an answer."""

    model_stats: list[ModelStatistics]


Version = tuple[str, int]


def model_statistics(folder: Path, versions: Iterable[Version]) -> StatisticsAnswer:
    """Return what all workers counted of the given versions.

    Args:
        folder: Where the workers' metric pages are.
        versions: Service and number of each.
    """
    counts: dict[Version, dict[str, int]] = {version: {} for version in versions}
    for sample in _samples(folder):
        labels = dict(sample.labels)
        try:
            version = labels["service"], int(labels["version"])
        except (KeyError, ValueError):
            continue
        if version in counts:
            name, count = sample.name + labels.get("result", ""), counts[version]
            before = count.get(name, 0)
            count[name] = max(before, sample.value) if sample.gauge else before + sample.value
    return StatisticsAnswer([_statistics(version, count) for version, count in counts.items()])


def _samples(folder: Path) -> Iterable[Sample]:
    for path in sorted(folder.glob("*.page")):
        try:
            yield from read_page(path)
        except (Corrupt, FileNotFoundError):  # a worker that starts is just making it
            continue


def _statistics(version: Version, counts: dict[str, int]) -> ModelStatistics:
    def count(name: str) -> int:
        return counts.get("tidegate_" + name, 0)

    answered = count("requests_totalok") + count("requests_totalfallback")
    failed_us = count("failed_microseconds_total")
    total_us = count("request_duration_us_sum")
    inference = InferenceStatistics(
        success=DurationStatistic(answered, (total_us - failed_us) * 1000),
        fail=DurationStatistic(count("requests_totalerror"), failed_us * 1000),
        queue=DurationStatistic(),
        compute_input=DurationStatistic(),
        compute_infer=DurationStatistic(
            count("model_calls_total"), count("model_call_microseconds_total") * 1000
        ),
        compute_output=DurationStatistic(),
        cache_hit=DurationStatistic(count("cached_total")),
        cache_miss=DurationStatistic(),
    )
    return ModelStatistics(
        name=version[0],
        version=str(version[1]),
        last_inference=count("last_inference_milliseconds"),
        inference_count=count("model_call_rows_total"),
        execution_count=count("model_calls_total"),
        inference_stats=inference,
        batch_stats=[],
    )
