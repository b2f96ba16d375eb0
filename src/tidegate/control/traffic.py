"""Traffic over the control port: rollback, safe mode and releases, in threads of their own.

Rollback and safe mode need neither the database nor a worker's loop, and wait behind no other page.
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

from tidegate.core.error import InvalidSetting, NotFound
from tidegate.core.principal import Principal
from tidegate.operation.release import Moved
from tidegate.operation.rollback import MovedBack
from tidegate.operation.watching import ReleaseView
from tidegate.release.machine import State

MAX_BODY_BYTES = 1 << 16
_LANE_THREADS = 4

S = TypeVar("S", bound=msgspec.Struct)


class RollBackPlane(Protocol):
    """Who rolls back."""

    def roll_back(self, service: str, request: RollBack, *, by: Principal | None = None) -> MovedBack:
        """Undo what moved last, in every cell; of the one service that is meant if `service` is "".

        Raises NotFound, InvalidSetting, Latched, NothingToRollBack, RouteStorageError.
        """
        ...


class TrafficPlane(RollBackPlane, Protocol):
    """Who moves traffic."""

    def change_safe_mode(self, service: str, request: SafeMode) -> Moved:
        """Switch safe mode. Raises NotFound, InvalidSetting, Latched, RouteStorageError."""
        ...

    def release(self, service: str) -> ReleaseView:
        """Return a service's latest release. Raises NotFound, StoreUnavailable."""
        ...

    def steer(self, service: str, word: str, request: Word) -> State | None:
        """Say one of `WORDS` to the release under way. Raises NotFound, Conflict, StoreUnavailable."""
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


class Word(msgspec.Struct, forbid_unknown_fields=True):
    """What a person says to a release.

    Attributes:
        reason: Why, in words.
        key: Idempotency key.
    """

    reason: str = ""
    key: str | None = None


WORDS = ("pause", "resume", "approve", "promote", "abort")


def traffic_routes(plane: TrafficPlane) -> list[Route]:
    """Return the routes that move traffic."""
    lane = ThreadPoolExecutor(_LANE_THREADS, thread_name_prefix="traffic")

    async def in_lane(act: Callable[[], Any]) -> Response:
        done = await asyncio.get_running_loop().run_in_executor(lane, act)
        return Response(msgspec.json.encode(done), media_type="application/json")

    async def roll_back(request: Request) -> Response:
        said = await read_body(request, RollBack)
        name = request.path_params.get("name", "")
        return await in_lane(lambda: plane.roll_back(name, said).one_or_all)

    async def safe_mode(request: Request) -> Response:
        said = await read_body(request, SafeMode)
        return await in_lane(lambda: plane.change_safe_mode(request.path_params["name"], said))

    async def release(request: Request) -> Response:
        return await in_lane(lambda: plane.release(request.path_params["name"]))

    async def steer(request: Request) -> Response:
        word = request.path_params["word"]
        if word not in WORDS:
            raise NotFound(f"A release is not told to {word[:40]!r}.", hint=f"Words: {', '.join(WORDS)}.")
        said = await read_body(request, Word)
        return await in_lane(lambda: plane.steer(request.path_params["name"], word, said))

    return [
        Route("/services/{name}/release", release),
        Route("/services/{name}/release/{word}", steer, methods=["POST"]),
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
