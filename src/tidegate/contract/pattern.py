"""A declared pattern as Python's `re` reads it, where it means what a JSON Schema's means.

Source: ECMA-262, RegExp (which JSON Schema 2020-12, section 6.3.3, recommends): `$` is the end of the
text, not also the place before a last line feed; a digit is one of ASCII's ten.
"""

from __future__ import annotations

import re

_INLINE_FLAGS = re.compile(r"\(\?[a-zA-Z]+\)")
_PIECE = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\$|[^\\\[$]+|.", re.DOTALL)
"""An escape, a class, an end, or what lies between."""


def python_pattern(pattern: str) -> str:
    """Return `pattern` for `re.search`; as it is where it begins with flags of Python's own."""
    if _INLINE_FLAGS.match(pattern):
        return pattern
    pieces = _PIECE.findall(pattern)
    return "(?a)" + "".join(r"\Z" if piece == "$" else piece for piece in pieces)
