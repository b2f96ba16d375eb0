"""Services that one worker loads when they are asked for, and closes again when memory runs short."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

from tidegate.bootstrap.heap import Heap
from tidegate.core.clock import Clock
from tidegate.core.error import TidegateError
from tidegate.serving.budget import ModelBudget, Resident

_log = logging.getLogger("tidegate.worker")

_MIN_BYTES = 64 << 10
"""What a version takes beside its model at least: layout, resources, statistics; Python's own heap, which
nothing tells apart by version."""
_ROOM = 0.95
"""Part of the bound down to which models are closed at once, so that not every load has to close one."""
_TRIAL_S = 60.0


class OnDemand:
    """Loads services one at a time, beside the loop, and keeps what they take within a bound.

    One at a time, so that what a load takes can be measured, and so that hot services have the rest of
    the processor.
    """

    def __init__(
        self,
        *,
        limit_bytes: int,
        load: Callable[[str], Awaitable[None]],
        close: Callable[[str], None],
        is_busy: Callable[[str], bool],
        asked: Callable[[str], Callable[[], int]],
        clock: Clock,
        heap: Heap | None = None,
    ) -> None:
        """Hold nothing yet.

        Args:
            limit_bytes: What this process may take in all.
            load: Loads a service and serves it; raises what keeps it from that.
            close: Stops serving a service and lets go of its models.
            is_busy: Whether a service has to stay for now.
            asked: Gives the function that tells how many requests a service has had.
            clock: Time.
            heap: Measures memory; this process's if None.
        """
        self._limit_bytes = limit_bytes
        self._load = load
        self._close = close
        self._is_busy = is_busy
        self._asked = asked
        self._clock = clock
        self._heap = heap or Heap()
        self._budget = ModelBudget(limit_bytes)
        self._loads: dict[str, asyncio.Task[None]] = {}
        self._one = asyncio.Semaphore(1)
        self._base_bytes = -1
        self.n_loaded = 0
        self.n_closed = 0

    def __contains__(self, name: str) -> bool:
        """Tell whether a service is loaded, or about to be."""
        return name in self._budget or name in self._loads

    async def demand(self, name: str) -> None:
        """Have a service loaded; whoever asks meanwhile waits for the same load.

        Raises:
            TidegateError: It cannot be loaded.
        """
        if name in self._budget:
            return
        task = self._loads.get(name)
        if task is None:
            task = self._loads[name] = asyncio.get_running_loop().create_task(self._bring(name))
            task.add_done_callback(lambda task: self._forget(name, task))
        await asyncio.shield(task)  # a caller who goes away does not stop it for the others

    def drop(self, name: str) -> None:
        """Forget a service that is no longer routed."""
        self._budget.drop(name)

    def check(self) -> None:
        """See that memory is within the bound; called once in a while."""
        if len(self._budget) and self._heap.resident_bytes() > self._limit_bytes:
            self._heap.trim()
            over = self._heap.resident_bytes() - self._limit_bytes
            if over > 0:
                self._shrink(self._budget.used_bytes - over)
                self._heap.trim()

    async def _bring(self, name: str) -> None:
        async with self._one:
            if self._base_bytes < 0:
                self._heap.use_one_arena()
                self._base_bytes = self._heap.resident_bytes()
                self._budget.limit_bytes = max(0, self._limit_bytes - self._base_bytes)
            before_bytes, began_s = self._heap.used_bytes(), self._clock.monotonic_s()
            await self._load(name)
            took_s = self._clock.monotonic_s() - began_s
            size_bytes = max(0, self._heap.used_bytes() - before_bytes) + _MIN_BYTES
        self._budget.add(Resident(name, size_bytes=size_bytes, load_s=took_s, asked=self._asked(name)))
        self.n_loaded += 1
        if self._budget.used_bytes > self._budget.limit_bytes:
            self._shrink(round(_ROOM * self._budget.limit_bytes), but=name)

    def _shrink(self, down_to_bytes: int, *, but: str = "") -> None:
        for gone in self._budget.evict(
            down_to_bytes=max(0, down_to_bytes), keep=lambda name: name == but or self._is_busy(name)
        ):
            self._close(gone)
            self.n_closed += 1

    def _forget(self, name: str, task: asyncio.Task[None]) -> None:
        del self._loads[name]
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, TidegateError):
            _log.error("service.load_failed service=%s", name, exc_info=error)


async def try_in_nursery(socket: Path, digest: str) -> None:
    """Have a version tried on this machine, and return when its trial has left what it found.

    Args:
        socket: Of the nursery.
        digest: Of the version's manifest.

    Raises:
        TimeoutError: The nursery did not answer.
    """
    async with asyncio.timeout(_TRIAL_S):
        while True:
            with suppress(OSError):  # it is being started, or started again
                reader, writer = await asyncio.open_unix_connection(str(socket))
                try:
                    writer.write(digest.encode() + b"\n")
                    if await reader.readline():
                        return
                finally:
                    writer.close()
            await asyncio.sleep(0.02)
