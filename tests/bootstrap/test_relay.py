"""What a server prints makes none of its processes wait for whoever reads it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest

PRINTER = "import sys; sys.stdout.write(('x' * 99 + chr(10)) * 30_000); sys.stdout.flush()"

SERVER = """
import os, subprocess, sys
from pathlib import Path
from tidegate.bootstrap.relay import Relay

with Relay():
    os.write(1, b"first\\n")
    os.write(2, b"a warning\\n")
    subprocess.run([sys.executable, "-c", {printer!r}], check=True)
    Path({done!r}).touch()
    if {waits}:
        sys.stdin.read()
    os.write(1, b"last\\n")
"""


@pytest.fixture
def server(tmp_path):
    """Start a server whose child prints 3 MB; the test reads what it prints when it likes."""

    @contextmanager
    def started(*, waits=True, stderr=subprocess.PIPE):
        done = tmp_path / "done"
        code = SERVER.format(printer=PRINTER, done=str(done), waits=waits)
        command = [sys.executable, "-c", code]
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, text=True
        )
        process.done = done
        with process:
            yield process
            process.kill()

    return started


def wait_for(path):
    give_up_s = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < give_up_s
        time.sleep(0.01)


def test_a_process_does_not_wait_for_a_reader(server):
    with server() as process:
        wait_for(process.done)

        out, errors = process.communicate()

    assert process.returncode == 0
    assert errors == "a warning\n"
    lines = out.splitlines()
    assert lines[0] == "first"
    notes = re.findall(r"\n\[(\d+) bytes were printed here while nobody read them\]\n", out)
    left_out = sum(map(int, notes))
    assert left_out > 1_500_000
    assert len(re.sub(r"\n\[.*\]\n", "", out)) == len("first\nlast\n") + 3_000_000 - left_out


def test_whoever_reads_has_everything_in_order(server):
    with server(waits=False, stderr=subprocess.STDOUT) as process:
        out, _ = process.communicate()

    lines = out.splitlines()
    assert lines[:2] == ["first", "a warning"]
    assert lines[2:-1] == ["x" * 99] * 30_000
    assert lines[-1] == "last"


def test_a_reader_that_is_gone_stops_nobody(server):
    with server() as process:
        process.stdout.close()
        wait_for(process.done)
        process.stdin.close()

        assert process.wait(10) == 0
        assert process.stderr.read() == "a warning\n"


def test_an_end_does_not_wait_long_for_a_reader(server):
    with server() as process:
        wait_for(process.done)
        process.stdin.close()

        assert process.wait(10) == 0


def test_a_file_that_does_not_block_gets_everything(server):
    ours, theirs = os.pipe()
    os.set_blocking(theirs, False)
    code = SERVER.format(printer=PRINTER, done=os.devnull, waits=False)
    with subprocess.Popen([sys.executable, "-c", code], stdout=theirs, stderr=subprocess.DEVNULL):
        os.close(theirs)
        with os.fdopen(ours) as file:
            lines = file.read().splitlines()

    assert len(lines) == 30_002
    assert lines[-1] == "last"
