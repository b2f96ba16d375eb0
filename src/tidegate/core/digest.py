"""Content addresses: a digest names bytes, so equal names mean equal content."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NewType, TypeVar

import msgspec

from tidegate.core.error import InvalidSetting

Digest = NewType("Digest", str)
"""`sha256:` and 64 hexadecimal digits."""

_PATTERN = re.compile(r"sha256:[0-9a-f]{64}\Z")
_CHUNK_BYTES = 1 << 20


def digest_bytes(data: bytes | bytearray | memoryview) -> Digest:
    """Return the digest of `data`."""
    return Digest(f"sha256:{hashlib.sha256(data).hexdigest()}")


def digest_chunks(chunks: Iterable[bytes]) -> Digest:
    """Return the digest of the concatenation of `chunks`."""
    state = hashlib.sha256()
    for chunk in chunks:
        state.update(chunk)
    return Digest(f"sha256:{state.hexdigest()}")


def digest_file(path: Path) -> Digest:
    """Return the digest of a file's bytes, read in pieces.

    Raises:
        OSError: The file cannot be read.
    """
    with path.open("rb") as file:
        return digest_chunks(iter(lambda: file.read(_CHUNK_BYTES), b""))


def is_digest(text: str) -> bool:
    """Tell whether `text` has the form of a digest."""
    return _PATTERN.match(text) is not None


_canonical = msgspec.json.Encoder(order="sorted")


def canonical_json(value: object) -> bytes:
    """Encode plain data or msgspec structs as JSON with sorted keys and no white space.

    Equal values give equal bytes, whatever order their mappings were built in. A number as a key is
    written as text, as JSON asks.
    """
    try:
        return _canonical.encode(value)
    except TypeError:  # msgspec sorts text keys only
        return _canonical.encode(msgspec.to_builtins(value, str_keys=True))


_T = TypeVar("_T")


def stored_form(value: _T, name: str) -> _T:
    """Return `value` as it reads after a round through JSON, so that its digest holds for ever.

    Args:
        value: A msgspec struct, or plain JSON data.
        name: What it is, for the message.

    Raises:
        InvalidSetting: It holds what JSON cannot keep.
    """
    kind = type(value)
    try:
        stored = msgspec.json.decode(canonical_json(value), type=kind)
        encoded = canonical_json(stored)
        if canonical_json(msgspec.json.decode(encoded, type=kind)) == encoded:
            return stored
        fault = "it reads back differently each time"
    except (TypeError, ValueError, RecursionError) as error:
        fault = str(error)
    raise InvalidSetting(
        f"The {name} cannot be stored as JSON: {fault}.",
        hint="Use plain values: text, numbers, booleans, None, lists, and mappings with text keys.",
    )
