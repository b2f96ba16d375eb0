"""Identifiers that sort by time and need no coordination."""

from __future__ import annotations

import random
import re
from collections.abc import Callable

from tidegate.core.clock import Clock
from tidegate.core.error import InvalidSetting

NAME_PATTERN = r"[a-z0-9](?:[a-z0-9_.-]{0,61}[a-z0-9])?"
_NAME = re.compile(NAME_PATTERN + r"\Z", re.IGNORECASE)

_TAKEN = frozenset({"stats"})


def check_name(kind: str, name: str) -> str:
    """Return `name` if it can stand in a path, an URL and a metric label.

    Raises:
        InvalidSetting: It cannot.
    """
    if not _NAME.match(name) or ".." in name:
        raise InvalidSetting(
            f"The {kind} name {name!r} cannot be used.",
            hint="Use 1 to 63 letters, digits, '-', '_' and '.', starting and ending with a letter or digit.",
            name=name,
        )
    if kind == "service" and name in _TAKEN:
        raise InvalidSetting(
            f"No service can be called {name!r}: /v2/models/{name} is the Open Inference Protocol's own.",
            hint="Give it another name.",
            name=name,
        )
    return name


def uuid7_factory(clock: Clock, rng: random.Random) -> Callable[[], bytes]:
    """Return a function that makes a new UUID of version 7 at each call, as 16 bytes.

    Args:
        clock: Gives the millisecond that an identifier starts with.
        rng: Gives the other 74 bits. Seed it from the operating system wherever two processes
            may make identifiers of the same kind.

    Source: RFC 9562, section 5.7.
    """
    wall_us = clock.wall_us
    pool = b""
    at = 0

    def make() -> bytes:
        nonlocal pool, at
        if at == len(pool):
            pool, at = _draw_tails(rng), 0
        at += _TAIL_BYTES
        return (wall_us() // 1000).to_bytes(6, "big") + pool[at - _TAIL_BYTES : at]

    return make


_TAIL_BYTES = 10
_POOL = 256  # identifiers drawn at once: one by one the big-integer arithmetic costs three times as much
_VERSION = bytes(0x70 | value & 0x0F for value in range(256))
_VARIANT = bytes(0x80 | value & 0x3F for value in range(256))


def _draw_tails(rng: random.Random) -> bytes:
    """Return the last 10 bytes of many identifiers, version and variant set."""
    drawn = bytearray(rng.randbytes(_TAIL_BYTES * _POOL))
    drawn[0::_TAIL_BYTES] = drawn[0::_TAIL_BYTES].translate(_VERSION)
    drawn[2::_TAIL_BYTES] = drawn[2::_TAIL_BYTES].translate(_VARIANT)
    return bytes(drawn)


def format_uuid(raw: bytes) -> str:
    """Return the canonical text of a 16-byte UUID."""
    text = raw.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def parse_uuid(text: str) -> bytes:
    """Return the 16 bytes of a UUID's canonical text.

    Raises:
        ValueError: It is not 32 hexadecimal digits, hyphens aside.
    """
    try:
        raw = bytes.fromhex(text.replace("-", ""))
    except ValueError:
        raw = b""
    if len(raw) != 16:
        raise ValueError("it has 32 hexadecimal digits, hyphens aside")
    return raw


def uuid7_time_ms(raw: bytes) -> int:
    """Return the millisecond (since 1970, UTC) in which a UUID of version 7 was made."""
    return int.from_bytes(raw[:6], "big")


def format_prediction_id(request: bytes, row: int) -> str:
    """Return the public id of one prediction: its request's UUID, and its row unless that is 0."""
    return f"{format_uuid(request)}.{row}" if row else format_uuid(request)


def parse_prediction_id(text: str) -> tuple[bytes, int]:
    """Return the request's 16 bytes and the row of a prediction id.

    Raises:
        ValueError: The text has another form.
    """
    request, dot, row = text.partition(".")
    if dot and not (row.isascii() and row.isdigit() and len(row) <= 9):
        raise ValueError(f"the row after '.' must be a number, got {row!r}")
    return parse_uuid(request), int(row) if dot else 0
