"""The controller's end of the short way (`core.lane`): rollbacks, in threads of their own.

Not on the control port, which may speak TLS, may be anybody's on this machine, and waits its turn in a loop
with other pages.
"""

from __future__ import annotations

import logging
import os
import pwd
import socket
import struct
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import msgspec

from tidegate.control.traffic import MAX_BODY_BYTES, RollBack, RollBackPlane
from tidegate.core.error import TidegateError
from tidegate.core.lane import NAME, Reached
from tidegate.core.principal import Principal, local_principal, person

_log = logging.getLogger("tidegate.lane")

_PATIENCE_S = 2.0
"""How long a caller may take to say a line that it has ready."""


class _Said(RollBack, forbid_unknown_fields=True):
    service: str = ""


class Lane:
    """Listens in `folder`, each caller in a thread of its own.

    Args:
        folder: Where the socket is to be.
        plane: Who rolls back.
    """

    def __init__(self, folder: Path, plane: RollBackPlane) -> None:
        self._plane = plane
        self._path = folder / NAME
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)

    def start(self) -> None:
        """Listen; where no socket can be made, commands do without."""
        draft = f"{NAME}.{os.getpid()}"
        folder = self._path.parent
        try:
            (folder / draft).unlink(missing_ok=True)
            with Reached(str(folder)) as reached:
                self._listener.bind(f"{reached}/{draft}")
            (folder / draft).chmod(0o600)
            self._listener.listen(16)
            (folder / draft).rename(self._path)  # whoever finds the name finds it listening
        except OSError as error:
            _log.warning("rollbacks are not taken over a socket: %s", error)
            self._listener.close()
            return
        threading.Thread(target=self._accept, name="lane", daemon=True).start()

    def stop(self) -> None:
        """Take the socket away."""
        with suppress(OSError):
            self._path.unlink(missing_ok=True)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                caller, _ = self._listener.accept()
            except OSError:
                if self._listener.fileno() < 0:
                    return
                time.sleep(0.1)  # out of descriptors: they come back
                continue
            threading.Thread(target=self._serve, args=(caller,), name="lane", daemon=True).start()

    def _serve(self, caller: socket.socket) -> None:
        with caller, suppress(OSError):  # who hangs up is told nothing
            caller.settimeout(_PATIENCE_S)
            request = bytearray()
            while not request.endswith(b"\n"):
                part = caller.recv(1 << 12)
                request += part
                if not part or len(request) > MAX_BODY_BYTES:
                    return
            if not _has_hung_up(caller):
                caller.sendall(b"\n")
                caller.sendall(self._answer(bytes(request), _peer(caller)))

    def _answer(self, request: bytes, by: Principal) -> bytes:
        """Return what was done; nothing where it was refused: the command finds out why and tells it."""
        try:
            said = msgspec.json.decode(request, type=_Said)
            return msgspec.json.encode(self._plane.roll_back(said.service, said, by=by))
        except (msgspec.MsgspecError, TidegateError, OSError) as error:
            _log.info("rollback refused: %s", error)
            return b""


def _has_hung_up(caller: socket.socket) -> bool:
    """Tell whether the caller waits no more. It does the work itself then, and once is enough."""
    caller.setblocking(False)
    try:
        return not caller.recv(1)
    except BlockingIOError:
        return False
    finally:
        caller.settimeout(_PATIENCE_S)


def _peer(caller: socket.socket) -> Principal:
    """Return who is at the other end: this process's user, or root."""
    if sys.platform != "linux":
        return local_principal()
    size = struct.calcsize("3i")
    _, user, _ = struct.unpack("3i", caller.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    if user == os.getuid():
        return local_principal()
    try:
        name = pwd.getpwuid(user).pw_name
    except KeyError:
        name = str(user)
    return person(name)
