"""Requests for a service that is loaded on demand and is not loaded: they wait for it, nobody else does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic

from tidegate.contract.objective import Limits
from tidegate.core.error import TidegateError
from tidegate.serving.call import NotReady, Overloaded
from tidegate.serving.http.coding import body_too_large
from tidegate.serving.http.door import TIMEOUT_HEADER, read_timeout_s
from tidegate.serving.http.error import native_error, protocol_error, retry_after
from tidegate.serving.http.exchange import Exchange, Handler, content_length, internal_error

MAX_WAITING = 256
"""Requests that wait in one worker for models: each holds its body."""

Find = Callable[[bytes, bytes], Handler]
"""Maps method and target to a handler."""

_USUAL_BODY_BYTES = Limits().max_body_bytes


class Waiting:
    """How many requests of one worker wait for models to be loaded."""

    def __init__(self) -> None:
        self.n_requests = 0


class ColdHandler:
    """Has a service loaded, and hands its requests on to whoever answers them then."""

    door = None

    def __init__(
        self,
        service: str,
        *,
        load: Callable[[str], Awaitable[None]],
        find: Find,
        limits: Callable[[str], Limits],
        waiting: Waiting,
        is_protocol: bool,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        """Name a service.

        Args:
            service: Its name.
            load: Loads it, once for all who ask; raises what keeps it from being loaded.
            find: Finds the handler once it is loaded.
            limits: Tells the widest bounds of its versions; the handler that is found has the exact ones.
            waiting: Counts who waits.
            is_protocol: Whether errors have the shape of the Open Inference Protocol.
            loop: The event loop.
        """
        self.service = service
        self._load = load
        self._find = find
        self._limits = limits
        self._waiting = waiting
        self._shape = protocol_error if is_protocol else native_error
        self._loop = loop

    @property
    def max_body_bytes(self) -> int:
        """Bound of what any resource of the service may be sent; the handler that is found has its own."""
        return max(_USUAL_BODY_BYTES, self._limits(self.service).max_body_bytes)

    def admit(self, exchange: Exchange) -> None:
        """Refuse what would be one too many to wait."""
        if self._waiting.n_requests >= MAX_WAITING:
            raise Overloaded(
                f"Service {self.service!r} has to be loaded first, and too many requests wait already.",
                hint="Try again after the time in Retry-After.",
                service=self.service,
                retry_after_s=0.5,
            )

    def handle(self, exchange: Exchange, body: bytes) -> None:
        """Wait for the service, no longer than the request may take."""
        limit_s = read_timeout_s(exchange, self._limits(self.service).deadline_ms / 1000)
        task = self._loop.create_task(self._go_on(exchange, body, limit_s))
        exchange.on_abandon = task.cancel

    def refuse(self, exchange: Exchange, error: TidegateError) -> None:
        """Answer with an error in the shape of the face."""
        status, body = self._shape(error)
        exchange.respond(status, body, headers=retry_after(error))

    async def _go_on(self, exchange: Exchange, body: bytes, limit_s: float) -> None:
        self._waiting.n_requests += 1
        began_s = monotonic()
        try:
            async with asyncio.timeout(limit_s):
                while True:
                    await self._load(self.service)
                    handler = self._find(exchange.method, exchange.target)
                    if not isinstance(handler, ColdHandler):
                        break  # else it is gone again already: memory is that short
        except TidegateError as error:
            self.refuse(exchange, error)
            return
        except TimeoutError:
            self.refuse(exchange, self._late())
            return
        except Exception as error:  # noqa: BLE001 - a defect of ours must cost one request only
            exchange.connection.site.report_defect(error)
            self.refuse(exchange, internal_error())
            return
        finally:
            self._waiting.n_requests -= 1
        exchange.on_abandon = None
        exchange.handler = handler
        try:
            _check_size(exchange, body, handler.max_body_bytes)
            waited_s = monotonic() - began_s
            self._shorten(exchange, handler, waited_s)
            handler.admit(exchange)
            if exchange.wish is not None:
                exchange.wish = exchange.wish._replace(waited_s=waited_s)
            handler.handle(exchange, body)
        except TidegateError as error:
            handler.refuse(exchange, error)
        except Exception as error:  # noqa: BLE001 - likewise
            exchange.connection.site.report_defect(error)
            handler.refuse(exchange, internal_error())

    def _shorten(self, exchange: Exchange, handler: Handler, waited_s: float) -> None:
        """Leave a request the rest of its time, so that it is let in by what can still be done."""
        if handler.door is None:
            return
        left_s = handler.door.wish(exchange).timeout_s - waited_s
        if left_s <= 0:
            raise self._late()
        # others may have the same headers: a client's head is kept
        exchange.headers = {**exchange.headers, TIMEOUT_HEADER: str(left_s * 1000).encode()}

    def _late(self) -> NotReady:
        return NotReady(
            f"Service {self.service!r} could not be loaded in time.",
            hint="It is loaded when it is asked for; try again in a moment.",
            service=self.service,
            retry_after_s=1.0,
        )


def _check_size(exchange: Exchange, body: bytes, limit: int) -> None:
    """Hold a body against the bound of whoever is to have it, as sent and as decompressed."""
    if max(len(body), content_length(exchange.headers)) > limit:
        raise body_too_large(limit)
