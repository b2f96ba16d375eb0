"""Real processes, really killed."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.journal.fake import FakeClock, new_ids, new_stream, new_turn, new_writer
from tidegate.journal.codec import TURN
from tidegate.journal.decode import StreamCodec, Turns, mask_of
from tidegate.journal.ledger import Ledger
from tidegate.journal.reader import End, SegmentReader, list_segments
from tidegate.journal.tailer import Tailer
from tidegate.journal.tally import merge

WRITER = """
import sys
from pathlib import Path
from tests.journal.fake import new_stream, new_turn, new_writer

writer = new_writer(Path(sys.argv[1]), max_bytes=50_000)
encoder = writer.stream(new_stream())
number = 0
while True:
    ids = [(number + position).to_bytes(16, "big") for position in range(3)]
    writer.append([encoder.encode(new_turn(ids[:1])), encoder.encode(new_turn(ids[1:]))])
    number += 3
    sys.stdout.write(f"{number}\\n")
    sys.stdout.flush()
"""

TAILER = """
import sys
from pathlib import Path
from tests.journal.fake import FakeClock
from tidegate.journal.ledger import Ledger
from tidegate.journal.tailer import Tailer

root = Path(sys.argv[1])
tailer = Tailer(root / "journal", Ledger(root / "ledger.db"), clock=FakeClock(), batch_bytes=2000)
while True:
    progress = tailer.poll(max_bytes=2000)
    print(progress.read_bytes, flush=True)
    if not progress.read_bytes:
        break
"""


def start(script: str, folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", script, str(folder)], stdout=subprocess.PIPE, text=True)


def kill_after(process: subprocess.Popen[str], n_lines: int) -> list[str]:
    """Kill a process once it has said so many lines; return all that it said."""
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(n_lines)]
    process.send_signal(signal.SIGKILL)
    lines += process.stdout.readlines()
    process.wait()
    process.stdout.close()
    return [line for line in lines if line.endswith("\n")]


@pytest.mark.parametrize("seed", range(3))
def test_every_append_that_returned_is_read_once_after_kill_9(tmp_path: Path, seed: int) -> None:
    lines = kill_after(start(WRITER, tmp_path), random.Random(seed).randint(1, 400))
    acknowledged = int(lines[-1])

    found: list[int] = []
    ends = []
    for entry in list_segments(tmp_path):
        with SegmentReader(entry.path) as reader:
            for frame in reader.frames():
                if frame.body[0] == TURN:
                    ids = Turns(StreamCodec(new_stream()), mask_of(frame.body), [frame.body]).request_ids
                    found += [int.from_bytes(ids[at : at + 16], "big") for at in range(0, len(ids), 16)]
            ends.append(reader.end)

    assert found[:acknowledged] == list(range(acknowledged))
    assert found == list(range(len(found)))
    assert set(ends[:-1]) <= {End.COMPLETE}
    assert ends[-1] is not End.GROWING  # its writer is dead, and that shows


@pytest.mark.slow
def test_a_tailer_killed_again_and_again_counts_each_record_once(tmp_path: Path) -> None:
    writer = new_writer(tmp_path / "journal", max_bytes=20_000)
    encoder = writer.stream(new_stream())
    for number in range(4000):
        writer.append([encoder.encode(new_turn(new_ids(2, seed=number)))])
    writer.close()
    rng = random.Random(1)
    for _ in range(4):
        kill_after(start(TAILER, tmp_path), rng.randint(1, 5))

    ledger = Ledger(tmp_path / "ledger.db")
    so_far = merge(tally for _, tally in ledger.tallies()).requests
    tailer = Tailer(tmp_path / "journal", ledger, clock=FakeClock())
    tailer.poll()

    assert 0 < so_far < 8000
    assert merge(tally for _, tally in ledger.tallies()).requests == 8000
    tailer.close()
    ledger.close()
