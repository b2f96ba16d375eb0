"""Idempotency keys: by them a change that is asked for twice is made once.

Apart from the mutations that remember them: a rollback needs a key before it has any use for a database.
"""

from __future__ import annotations

import secrets

from tidegate.core.error import InvalidSetting

KEY_LENGTH = 200
"""Most characters of an idempotency key: room for a UUID and a caller's own prefix."""


def new_key() -> str:
    """Return an idempotency key that nobody used before."""
    return secrets.token_hex(16)


def check_key(key: str) -> str:
    """Return `key` if it can serve as an idempotency key.

    Raises:
        InvalidSetting: It is empty, too long, or not printable ASCII.
    """
    if not (0 < len(key) <= KEY_LENGTH and key.isascii() and key.isprintable()):
        raise InvalidSetting(
            f"An idempotency key must have 1 to {KEY_LENGTH} printable ASCII characters. "
            f"Got {key[:KEY_LENGTH]!r}.",
            hint="Use a fresh UUID for each change, and the same one to repeat it.",
        )
    return key
