"""A TCP proxy that hurts the connections that go through it: cuts them anywhere, or lets them stand."""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import threading
from types import TracebackType
from typing import Self

_RESET = struct.pack("ii", 1, 0)  # close with a reset, as a network that fails does


class FaultProxy:
    """Forwards to a port; each connection passes a random number of bytes each way, then is cut."""

    def __init__(self, port: int, *, seed: int, least: int = 1, most: int = 2_000) -> None:
        self.n_cut = 0
        self._target = port
        self._random = random.Random(seed)
        self._span = (least, most)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = int(self._listener.getsockname()[1])
        self._threads = [threading.Thread(target=self._accept, daemon=True)]

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # shut down first: closing alone does not wake the thread that accepts
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(10)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self._target))
            except OSError:  # nobody there at the moment
                client.close()
                continue
            pair = (client, server)
            for source, target in (pair, pair[::-1]):
                budget = self._random.randint(*self._span)
                thread = threading.Thread(target=self._pass, args=(source, target, budget), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _pass(self, source: socket.socket, target: socket.socket, budget: int) -> None:
        with contextlib.suppress(OSError):
            while budget > 0 and (data := source.recv(min(budget, 65_536))):
                target.sendall(data)
                budget -= len(data)
            if budget <= 0:
                self.n_cut += 1
        for each in (source, target):
            with contextlib.suppress(OSError):  # the other side may have gone, or the other thread closed it
                each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                each.shutdown(socket.SHUT_RDWR)
            each.close()
