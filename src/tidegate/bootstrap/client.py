"""A few requests to a running server, for commands; load goes through real clients."""

from __future__ import annotations

import urllib.error
import urllib.request
from http.client import HTTPException
from typing import Any

import msgspec

from tidegate.core.error import InvalidSetting, TidegateError


class NoAnswer(TidegateError):
    """The server cannot be reached."""

    code = "no_answer"


def ask(base: str, path: str, body: Any = None, *, timeout_s: float = 60.0) -> tuple[int, bytes]:
    """Send one request: POST with a JSON body, GET without.

    Args:
        base: For example `http://127.0.0.1:8080`.
        path: For example `/services/flights/predict`.
        body: Plain data or structs; bytes are sent as they are.
        timeout_s: How long to wait, in seconds.

    Returns:
        HTTP status and body.

    Raises:
        NoAnswer: Nobody answered.
        InvalidSetting: `base` is no http or https address.
    """
    if not base.startswith(("http://", "https://")):
        raise InvalidSetting(f"{base!r} is no address of a server.", hint="Write it as http://host:port.")
    data = body if isinstance(body, bytes) or body is None else msgspec.json.encode(body)
    request = urllib.request.Request(  # noqa: S310  # the scheme was checked
        base.rstrip("/") + path, data=data, headers={"content-type": "application/json"}
    )
    # a proxy from the environment is not for servers that were named by address
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=timeout_s) as response:
            return int(response.status), response.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()
    except (HTTPException, OSError, ValueError) as error:  # nobody, somebody else, or no address at all
        reason = getattr(error, "reason", error)
        raise NoAnswer(
            f"The server at {base} does not answer: {reason}.", hint="Start it with `tidegate up`.", url=base
        ) from error
