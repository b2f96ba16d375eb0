"""How many rows the model calls had: read from the journal, in which every answer says so."""

from __future__ import annotations

from pathlib import Path

from tidegate.core.home import Home
from tidegate.journal.codec import TURN, TURN_HEAD
from tidegate.journal.reader import SegmentReader, list_segments

Mark = dict[str, int]
"""Segment -> where it ended, bytes."""


def mark(home: Path) -> Mark:
    """Remember where the journal ends now; no request may be under way."""
    return {entry.name: entry.path.stat().st_size for entry in list_segments(Home(home).journal)}


def mean_batch(home: Path, since: Mark) -> float | None:
    """Return the mean number of rows of the model calls that were journalled since a mark.

    A call may have served several workers, whose frames each hold a part of its rows; so the number
    of calls is the sum over frames of the part they hold.

    Returns:
        Rows a call; None if there were none.
    """
    n_rows, n_calls = 0, 0.0
    for entry in list_segments(Home(home).journal):
        with SegmentReader(entry.path, position=since.get(entry.name, 0)) as reader:
            for frame in reader.frames():
                if frame.body[0] != TURN:
                    continue
                rows, batch_rows = TURN_HEAD.unpack_from(frame.body)[5:7]
                n_rows += rows
                n_calls += rows / max(batch_rows, 1)
    return n_rows / n_calls if n_calls else None
