"""Universal Binary JSON, looked through without building anything.

XGBoost ends the process on some damaged files of this format, so they are walked first.

Source: the UBJSON specification, draft 12 (ubjson.org).
"""

from __future__ import annotations

_FIXED_BYTES = {
    **dict.fromkeys(b"ZNTF", 0),
    **dict.fromkeys(b"iUC", 1),
    ord("I"): 2,
    **dict.fromkeys(b"ld", 4),
    **dict.fromkeys(b"LD", 8),
}
_INTEGERS = frozenset(b"iUIlL")
_MAX_DEPTH = 64


def top_keys(data: bytes) -> list[str]:
    """Return the keys of the outermost object, having walked over everything in it.

    Raises:
        ValueError: It is not one whole object of this format; says at which byte.
    """
    walker = _Walker(data)
    if walker.take() != ord("{"):
        raise ValueError("it does not begin with an object")
    keys = walker.object(1)
    if walker.at != len(data):
        raise ValueError(f"{len(data) - walker.at} bytes follow its end")
    return keys


class _Walker:
    """A position in the bytes."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self) -> int:
        """Return the next marker and step over it."""
        if self.at >= len(self.data):
            raise ValueError("it is cut off")
        self.at += 1
        return self.data[self.at - 1]

    def skip(self, n_bytes: int) -> None:
        if n_bytes < 0 or self.at + n_bytes > len(self.data):
            raise ValueError(f"a value at byte {self.at} is longer than the file")
        self.at += n_bytes

    def length(self) -> int:
        """Read an integer that counts something."""
        marker = self.take()
        if marker not in _INTEGERS:
            raise ValueError(f"there is no length at byte {self.at - 1}")
        start = self.at
        self.skip(_FIXED_BYTES[marker])
        value = int.from_bytes(self.data[start : self.at], "big", signed=marker != ord("U"))
        if value < 0:
            raise ValueError(f"the length at byte {start} is negative")
        return value

    def text(self) -> str:
        n_bytes = self.length()
        start = self.at
        self.skip(n_bytes)
        return self.data[start : self.at].decode()

    def value(self, marker: int, depth: int) -> None:
        """Step over one value whose marker has been taken."""
        if depth > _MAX_DEPTH:
            raise ValueError(f"it is nested more than {_MAX_DEPTH} deep")
        size = _FIXED_BYTES.get(marker)
        if size is not None:
            self.skip(size)
        elif marker in b"SH":
            self.skip(self.length())
        elif marker == ord("["):
            self.array(depth + 1)
        elif marker == ord("{"):
            self.object(depth + 1)
        else:
            raise ValueError(f"there is no value at byte {self.at - 1}")

    def header(self) -> tuple[int | None, int | None]:
        """Read what an optimised container says of its elements: their type, their number."""
        kind = count = None
        if self.peek() == ord("$"):
            self.take()
            kind = self.take()
            if self.peek() != ord("#"):
                raise ValueError(f"a typed container at byte {self.at} does not say how long it is")
        if self.peek() == ord("#"):
            self.take()
            count = self.length()
        return kind, count

    def peek(self) -> int | None:
        return self.data[self.at] if self.at < len(self.data) else None

    def array(self, depth: int) -> None:
        kind, count = self.header()
        if kind is not None and count is not None and kind in _FIXED_BYTES:
            self.skip(count * _FIXED_BYTES[kind])
            return
        done = 0
        while done != count:
            marker = self.take() if kind is None else kind
            if count is None and marker == ord("]"):
                return
            self.value(marker, depth)
            done += 1

    def object(self, depth: int) -> list[str]:
        kind, count = self.header()
        keys: list[str] = []
        while len(keys) != count:
            if count is None and self.peek() == ord("}"):
                self.take()
                return keys
            keys.append(self.text())
            self.value(self.take() if kind is None else kind, depth)
        return keys
