"""Counters that a worker adds to in memory and any other process can read.

A page is one file, mapped by its worker: a JSON header that names the cells and an array of 64-bit
integers. Adding costs one memory write and no system call; a reader needs no cooperation of the
worker, and a killed worker leaves its counts behind for the next one in its slot.
"""

from __future__ import annotations

import logging
import mmap
import struct
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec

from tidegate.core.error import Corrupt

_log = logging.getLogger("tidegate.serving.metric")

_MAGIC = b"TGMETR1\n"
_HEADER_BYTES = 256 << 10
_N_CELLS = 4096
_VALUES_AT = len(_MAGIC) + 4 + _HEADER_BYTES
_SIZE_BYTES = _VALUES_AT + 8 * _N_CELLS
OVERFLOW = "tidegate_metric_overflow_total"
"""Counts additions to cells that found no place: names are bounded, whatever callers send."""

Labels = tuple[tuple[str, str], ...]

LATENCY_BOUNDS_US = tuple(round(50 * 2 ** (step / 2)) for step in range(33))
"""Upper bounds of latency buckets, microseconds: 50 us to 3.3 s by factors of the square root of two."""


class Cell(msgspec.Struct, frozen=True):
    """Name and place of one number."""

    name: str
    labels: Labels
    index: int
    gauge: bool = False


_cells = msgspec.json.Decoder(Cell)


class Sample(NamedTuple):
    """One number as read."""

    name: str
    labels: Labels
    value: int
    gauge: bool


class Counter:
    """One cell of a page."""

    __slots__ = ("_index", "_values")

    def __init__(self, values: memoryview, index: int) -> None:
        self._values = values
        self._index = index

    def add(self, amount: int = 1) -> None:
        self._values[self._index] += amount

    def set(self, value: int) -> None:
        self._values[self._index] = value


class Histogram:
    """Counts of observations by bucket, their number and their sum, in microseconds."""

    __slots__ = ("_start", "_values")

    def __init__(self, values: memoryview, start: int) -> None:
        self._values = values
        self._start = start

    def observe(self, value_us: int, times: int = 1) -> None:
        """Add `times` observations of `value_us`."""
        values, start = self._values, self._start
        values[start + bisect_left(LATENCY_BOUNDS_US, value_us)] += times
        values[start + len(LATENCY_BOUNDS_US) + 1] += value_us * times

    def observe_all(self, values_us: Iterable[int]) -> None:
        """Add one observation of each value."""
        values, start = self._values, self._start
        total_us = 0
        for value_us in values_us:
            values[start + bisect_left(LATENCY_BOUNDS_US, value_us)] += 1
            total_us += value_us
        values[start + len(LATENCY_BOUNDS_US) + 1] += total_us


