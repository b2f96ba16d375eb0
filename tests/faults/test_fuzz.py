"""A short run of the byte-level fuzzer; the long one is `python -m tests.faults.fuzz --inputs 10000000`."""

from __future__ import annotations

import asyncio
import os

import pytest

from tests.faults import fuzz

pytestmark = pytest.mark.slow

N_INPUTS = int(os.environ.get("TIDEGATE_FUZZ_INPUTS", "10000"))


def test_bytes_never_fault():
    n_inputs, n_answers = asyncio.run(fuzz.fuzz(N_INPUTS, seed=1))

    assert n_inputs == N_INPUTS
    assert n_answers > N_INPUTS / 2  # most get as far as an answer


@pytest.mark.parametrize(
    "written",
    [
        b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhal",
        b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n",
        b"nonsense\r\n\r\n",
    ],
)
def test_what_must_not_be_is_found(written):
    with pytest.raises(fuzz.Fault):
        fuzz.check(written)
