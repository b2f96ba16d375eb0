"""The nursery: tries versions that are loaded on demand, each in a process of its own that is there at once.

It has imported what a trial needs and made no thread. A trial is a fork of it, which takes milliseconds
where a new interpreter takes a third of a second; a version that crashes takes its fork with it.
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
from contextlib import suppress

import numpy as np

import tidegate.adapter.runtime.onnx  # noqa: F401 - so that no fork has to import it
from tidegate.bootstrap.child import describe_exit
from tidegate.bootstrap.process import (
    NurserySettings,
    end_with_supervisor,
    nursery_socket,
    told,
)
from tidegate.bootstrap.stage import Stage, read_stage, write_stage
from tidegate.bootstrap.trial import try_digest
from tidegate.core.clock import SystemClock
from tidegate.core.home import Home

_LIMIT_S = 60.0
_MAX_TRIALS = 2


class Nursery:
    """Tries what it is asked to, for all workers, each version once."""

    def __init__(self, home: Home, listener: socket.socket) -> None:
        self._home = home
        self._listener = listener
        self._clock = SystemClock()
        self._selector = selectors.DefaultSelector()
        self._selector.register(listener, selectors.EVENT_READ)
        self._asked: dict[str, list[socket.socket]] = {}  # in the order of asking
        self._trials: dict[int, tuple[str, float]] = {}

    def serve(self) -> None:
        """Serve for ever; the process ends with its supervisor."""
        wake_in, wake_out = os.pipe()
        os.set_blocking(wake_in, False)
        os.set_blocking(wake_out, False)
        signal.set_wakeup_fd(wake_out, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda signum, frame: None)
        self._selector.register(wake_in, selectors.EVENT_READ)
        while True:
            for key, _ in self._selector.select(1.0):
                if key.fileobj is self._listener:
                    peer, _ = self._listener.accept()
                    self._selector.register(peer, selectors.EVENT_READ, "peer")
                elif key.data == "peer":
                    self._listen_to(key.fileobj)  # type: ignore[arg-type]  # what was registered
                else:
                    with suppress(BlockingIOError):
                        os.read(wake_in, 4096)
            self._reap()
            self._begin()

    def _listen_to(self, peer: socket.socket) -> None:
        self._selector.unregister(peer)  # one question, one answer
        try:
            peer.settimeout(1.0)
            digest = peer.recv(256).decode("ascii").strip()
        except (OSError, UnicodeDecodeError):
            digest = ""
        if not digest:
            peer.close()
        elif digest in self._asked:
            self._asked[digest].append(peer)
        elif _is_good(self._home, digest):
            self._answer([peer])
        else:
            self._asked[digest] = [peer]

    def _begin(self) -> None:
        running = {digest for digest, _ in self._trials.values()}
        for digest in self._asked:
            if len(self._trials) >= _MAX_TRIALS:
                return
            if digest not in running:
                pid = os.fork()
                if pid == 0:
                    self._try(digest)
                self._trials[pid] = (digest, self._clock.monotonic_s())

    def _try(self, digest: str) -> None:
        status = 1
        try:
            signal.set_wakeup_fd(-1)
            np.seterr(over="ignore", invalid="ignore")
            try_digest(self._home, digest)
            status = 0
        finally:
            os._exit(status)  # nothing of the parent's is to be cleaned up here

    def _reap(self) -> None:
        for pid, (digest, began_s) in list(self._trials.items()):
            ended, code = os.waitpid(pid, os.WNOHANG)
            if ended == 0:
                if self._clock.monotonic_s() - began_s > _LIMIT_S:
                    os.kill(pid, signal.SIGKILL)
                continue
            del self._trials[pid]
            if code != 0:
                how = describe_exit(os.waitstatus_to_exitcode(code))
                write_stage(self._home, digest, Stage(error=f"Its trial on this machine ended {how}."))
            self._answer(self._asked.pop(digest, []))

    def _answer(self, peers: list[socket.socket]) -> None:
        for peer in peers:
            with suppress(OSError):
                peer.sendall(b"done\n")
            peer.close()


def _is_good(home: Home, digest: str) -> bool:
    stage = read_stage(home, digest)
    return stage is not None and not stage.error


def main() -> None:
    """Serve the socket of the server that the command line names."""
    settings = told(NurserySettings)
    end_with_supervisor(settings.server)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    path = nursery_socket(settings.sockets)
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        path.chmod(0o600)
        listener.listen(64)
        Nursery(settings.server.place, listener).serve()


if __name__ == "__main__":
    main()
