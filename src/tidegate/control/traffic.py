"""Getting out of trouble over the control port: rollback and safe mode, in threads of their own.

They need neither the database nor a worker's loop, and wait behind no other page.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tidegate.core.error import InvalidSetting
from tidegate.operation.release import Moved

MAX_BODY_BYTES = 1 << 16
_LANE_THREADS = 4

S = TypeVar("S", bound=msgspec.Struct)


class TrafficPlane(Protocol):
    """Who moves traffic."""

    def roll_back(self, service: str, request: RollBack) -> Moved:
        """Undo what moved last; of the one service that is meant if `service` is "".

        Raises NotFound, InvalidSetting, Latched, NothingToRollBack, RouteStorageError.
        """
        ...

    def change_safe_mode(self, service: str, request: SafeMode) -> Moved:
        """Switch safe mode. Raises NotFound, InvalidSetting, Latched, RouteStorageError."""
        ...


class RollBack(msgspec.Struct, forbid_unknown_fields=True):
    """How to roll back.

    Attributes:
        to: Version to go back to; the latest good one if None.
        keep: Do not latch what is taken away.
        reason: Why, in words.
        key: Idempotency key.
    """

    to: int | None = None
    keep: bool = False
    reason: str = ""
    key: str | None = None


class SafeMode(msgspec.Struct, forbid_unknown_fields=True):
    """Whether the fallback chain is to answer.

    Attributes:
        on: Whether it is.
        reason: Why, in words.
        key: Idempotency key.
    """

    on: bool
    reason: str = ""
    key: str | None = None


def traffic_routes(plane: TrafficPlane) -> list[Route]:
    """Return the routes that move traffic."""
    lane = ThreadPoolExecutor(_LANE_THREADS, thread_name_prefix="traffic")

    async def in_lane(act: Callable[[], Any]) -> Response:
        done = await asyncio.get_running_loop().run_in_executor(lane, act)
        return Response(msgspec.json.encode(done), media_type="application/json")

    async def roll_back(request: Request) -> Response:
        said = await read_body(request, RollBack)
        return await in_lane(lambda: plane.roll_back(request.path_params.get("name", ""), said))

    async def safe_mode(request: Request) -> Response:
        said = await read_body(request, SafeMode)
        return await in_lane(lambda: plane.change_safe_mode(request.path_params["name"], said))

    return [
        Route("/rollback", roll_back, methods=["POST"]),
        Route("/services/{name}/rollback", roll_back, methods=["POST"]),
        Route("/services/{name}/safe-mode", safe_mode, methods=["POST"]),
    ]


async def read_body(request: Request, kind: type[S]) -> S:
    """Return what a request says.

    Raises:
        InvalidSetting: It is not JSON of that kind.
    """
    # A web page of somebody else can post text to this machine's ports, but not JSON.
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != "application/json":
        raise InvalidSetting(
            f"This is sent as application/json. Got {content_type[:40]!r}.", hint="Send {} where all is said."
        )
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise InvalidSetting(f"A request has at most {MAX_BODY_BYTES} bytes here.")
    try:
        return msgspec.json.decode(bytes(body), type=kind)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        fields = ", ".join(kind.__struct_fields__)
        raise InvalidSetting(f"This cannot be read: {error}", hint=f"Fields: {fields}.") from error
