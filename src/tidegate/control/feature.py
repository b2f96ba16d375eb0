"""Events of feature views, over the control port: they are transformed here, never in a worker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tidegate.core.error import InvalidSetting
from tidegate.feature.online import Pushed

MAX_EVENTS = 10_000
MAX_BODY_BYTES = 16 << 20


class FeaturePlane(Protocol):
    """Who takes events."""

    def push(self, view: str, rows: Sequence[Mapping[str, Any]]) -> Pushed:
        """Put events of a registered view into the online store.

        Raises NotFound, InvalidFeatureData, OnlineStoreUnavailable, StoreUnavailable.
        """
        ...


class Sent(msgspec.Struct, forbid_unknown_fields=True):
    """What a caller sends.

    Attributes:
        events: Rows of the view's table, as objects; times in RFC 3339 or whole microseconds UTC.
    """

    events: list[dict[str, Any]]


_decode = msgspec.json.Decoder(Sent).decode


def feature_routes(plane: FeaturePlane) -> list[Route]:
    """Return the routes that take events."""

    async def take(request: Request) -> Response:
        events = _events(request.headers.get("content-type", ""), await _body(request))
        pushed = await run_in_threadpool(plane.push, request.path_params["view"], events)
        return Response(msgspec.json.encode(pushed), media_type="application/json")

    return [Route("/features/{view}/events", take, methods=["POST"])]


async def _body(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise InvalidSetting(
                f"A request of events has at most {MAX_BODY_BYTES} bytes.", hint="Send several requests."
            )
    return bytes(body)


def _events(content_type: str, body: bytes) -> list[dict[str, Any]]:
    # A web page of somebody else can post text to this machine's ports, but not JSON.
    if content_type.partition(";")[0].strip().lower() != "application/json":
        raise InvalidSetting(
            f"Events are sent as application/json. Got {content_type[:40]!r}.",
            hint='Send {"events": [{...}, ...]} with this content type.',
        )
    try:
        events = _decode(body).events
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise InvalidSetting(
            f"These are no events: {error}", hint='Send {"events": [{...}, ...]}.'
        ) from error
    if not 0 < len(events) <= MAX_EVENTS:
        raise InvalidSetting(
            f"A request has 1 to {MAX_EVENTS} events, got {len(events)}.", hint="Send several requests."
        )
    return events
