"""Whether what a worker has loaded still answers as it should: asked again and again, by the real path."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from tidegate.bootstrap.version import CHECK_S, VersionLoader
from tidegate.serving.endpoint import LoadedVersion
from tidegate.serving.readiness import CheckFailed

_log = logging.getLogger("tidegate.worker")

ROUND_TICKS = 10
"""Ticks of a second in which every version is asked once, if there are no more than so many of them."""
_CONFIRM = 2
"""A version that failed so often in a row is unwell: one time may be a moment of overload."""


class Pulse:
    """Puts check inputs to one loaded version after another."""

    def __init__(
        self,
        loader: VersionLoader,
        versions: Callable[[], Sequence[LoadedVersion]],
        *,
        unwell: dict[tuple[str, int], str],
    ) -> None:
        """Take what to look at.

        Args:
            loader: Knows the check inputs.
            versions: Gives the versions that are loaded now.
            unwell: Service and number of a version -> what is wrong with it; kept up to date.
        """
        self._unwell = unwell
        self._loader = loader
        self._versions = versions
        self._turn = -1
        self._failed: dict[LoadedVersion, int] = {}
        self._checking: asyncio.Task[None] | None = None

    def tick(self) -> None:
        """Begin the next check, unless one is under way; called once a second."""
        if self._checking is not None:
            return
        versions = self._versions()
        self._turn = (self._turn + 1) % max(len(versions), ROUND_TICKS)
        if self._turn < len(versions):
            version = versions[self._turn]
            self._checking = asyncio.get_running_loop().create_task(self._check(version))
            self._checking.add_done_callback(self._checked)

    async def _check(self, version: LoadedVersion) -> None:
        why = ""
        if not version.executor.is_there:
            why = "The process that runs it is not there."
        else:
            try:
                await self._loader.check(version, timeout_s=CHECK_S)
            except CheckFailed as error:
                why = error.message
        n_failed = self._failed.pop(version, 0) + 1 if why else 0
        if n_failed:
            self._failed[version] = n_failed
        key = (version.service, version.number)
        if not why:
            if self._unwell.pop(key, ""):
                _log.warning("version.well service=%s version=%d", *key)
        elif n_failed >= _CONFIRM:
            if key not in self._unwell:
                _log.error("version.unwell service=%s version=%d: %s", *key, why)
            self._unwell[key] = why

    def _checked(self, task: asyncio.Task[None]) -> None:
        self._checking = None
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("check.failed", exc_info=error)
        present = self._versions()
        for gone in self._failed.keys() - set(present):
            del self._failed[gone]
        for key in self._unwell.keys() - {(version.service, version.number) for version in present}:
            del self._unwell[key]
