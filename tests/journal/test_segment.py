"""What an append that returned has written is read back, whatever the disk does next."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.journal.fake import FailingFiles, FakeClock, new_ids, new_stream, new_turn, new_writer, read_bodies
from tidegate.journal.codec import FRAME_HEAD, STREAM, TURN, encode_event
from tidegate.journal.reader import End, list_segments
from tidegate.journal.record import Event, JournalUnavailable

EVENT = encode_event(Event("route.changed", 1))


def bodies(frames: list[bytes]) -> list[bytes]:
    return [frame[FRAME_HEAD.size :] for frame in frames]


def events(n: int, *, size: int = 40) -> list[bytes]:
    return [encode_event(Event("e", i, detail={"pad": "x" * size})) for i in range(n)]


def test_a_closed_segment_reads_as_complete(tmp_path: Path) -> None:
    writer = new_writer(tmp_path)
    frames = events(20)

    writer.append(frames[:5])
    writer.append(frames[5:])
    writer.close()

    (entry,) = list_segments(tmp_path)
    got, reader = read_bodies(entry.path)
    assert got == bodies(frames)
    assert reader.end is End.COMPLETE
    assert reader.identity is not None
    assert (reader.identity.node, reader.identity.worker) == ("here", 0)
    assert reader.identity.name == entry.name


def test_a_segment_being_written_reads_as_growing(tmp_path: Path) -> None:
    writer = new_writer(tmp_path)

    writer.append([EVENT])

    got, reader = read_bodies(list_segments(tmp_path)[0].path)
    assert got == bodies([EVENT])
    assert reader.end is End.GROWING
    writer.close()


def test_each_segment_declares_the_streams_that_it_has(tmp_path: Path) -> None:
    writer = new_writer(tmp_path, max_bytes=1)  # a segment for each append
    first, second = writer.stream(new_stream("a")), writer.stream(new_stream("b"))
    turn = new_turn(new_ids(1))

    writer.append([first.encode(turn), second.encode(turn), first.encode(turn)])
    writer.append([second.encode(turn)])
    writer.close()

    kinds = [[(body[0], body[2]) for body in read_bodies(entry.path)[0]] for entry in list_segments(tmp_path)]
    assert kinds == [
        [(STREAM, 1), (STREAM, 2), (TURN, 1), (TURN, 2), (TURN, 1)],
        [(STREAM, 2), (TURN, 2)],
    ]


def test_equal_streams_share_one_encoder(tmp_path: Path) -> None:
    writer = new_writer(tmp_path)

    assert writer.stream(new_stream()) is writer.stream(new_stream())
    assert writer.stream(new_stream(arm="candidate")) is not writer.stream(new_stream())
    writer.close()


def test_segments_rotate_by_age(tmp_path: Path) -> None:
    clock = FakeClock()
    writer = new_writer(tmp_path, clock=clock, max_age_s=60)

    writer.append([EVENT])
    clock.forward(59)
    writer.append([EVENT])
    clock.forward(1)
    writer.append([EVENT])
    writer.close()

    assert [len(read_bodies(entry.path)[0]) for entry in list_segments(tmp_path)] == [2, 1]


def test_names_sort_by_sequence_when_the_clock_jumps_back(tmp_path: Path) -> None:
    clock = FakeClock()
    writer = new_writer(tmp_path, clock=clock, max_bytes=1)

    for _ in range(3):
        writer.append([EVENT])
        clock.forward(-3600)
    writer.close()

    identities = [read_bodies(entry.path)[1].identity for entry in list_segments(tmp_path)]
    assert [identity.sequence for identity in identities if identity] == [0, 1, 2]


@pytest.mark.parametrize("largest", [1, 7, 60])
def test_short_writes_are_continued(tmp_path: Path, largest: int) -> None:
    files = FailingFiles()
    files.largest_write = largest
    writer = new_writer(tmp_path, files=files)
    frames = events(3)

    writer.append(frames)
    writer.close()

    got, reader = read_bodies(list_segments(tmp_path)[0].path)
    assert got == bodies(frames)
    assert reader.end is End.COMPLETE


@pytest.mark.parametrize("free", range(0, 3 * len(events(1)[0]), 13))
def test_a_full_disk_leaves_whole_frames_and_says_how_many(tmp_path: Path, free: int) -> None:
    files = FailingFiles()
    writer = new_writer(tmp_path, files=files)
    before, during, after = events(3), events(3), events(2)
    writer.append(before)
    files.free_bytes = free

    with pytest.raises(JournalUnavailable, match="No space") as caught:
        writer.append(during)
    files.free_bytes = None
    writer.append(after)
    writer.close()

    assert caught.value.written == free // len(during[0])
    got, reader = read_bodies(list_segments(tmp_path)[0].path)
    assert got == bodies([*before, *during[: caught.value.written], *after])
    assert reader.end is End.COMPLETE


def test_a_stream_whose_declaration_was_cut_off_is_declared_again(tmp_path: Path) -> None:
    files = FailingFiles()
    writer = new_writer(tmp_path, files=files)
    frame = writer.stream(new_stream()).encode(new_turn(new_ids(1)))
    files.free_bytes = 10

    with pytest.raises(JournalUnavailable) as caught:
        writer.append([frame])
    files.free_bytes = None
    writer.append([frame])

    assert caught.value.written == 0
    assert [body[0] for body in read_bodies(list_segments(tmp_path)[0].path)[0]] == [STREAM, TURN]
    writer.close()


def test_a_declaration_alone_counts_as_nothing_written(tmp_path: Path) -> None:
    files = FailingFiles()
    writer = new_writer(tmp_path, files=files)
    encoder = writer.stream(new_stream())
    frame = encoder.encode(new_turn(new_ids(1)))
    files.free_bytes = 1000

    with pytest.raises(JournalUnavailable) as caught:
        writer.append([frame] * 10)

    whole = [body[0] for body in read_bodies(list_segments(tmp_path)[0].path)[0]]
    assert whole == [STREAM] + [TURN] * caught.value.written
    writer.close()


def test_a_torn_end_that_cannot_be_cut_off_begins_a_new_segment(tmp_path: Path) -> None:
    files = FailingFiles()
    writer = new_writer(tmp_path, files=files)
    frames = events(2)
    files.free_bytes = len(frames[0]) + 5
    files.failing = {"truncate"}

    with pytest.raises(JournalUnavailable):
        writer.append(frames)
    files.free_bytes = None
    writer.append([EVENT])
    writer.close()

    torn, good = (read_bodies(entry.path) for entry in list_segments(tmp_path))
    assert torn[0] == bodies(frames[:1])
    assert torn[1].end is End.DAMAGED
    assert good[0] == bodies([EVENT])
    assert good[1].end is End.COMPLETE


def test_a_failed_sync_loses_the_segment_and_not_the_next(tmp_path: Path) -> None:
    files = FailingFiles()
    writer = new_writer(tmp_path, files=files)
    files.failing = {"sync"}

    with pytest.raises(JournalUnavailable, match="synced"):
        writer.append([EVENT], durable=True)
    files.failing = set()
    writer.append([EVENT], durable=True)
    writer.close()

    assert len(list_segments(tmp_path)) == 2


def test_sync_covers_frames_of_a_segment_that_was_rotated_away(tmp_path: Path) -> None:
    files = FailingFiles()
    writer = new_writer(tmp_path, files=files, max_bytes=1)
    writer.sync()
    writer.append([EVENT])
    files.failing = {"sync"}
    writer.append([EVENT])  # rotates, and the sync of the first segment fails
    files.failing = set()

    with pytest.raises(JournalUnavailable, match="synced"):
        writer.sync()
    writer.sync()
    writer.close()


def test_a_folder_that_cannot_be_written_is_tried_again_after_a_second(tmp_path: Path) -> None:
    clock, files = FakeClock(), FailingFiles()
    writer = new_writer(tmp_path, clock=clock, files=files, max_bytes=1)
    files.failing = {"create"}
    writer.append([EVENT])

    for _ in range(3):
        with pytest.raises(JournalUnavailable):
            writer.append([EVENT])
    tried = files.calls.count("create")
    files.failing = set()
    clock.forward(1.5)
    writer.append([EVENT])
    writer.close()

    assert tried == 2  # one by the constructor
    assert sum(len(read_bodies(entry.path)[0]) for entry in list_segments(tmp_path)) == 2


def test_a_segment_that_cannot_be_closed_is_readable(tmp_path: Path) -> None:
    files = FailingFiles()
    writer = new_writer(tmp_path, files=files)
    writer.append([EVENT])
    files.failing = {"rename"}

    writer.close()

    got, reader = read_bodies(list_segments(tmp_path)[0].path)
    assert got == bodies([EVENT])
    assert reader.end is End.ENDED


def test_a_folder_that_cannot_be_made_says_so_at_the_first_append(tmp_path: Path) -> None:
    clock = FakeClock()
    (tmp_path / "file").touch()
    writer = new_writer(tmp_path / "file" / "journal", clock=clock)

    for wait_s in (0, 2):
        clock.forward(wait_s)
        with pytest.raises(JournalUnavailable, match=r"begun|begin"):
            writer.append([EVENT])
    (tmp_path / "file").unlink()
    clock.forward(2)
    writer.append([EVENT])
    writer.close()

    assert len(list_segments(tmp_path / "file" / "journal")) == 1


def test_writing_needs_neither_a_database_nor_a_data_frame() -> None:
    script = (
        "import sys, tidegate.journal.segment, tidegate.journal.codec\n"
        "print([name for name in ('sqlite3', 'polars') if name in sys.modules])"
    )

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"
