"""The nursery: tries versions that are loaded on demand, in a process that is there at once.

A new interpreter for each trial takes a third of a second; a request that waits for its model has not
that long. One process tries one version after another, and has imported what that takes; a version that
crashes it is known for it, and the next trial has a new process, forked in milliseconds.
"""

from __future__ import annotations

import gc
import os
import selectors
import signal
import socket
from contextlib import suppress

import numpy as np

import tidegate.adapter.runtime.onnx  # noqa: F401 - so that no process that tries has to import it
from tidegate.bootstrap.child import describe_exit
from tidegate.bootstrap.process import NurserySettings, end_with_supervisor, nursery_socket, told
from tidegate.bootstrap.stage import Stage, read_stage, write_stage
from tidegate.bootstrap.trial import try_digest
from tidegate.core.clock import SystemClock
from tidegate.core.home import Home

_LIMIT_S = 60.0
_MAX_TRIALS = 500
"""After so many a process is replaced: what engines keep of models that were closed adds up."""


class Tester:
    """The process that tries; forked from the nursery, which has made no thread."""

    def __init__(self, home: Home) -> None:
        self.socket, theirs = socket.socketpair()
        self.n_trials = 0
        self.pid = os.fork()
        if self.pid == 0:
            self.socket.close()
            _try_all(home, theirs)
        theirs.close()

    def try_version(self, digest: str) -> None:
        """Begin a trial; its end is a byte on the socket, or the end of it."""
        self.n_trials += 1
        with suppress(OSError):  # it has died; its socket says so
            self.socket.sendall(digest.encode() + b"\n")

    def end(self) -> str:
        """End the process and return how it ended, in words."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        _, status = os.waitpid(self.pid, 0)
        self.socket.close()
        return describe_exit(os.waitstatus_to_exitcode(status))


def _try_all(home: Home, source: socket.socket) -> None:
    status = 1
    try:
        np.seterr(over="ignore", invalid="ignore")
        with source.makefile("rb") as lines:
            for line in lines:
                try_digest(home, line.decode("ascii").strip())
                source.sendall(b".")
        status = 0
    finally:
        os._exit(status)  # nothing of the parent's is to be cleaned up here


class Nursery:
    """Takes questions from all workers, and has each version tried once."""

    def __init__(self, home: Home, listener: socket.socket) -> None:
        self._home = home
        self._listener = listener
        self._clock = SystemClock()
        self._selector = selectors.DefaultSelector()
        self._selector.register(listener, selectors.EVENT_READ)
        self._asked: dict[str, list[socket.socket]] = {}  # in the order of asking; the first is being tried
        self._tester: Tester | None = None
        self._began_s = 0.0
        self._trying = ""

    def serve(self) -> None:
        """Serve for ever; the process ends with its supervisor."""
        self._renew()
        while True:
            for key, _ in self._selector.select(1.0):
                if key.fileobj is self._listener:
                    peer, _ = self._listener.accept()
                    self._selector.register(peer, selectors.EVENT_READ, "peer")
                elif key.data == "peer":
                    self._listen_to(key.fileobj)  # type: ignore[arg-type]  # what was registered
                else:
                    self._hear()
            if self._trying and self._clock.monotonic_s() - self._began_s > _LIMIT_S:
                self._lose()
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
            _answer([peer])
        else:
            self._asked[digest] = [peer]

    def _begin(self) -> None:
        if self._trying or not self._asked:
            return
        if self._tester is None or self._tester.n_trials >= _MAX_TRIALS:
            self._renew()
        assert self._tester is not None
        self._trying = next(iter(self._asked))
        self._began_s = self._clock.monotonic_s()
        self._tester.try_version(self._trying)

    def _hear(self) -> None:
        assert self._tester is not None
        try:
            said = self._tester.socket.recv(16)
        except OSError:
            said = b""
        if not said:
            self._lose()
        elif self._trying:
            _answer(self._asked.pop(self._trying))
            self._trying = ""

    def _lose(self) -> None:
        """Take note of a version that has ended, or stopped, the process that tried it."""
        assert self._tester is not None
        self._selector.unregister(self._tester.socket)
        how = self._tester.end()
        self._tester = None
        if self._trying:
            stage = Stage(error=f"Its trial on this machine ended {how}.")
            write_stage(self._home, self._trying, stage)
            _answer(self._asked.pop(self._trying))
            self._trying = ""
        self._renew()

    def _renew(self) -> None:
        if self._tester is not None:
            self._selector.unregister(self._tester.socket)
            self._tester.end()
        self._tester = Tester(self._home)
        self._selector.register(self._tester.socket, selectors.EVENT_READ, "tester")


def _answer(peers: list[socket.socket]) -> None:
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
    for signum in (signal.SIGINT, signal.SIGHUP):  # of a terminal; the supervisor decides
        signal.signal(signum, signal.SIG_IGN)
    path = nursery_socket(settings.sockets)
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        path.chmod(0o600)
        listener.listen(64)
        gc.freeze()  # a fork that collects would copy every page
        Nursery(settings.server.place, listener).serve()


if __name__ == "__main__":
    main()
