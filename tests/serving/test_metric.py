"""Counters are read from outside and outlive their process."""

from __future__ import annotations

from pathlib import Path

import pytest

from tidegate.core.error import Corrupt
from tidegate.serving.metric import LATENCY_BOUNDS_US, OVERFLOW, MetricPage, read_page


def values(path: Path) -> dict[tuple[str, str], int]:
    return {
        (sample.name, ",".join("=".join(pair) for pair in sample.labels)): sample.value
        for sample in read_page(path)
    }


def test_goes_on_counting_where_the_process_before_left_off(tmp_path: Path) -> None:
    path = tmp_path / "page"
    first = MetricPage(path)
    first.counter("a_total", {"service": "x"}).add(3)
    first.histogram("wait_us").observe(LATENCY_BOUNDS_US[0], 2)

    second = MetricPage(path)
    second.counter("b_total").add()
    second.counter("a_total", {"service": "x"}).add(2)
    second.histogram("wait_us").observe(LATENCY_BOUNDS_US[-1] + 1)

    seen = values(path)
    assert seen["a_total", "service=x"] == 5
    assert seen["b_total", ""] == 1
    assert seen["wait_us_bucket", f"le={LATENCY_BOUNDS_US[0]}"] == 2
    assert seen["wait_us_bucket", "le=+Inf"] == 1
    assert seen["wait_us_sum", ""] == 2 * LATENCY_BOUNDS_US[0] + LATENCY_BOUNDS_US[-1] + 1


def test_bounds_the_number_of_names_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "page"
    page = MetricPage(path)

    for number in range(5000):
        page.counter("asked_total", {"caller": str(number)}).add()

    seen = values(path)
    assert seen["asked_total", "caller=0"] == 1
    assert seen[OVERFLOW, ""] > 0


@pytest.mark.parametrize("content", [b"", b"x" * 100])
def test_refuses_a_file_that_is_no_page(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "page"
    path.write_bytes(content)

    with pytest.raises(Corrupt, match="page"):
        list(read_page(path))


def test_page_has_its_room_on_the_disk_from_the_start(tmp_path: Path) -> None:
    """Touching a hole on a full disk would end the process."""
    path = tmp_path / "page"

    MetricPage(path)

    stat = path.stat()
    assert stat.st_blocks * 512 >= stat.st_size


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_without_room_for_a_page_the_counts_stay_in_the_process(tmp_path: Path) -> None:
    (tmp_path / "page").symlink_to("/dev/full")

    counter = MetricPage(tmp_path / "page").counter("a_total")
    counter.add()
    counter.add(2)

    assert counter._values[counter._index] == 3
