"""Content codings: what members and pieces a body comes in makes no difference."""

from __future__ import annotations

import gzip
import random
import zlib

import pytest

from tidegate.serving.http import coding
from tidegate.serving.http.coding import BodyTooLarge, MiscodedBody, compress, decompress


def member(data: bytes) -> bytes:
    return gzip.compress(data, mtime=0)


def test_members_of_all_sizes_are_put_together() -> None:
    pieces = [random.Random(size).randbytes(size) for size in (0, 1, 900, 1024, 5000, 0, 300_000, 7)]

    body = b"".join(map(member, pieces))

    assert decompress(body, b"gzip", 1 << 20) == b"".join(pieces)
    assert decompress(zlib.compress(pieces[4]), b"deflate", 5000) == pieces[4]


def test_what_is_over_the_limit_or_cut_off_in_a_later_member_is_refused() -> None:
    body = member(b"a" * 10) + member(random.Random(1).randbytes(9000))

    with pytest.raises(BodyTooLarge):
        decompress(body, b"gzip", 9009)
    with pytest.raises(MiscodedBody, match="too early"):
        decompress(body[:-4], b"gzip", 9010)
    assert len(decompress(body, b"gzip", 9010)) == 9010


def test_no_more_members_are_looked_at_than_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    plain = zlib.decompressobj
    monkeypatch.setattr(zlib, "decompressobj", lambda wbits: made.append(wbits) or plain(wbits))

    with pytest.raises(MiscodedBody, match="members"):
        decompress(member(b"") * 200_000, b"gzip", 100)

    assert len(made) == coding.MAX_MEMBERS


def test_the_rest_of_a_body_is_not_copied_for_each_of_its_members(monkeypatch: pytest.MonkeyPatch) -> None:
    copied = []

    class Watched:
        def __init__(self, wbits: int) -> None:
            self._state = zlib_decompressobj(wbits)

        def decompress(self, data: bytes, limit: int) -> bytes:
            found: bytes = self._state.decompress(data, limit)
            copied.append(len(data) + len(self._state.unused_data))
            return found

        @property
        def eof(self) -> bool:
            return bool(self._state.eof)

        @property
        def unused_data(self) -> bytes:
            return bytes(self._state.unused_data)

    zlib_decompressobj = zlib.decompressobj
    monkeypatch.setattr(zlib, "decompressobj", Watched)
    body = member(b"") * 100 + member(random.Random(1).randbytes(100_000))

    decompress(body, b"gzip", 100_000)

    assert sum(copied) < 8 * len(body)


@pytest.mark.parametrize(
    ("accepted", "line"),
    [
        (b"gzip", b"content-encoding: gzip\r\n"),
        (b"br, deflate", b"content-encoding: deflate\r\n"),
        (b"gzip;q=0.5, deflate", b"content-encoding: deflate\r\n"),
        (b"*", b"content-encoding: gzip\r\n"),
        (b"gzip;q=0, *;q=0.5", b"content-encoding: deflate\r\n"),
        (b"GZIP ; Q=0.5 ; x=1, br", b"content-encoding: gzip\r\n"),
        (b"gzip;q=1.0;x=1", b"content-encoding: gzip\r\n"),
        (b"gzip;x=1;q=0", b""),
        (b"*;q=0", b""),
        (b"", b""),
        (b"br", b""),
        (b"gzip;q=0", b""),
        (b"gzip;q=never", b""),
        (b"identity", b""),
    ],
)
def test_an_answer_is_in_the_coding_that_its_client_prefers(accepted: bytes, line: bytes) -> None:
    body, header = compress(b"a" * 5000, accepted)

    assert header == line
    assert decompress(body, line[18:-2], 5000) == b"a" * 5000
