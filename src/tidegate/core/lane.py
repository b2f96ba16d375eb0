"""The short way to the running controller: a Unix socket in the home, for what cannot wait.

On an overloaded machine a command that is typed gets a part of a core, and spends it on imports. So the
caller's end imports next to nothing (a test holds it to that) and asks a process that is awake.

One exchange a connection: a line of JSON; an empty line when it is begun; and the answer until the end of
the stream, nothing if it was refused. Only the user who runs the server, and root, can connect.
"""

from __future__ import annotations

import os
from _socket import AF_UNIX, SOCK_STREAM, socket  # `socket` itself takes as long to import as all else here

FOLDER = "run"
NAME = "rollback.sock"
_DONE_WITHIN_S = 120.0
_LONGEST = 107 - len(f"/{NAME}.4194304")
"""Most bytes of a folder's path in which a Unix socket can be drafted, under a process's number."""


def ask(home: str, request: bytes, *, wait_s: float) -> bytes | None:
    """Ask the controller that runs on `home`, and return what it says.

    Args:
        home: The home folder.
        request: A line of JSON, without its end.
        wait_s: How long it may take until it is begun, seconds. Who waits no longer hangs up, and what was
            not begun by then is not done: a controller that was stopped and wakes does nothing late.

    Returns:
        The answer; None where nobody answers, or it was refused.
    """
    answer = b""
    line = socket(AF_UNIX, SOCK_STREAM)
    try:
        line.settimeout(wait_s)
        with Reached(f"{home}/{FOLDER}") as folder:
            line.connect(f"{folder}/{NAME}")
        line.sendall(request + b"\n")
        while part := line.recv(1 << 16):
            line.settimeout(_DONE_WITHIN_S)
            answer += part
    except OSError:
        return None
    finally:
        line.close()
    return answer.strip() or None


class Reached:
    """A folder under a name that is short enough for a socket in it.

    Raises:
        OSError: It cannot be opened.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._fd = -1

    def __enter__(self) -> str:
        if len(os.fsencode(self._folder)) < _LONGEST:
            return self._folder
        self._fd = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        return f"/proc/self/fd/{self._fd}"

    def __exit__(self, *_: object) -> None:
        if self._fd >= 0:
            os.close(self._fd)
