"""Which HTTP status each kind of error is, and the two shapes an error body has."""

from __future__ import annotations

from math import ceil
from typing import Any

import msgspec

from tidegate.core.error import TidegateError

STATUS: dict[str, int] = {
    "bad_request": 400,
    "malformed_body": 400,
    "invalid_batch": 400,
    "invalid_tensor": 400,
    "too_many_rows": 413,
    "body_too_large": 413,
    "headers_too_large": 431,
    "target_too_long": 414,
    "unsupported_encoding": 415,
    "request_timeout": 408,
    "method_not_allowed": 405,
    "not_found": 404,
    "unknown_service": 404,
    "unknown_version": 404,
    "pinning_off": 403,
    "contract_violation": 422,
    "feature_missing": 422,
    "feature_stale": 503,
    "feature_unread": 503,
    "online_store_unavailable": 503,
    "conflict": 409,
    "overloaded": 503,
    "rate_limited": 429,
    "not_ready": 503,
    "safe_mode": 503,
    "breaker_open": 503,
    "runner_unavailable": 503,
    "remote_unavailable": 503,
    "journal_unavailable": 503,
    "deadline_exceeded": 504,
    "unsupported": 501,
    "predictor_failed": 500,
    "quarantined_input": 422,
    "output_violation": 500,
    "predictor_not_loadable": 503,
    "corrupt": 500,
    "invalid_setting": 500,
    "missing_extra": 500,
    "internal": 500,
}
"""Status on the native face, by error code."""

PROTOCOL_STATUS = {400, 404, 405, 413, 414, 415, 429, 431, 408, 500, 501, 503}
"""Statuses the Open Inference Protocol face keeps; see `protocol_status`."""

MAX_RETRY_S = 60
"""What Retry-After says at most: load that lasts longer than this is worth another look."""

_encode = msgspec.json.Encoder().encode


class ErrorDetail(msgspec.Struct, omit_defaults=True):
    """What a caller is told."""

    code: str
    message: str
    hint: str = ""
    context: dict[str, Any] = {}


class ErrorBody(msgspec.Struct):
    """The one error body of the native face."""

    error: ErrorDetail


def native_error(error: TidegateError) -> tuple[int, bytes]:
    """Return status and body of an error on the native face."""
    status = STATUS.get(error.code, 500)
    context = {} if error.code == "internal" else {key: _plain(value) for key, value in error.context.items()}
    return status, _encode(ErrorBody(ErrorDetail(error.code, error.message, error.hint, context)))


def protocol_status(error: TidegateError) -> int:
    """Return the status of an error on the Open Inference Protocol face.

    The protocol's clients expect 404, 501, 503 and 500 in their meanings and 400 for the rest.
    """
    status = STATUS.get(error.code, 500)
    if status == 504:
        return 503
    return status if status in PROTOCOL_STATUS else 400


def protocol_error(error: TidegateError) -> tuple[int, bytes]:
    """Return status and body of an error on the Open Inference Protocol face."""
    return protocol_status(error), _encode({"error": str(error)})


def retry_after(error: TidegateError) -> bytes:
    """Return the header line that says when to try again, or nothing."""
    retry_s = error.context.get("retry_after_s")
    if not isinstance(retry_s, int | float):
        return b""
    # whole seconds, rounded up: who comes back a moment too early is refused once more
    return b"retry-after: %d\r\n" % min(MAX_RETRY_S, max(1, ceil(retry_s)))


def _plain(value: object) -> object:
    if isinstance(value, str | int | float | bool | list | tuple | dict) or value is None:
        return value
    return str(value)
