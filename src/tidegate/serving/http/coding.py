"""Content codings of bodies: gzip and deflate, both ways."""

from __future__ import annotations

import zlib

from tidegate.core.error import TidegateError

MIN_COMPRESSED_BYTES = 1024
"""Below this an answer is sent as it is: it fits one packet either way."""

MAX_MEMBERS = 10_000
"""Of one gzip body: as many as a body may have outcomes. Each costs microseconds, however empty it is."""

_WINDOW_BYTES = 1024
_LEVEL = 1  # the time of a request matters more here than the last bytes of its answer
_WBITS = {b"gzip": 31, b"deflate": 15}


class UnsupportedEncoding(TidegateError):
    """The body is compressed in a way that is not taken."""

    code = "unsupported_encoding"


class MiscodedBody(TidegateError):
    """The body is not compressed in the way its headers say."""

    code = "bad_request"


class BodyTooLarge(TidegateError):
    """The body exceeds its bound, as announced, as sent or once decompressed."""

    code = "body_too_large"


def body_too_large(limit: int) -> BodyTooLarge:
    """Return the error for a body of more than `limit` bytes."""
    return BodyTooLarge(
        f"The body exceeds {limit} bytes.", hint="Send fewer rows in a request.", limit_bytes=limit
    )


def decompress(body: bytes, encoding: bytes, limit: int) -> bytes:
    """Return the body without its content coding.

    Args:
        body: The bytes as sent.
        encoding: Value of Content-Encoding: gzip, deflate or identity.
        limit: Bound of the result, bytes.

    Raises:
        UnsupportedEncoding: Another coding.
        BodyTooLarge: The result would exceed the bound.
        MiscodedBody: The bytes are not so compressed.
    """
    name = encoding.strip().lower()
    if name in (b"identity", b""):
        return body
    if name not in (b"gzip", b"x-gzip", b"deflate"):
        raise UnsupportedEncoding(
            f"The content encoding {name[:40].decode(errors='replace')!r} is not taken.",
            hint="Send gzip, deflate or plain bodies.",
        )
    # wbits 47: zlib or gzip by its header; "deflate" from some clients is the raw form
    raw = name == b"deflate" and (
        len(body) < 2 or (body[0] & 0x0F) != 8 or (body[0] << 8 | body[1]) % 31 != 0
    )
    out = bytearray()
    start, window = 0, len(body)
    for _ in range(MAX_MEMBERS):  # a gzip body may have several (RFC 1952, section 2.2)
        state = zlib.decompressobj(-15 if raw else 47)
        while start < len(body) and not state.eof:
            piece = body[start : start + window]
            try:
                out += state.decompress(piece, limit + 1 - len(out))
            except zlib.error as error:
                raise MiscodedBody(f"The body is not {name.decode()}: {error}.") from error
            if len(out) > limit:
                raise body_too_large(limit)
            start += len(piece) - len(state.unused_data)
            window *= 2
        if not state.eof:
            raise MiscodedBody(f"The {name.decode()} body ends too early.")
        if start == len(body):
            return bytes(out)
        window = _WINDOW_BYTES  # what follows a member is copied with it
    raise MiscodedBody(f"The {name.decode()} body has more than {MAX_MEMBERS} members.")


def compress(body: bytes, accepted: bytes) -> tuple[bytes, bytes]:
    """Return an answer in the coding its client prefers, and the header line that says so.

    Args:
        body: The bytes to send.
        accepted: Value of Accept-Encoding.

    Returns:
        The body, as it is where no coding that is known here is accepted, and a header line ending
        in CR LF or nothing.
    """
    coding = _preferred(accepted)
    if coding is None:
        return body, b""
    state = zlib.compressobj(_LEVEL, wbits=_WBITS[coding])
    return state.compress(body) + state.flush(), b"content-encoding: %b\r\n" % coding


def _preferred(accepted: bytes) -> bytes | None:
    """Return gzip or deflate, whichever has the greater weight (RFC 9110, section 12.5.3)."""
    weights: dict[bytes, float] = {}
    for item in accepted.lower().split(b","):
        name, *parameters = item.split(b";")
        weight = 1.0
        for parameter in parameters:
            key, _, value = parameter.partition(b"=")
            if key.strip() == b"q":
                try:
                    weight = float(value)
                except ValueError:
                    weight = 0.0
        weights[name.strip()] = weight
    others = weights.get(b"*", 0.0)
    weight, best = max((weights.get(coding, others), coding) for coding in _WBITS)
    return best if weight > 0 else None
