"""Reading stops at the first damage, says where, and gives everything before it."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.journal.fake import new_ids, new_stream, new_turn, new_writer, read_bodies
from tidegate.core.error import NotFound
from tidegate.journal.codec import encode_event, frame
from tidegate.journal.reader import End, SegmentReader, list_segments
from tidegate.journal.record import Event

same_folder = settings(max_examples=150)


def new_segment(folder: Path) -> tuple[bytes, list[int], list[bytes]]:
    """Return a closed segment's bytes, where its frames end, and their bodies."""
    writer = new_writer(folder)
    encoder = writer.stream(new_stream())
    for n in (1, 3, 2):
        writer.append([encoder.encode(new_turn(new_ids(n, seed=n))), encode_event(Event("e", n))])
    writer.close()
    path = list_segments(folder)[0].path
    with SegmentReader(path) as reader:
        first = reader.position
        frames = list(reader.frames())
        bodies = [bytes(found.body) for found in frames]
        return path.read_bytes(), [first, *(found.end for found in frames)], bodies


@same_folder
@given(data=st.data())
@pytest.mark.parametrize("sealed", [True, False])
def test_a_flipped_bit_ends_reading_before_its_frame(
    tmp_path: Path, data: st.DataObject, sealed: bool
) -> None:
    whole, ends, bodies = (
        new_segment(tmp_path / "good") if not (tmp_path / "good").exists() else _load(tmp_path)
    )
    bit = data.draw(st.integers(0, 8 * len(whole) - 1))
    damaged = bytearray(whole)
    damaged[bit // 8] ^= 1 << bit % 8
    path = tmp_path / ("bad.journal" if sealed else "bad.open")
    path.write_bytes(damaged)

    got, reader = read_bodies(path)

    n_before = sum(end <= bit // 8 for end in ends[1:])
    assert got == (bodies[:n_before] if bit // 8 >= ends[0] else [])
    assert reader.end is End.DAMAGED
    assert reader.damage is not None
    assert reader.damage.offset <= bit // 8


def _load(folder: Path) -> tuple[bytes, list[int], list[bytes]]:
    path = list_segments(folder / "good")[0].path
    with SegmentReader(path) as reader:
        first = reader.position
        frames = list(reader.frames())
        return path.read_bytes(), [first, *(f.end for f in frames)], [bytes(f.body) for f in frames]


def test_any_truncation_gives_the_frames_before_it(tmp_path: Path) -> None:
    whole, ends, bodies = new_segment(tmp_path / "good")
    for size in range(len(whole)):
        for name in ("cut.journal", "cut.open"):
            path = tmp_path / name
            path.write_bytes(whole[:size])

            got, reader = read_bodies(path)

            assert got == bodies[: sum(end <= size for end in ends[1:])]
            between_frames = size in ends
            # a segment that was closed must have its mark; one that was not may end with any frame
            assert reader.end is (End.ENDED if between_frames and name == "cut.open" else End.DAMAGED)
            path.unlink()


def test_a_torn_end_of_a_living_writer_is_waited_for(tmp_path: Path) -> None:
    writer = new_writer(tmp_path)
    writer.append([encode_event(Event("e", 1))])
    path = list_segments(tmp_path)[0].path
    late = encode_event(Event("late", 2))
    with path.open("ab") as file, SegmentReader(path) as reader:
        file.write(late[:11])
        file.flush()

        assert len(list(reader.frames())) == 1
        assert reader.end is End.GROWING

        file.write(late[11:])
        file.flush()
        assert [bytes(found.body) for found in reader.frames()] == [late[8:]]
    writer.close()


def test_a_segment_is_followed_across_its_renaming(tmp_path: Path) -> None:
    writer = new_writer(tmp_path)
    path = list_segments(tmp_path)[0].path
    with SegmentReader(path) as reader:
        assert reader.read() == []

        writer.append([encode_event(Event("e", 1))])
        writer.close()

        assert len(reader.read()) == 1
        assert reader.read() == []
        assert reader.end is End.COMPLETE
    with SegmentReader(path) as reader:  # by the name it no longer has
        assert len(reader.read()) == 1


def test_reading_goes_on_where_it_stopped(tmp_path: Path) -> None:
    _, ends, bodies = new_segment(tmp_path)

    with SegmentReader(list_segments(tmp_path)[0].path, position=ends[2]) as reader:
        assert [bytes(found.body) for found in reader.frames()] == bodies[2:]
        assert reader.end is End.COMPLETE


def test_a_frame_larger_than_a_chunk_is_read_whole(tmp_path: Path) -> None:
    writer = new_writer(tmp_path)
    large = encode_event(Event("e", 1, detail={"pad": "x" * 5000}))

    writer.append([large, large])
    writer.close()

    assert read_bodies(list_segments(tmp_path)[0].path)[0] == [large[8:], large[8:]]


def test_frames_of_an_unknown_kind_are_given_whole(tmp_path: Path) -> None:
    writer = new_writer(tmp_path)
    unknown = frame(bytes([200, 9, 0, 0]) + b"from the future")

    writer.append([unknown, encode_event(Event("e", 1))])
    writer.close()

    got, reader = read_bodies(list_segments(tmp_path)[0].path)
    assert got[0] == unknown[8:]
    assert len(got) == 2
    assert reader.end is End.COMPLETE


def test_frames_taken_out_of_the_middle_are_noticed(tmp_path: Path) -> None:
    whole, ends, _ = new_segment(tmp_path)
    path = list_segments(tmp_path)[0].path
    path.write_bytes(whole[: ends[1]] + whole[ends[2] :])

    _, reader = read_bodies(path)

    assert reader.end is End.DAMAGED


def test_a_segment_shorter_than_it_was_is_damaged(tmp_path: Path) -> None:
    whole, ends, _ = new_segment(tmp_path)
    path = list_segments(tmp_path)[0].path
    path.write_bytes(whole[: ends[1]])

    with SegmentReader(path, position=ends[3]) as reader:
        assert reader.read() == []
        assert reader.end is End.DAMAGED


def test_a_missing_segment_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        SegmentReader(tmp_path / "none.open")


def test_drafts_and_other_files_are_no_segments(tmp_path: Path) -> None:
    (tmp_path / "1.draft").touch()
    (tmp_path / "note.txt").touch()

    assert list_segments(tmp_path) == []
    assert list_segments(tmp_path / "nowhere") == []


def test_a_segment_that_the_disk_cannot_read_is_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new_segment(tmp_path)
    with SegmentReader(list_segments(tmp_path)[0].path) as reader:

        def fail(*_: object) -> bytes:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        monkeypatch.setattr(os, "pread", fail)

        assert reader.read() == []
        assert reader.end is End.DAMAGED
        assert reader.damage is not None
        assert "Input/output error" in reader.damage.reason
