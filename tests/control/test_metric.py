"""Pages of several processes become one Prometheus exposition."""

from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tidegate.control.metric import exposition
from tidegate.serving.metric import MetricPage


def samples(folder):
    families = text_string_to_metric_families(exposition(folder).decode())
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def test_counts_of_all_processes_are_added_up(tmp_path):
    for slot, amount in enumerate((3, 4)):
        page = MetricPage(tmp_path / f"worker-{slot}.page")
        page.counter("tidegate_rows_total", {"service": "flights"}).add(amount)

    assert samples(tmp_path)["tidegate_rows_total", (("service", "flights"),)] == 7


def test_gauges_stay_apart_by_process(tmp_path):
    for slot, value in enumerate((3, 4)):
        page = MetricPage(tmp_path / f"worker-{slot}.page")
        page.counter("tidegate_waiting_rows", {"service": "f"}, gauge=True).set(value)

    found = samples(tmp_path)

    assert found["tidegate_waiting_rows", (("process", "worker-0"), ("service", "f"))] == 3
    assert found["tidegate_waiting_rows", (("process", "worker-1"), ("service", "f"))] == 4


def test_histograms_are_in_seconds_and_cumulative(tmp_path):
    page = MetricPage(tmp_path / "worker-0.page")
    durations = page.histogram("tidegate_request_duration_us", {"service": "f"})
    for value_us in (60, 60, 90, 10_000_000):
        durations.observe(value_us)

    found = samples(tmp_path)

    def bucket(bound):
        return found["tidegate_request_duration_seconds_bucket", (("le", bound), ("service", "f"))]

    assert bucket("5e-05") == 0
    assert bucket("7.1e-05") == 2
    assert bucket("0.0001") == 3
    assert bucket("+Inf") == 4
    assert found["tidegate_request_duration_seconds_count", (("service", "f"),)] == 4
    assert found["tidegate_request_duration_seconds_sum", (("service", "f"),)] == pytest.approx(10.00021)


def test_a_page_that_cannot_be_read_is_counted_and_the_rest_shown(tmp_path):
    MetricPage(tmp_path / "worker-0.page").counter("tidegate_rows_total").add(1)
    (tmp_path / "worker-1.page").write_bytes(b"torn")

    found = samples(tmp_path)

    assert found["tidegate_rows_total", ()] == 1
    assert found["tidegate_metric_pages_unreadable", ()] == 1


def test_an_empty_folder_is_a_valid_exposition(tmp_path):
    assert samples(tmp_path)["tidegate_metric_pages_unreadable", ()] == 0