class MetricPage:
    """The page of one worker slot, opened for writing by one process."""

    def __init__(self, path: Path) -> None:
        """Open the page, keeping the counts of an earlier process in the same slot.

        Where the disk has no room for it, the counts stay in this process.
        """
        fresh = not path.exists() or path.stat().st_size != _SIZE_BYTES
        try:
            with path.open("w+b" if fresh else "r+b") as file:
                if fresh:
                    # Written and not only sized: a hole cannot be filled once the disk is full, and
                    # touching it would end the process by SIGBUS.
                    file.write(bytes(_SIZE_BYTES))
                    file.flush()
                self._map = mmap.mmap(file.fileno(), _SIZE_BYTES)
        except OSError as error:
            _log.error("metrics.not_written path=%s: %s", path, error)
            self._map, fresh = mmap.mmap(-1, _SIZE_BYTES), True
        self._cells: dict[tuple[str, Labels], Cell] = {}
        self._header_bytes = 0
        self._next = 0
        if not fresh:
            for cell in _read_header(self._map):
                self._header_bytes += len(_line(cell))
                self._cells[cell.name, cell.labels] = cell
                width = len(LATENCY_BOUNDS_US) + 2 if cell.name.endswith("_us") else 1
                self._next = max(self._next, cell.index + width)
        self._values = memoryview(self._map)[_VALUES_AT:].cast("q")
        self._overflow = self._place(OVERFLOW, (), width=1)

    def counter(self, name: str, labels: Mapping[str, str] | None = None, *, gauge: bool = False) -> Counter:
        """Return the counter (or gauge) of that name and labels, made at first use."""
        key = tuple(sorted((labels or {}).items()))
        return Counter(self._values, self._place(name, key, width=1, gauge=gauge))

    def histogram(self, name: str, labels: Mapping[str, str] | None = None) -> Histogram:
        """Return the histogram of that name (which ends in `_us`) and labels, made at first use."""
        if not name.endswith("_us"):
            raise ValueError(f"a histogram's name ends in its unit '_us', got {name!r}")
        key = tuple(sorted((labels or {}).items()))
        start = self._place(name, key, width=len(LATENCY_BOUNDS_US) + 2)
        return Histogram(self._values, start)

    def _place(self, name: str, labels: Labels, *, width: int, gauge: bool = False) -> int:
        cell = self._cells.get((name, labels))
        if cell is not None:
            return cell.index
        if self._next + width > _N_CELLS:
            self._values[self._overflow] += 1
            return _N_CELLS - width  # shared by all that came too late; the overflow count says so
        cell = Cell(name, labels, self._next, gauge)
        line = _line(cell)
        end = self._header_bytes + len(line)
        if end > _HEADER_BYTES:
            self._values[self._overflow] += 1
            return _N_CELLS - width
        self._cells[name, labels] = cell
        self._next += width
        at = len(_MAGIC)
        # The header only grows and its length goes in last: a reader always sees a whole header.
        self._map[at + 4 + self._header_bytes : at + 4 + end] = line
        self._map[at : at + 4] = struct.pack("<I", end)
        self._map[: len(_MAGIC)] = _MAGIC
        self._header_bytes = end
        return cell.index


def _line(cell: Cell) -> bytes:
    return msgspec.json.encode(cell) + b"\n"


def _read_header(page: mmap.mmap | bytes) -> list[Cell]:
    at = len(_MAGIC)
    if page[:at] != _MAGIC:
        return []
    (length,) = struct.unpack("<I", page[at : at + 4])
    return _cells.decode_lines(page[at + 4 : at + 4 + length])


def read_page(path: Path) -> Iterator[Sample]:
    """Yield the numbers of a page; of a histogram, one per bucket with label `le`, then its sum.

    Raises:
        Corrupt: The file is not a page.
        OSError: It cannot be read.
    """
    data = path.read_bytes()
    if len(data) != _SIZE_BYTES:
        raise Corrupt(f"{path.name} is not a metric page: {len(data)} bytes.", path=str(path))
    try:
        cells = _read_header(data)
    except msgspec.MsgspecError as error:
        raise Corrupt(f"The metric page {path.name} has a broken header: {error}", path=str(path)) from error
    values = memoryview(data)[_VALUES_AT:].cast("q")
    for cell in cells:
        if not cell.name.endswith("_us"):
            yield Sample(cell.name, cell.labels, values[cell.index], cell.gauge)
            continue
        bounds = [*map(str, LATENCY_BOUNDS_US), "+Inf"]
        for offset, bound in enumerate(bounds):
            yield Sample(
                cell.name + "_bucket", (*cell.labels, ("le", bound)), values[cell.index + offset], False
            )
        yield Sample(cell.name + "_sum", cell.labels, values[cell.index + len(bounds)], False)


def find_cells(path: Path, name: str) -> dict[Labels, int]:
    """Return where in a page's file each number of that name is, bytes from its start, by its labels.

    For whoever looks at a few of them often: each is a signed 64-bit integer in the machine's order.

    Raises:
        Corrupt: The file is not a page.
        OSError: It cannot be read.
    """
    data = path.read_bytes()
    try:
        cells = _read_header(data)
    except msgspec.MsgspecError as error:
        raise Corrupt(f"The metric page {path.name} has a broken header: {error}", path=str(path)) from error
    return {cell.labels: _VALUES_AT + 8 * cell.index for cell in cells if cell.name == name}
