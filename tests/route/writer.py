"""A process that changes a route; tests start it, and it may stop itself in the middle of a change."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import msgspec

from tidegate.core.error import Conflict
from tidegate.route.file import LocalFiles
from tidegate.route.route import ServiceRoute
from tidegate.route.store import RouteStore


class StoppingFiles(LocalFiles):
    """Stops the process, as Ctrl-Z or a debugger would, right before one kind of operation."""

    def __init__(self, operation: str) -> None:
        self._operation = operation

    def __getattribute__(self, name):
        if name == object.__getattribute__(self, "_operation"):
            self._operation = ""
            os.kill(os.getpid(), signal.SIGSTOP)
        return object.__getattribute__(self, name)


def append(service: str, mark: int):
    def change(old: ServiceRoute | None) -> ServiceRoute:
        old = old or ServiceRoute(service)
        return msgspec.structs.replace(old, history=(*old.history, mark))

    return change


def main() -> None:
    folder, service, first, n_changes, stop_before = sys.argv[1:]
    files = StoppingFiles(stop_before) if stop_before else LocalFiles()
    store = RouteStore(Path(folder), files=files)
    for mark in range(int(first), int(first) + int(n_changes)):
        while True:
            try:
                store.change(service, append(service, mark))
            except Conflict:
                if stop_before:
                    sys.exit(3)
            else:
                break


if __name__ == "__main__":
    main()
