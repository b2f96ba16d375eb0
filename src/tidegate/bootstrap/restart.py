"""Asking a running server to replace its workers, and waiting until it has."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import msgspec

from tidegate.bootstrap.fleet import RestartRecord, RestartState, restart_path
from tidegate.bootstrap.process import RESTART
from tidegate.bootstrap.supervisor import read_record
from tidegate.core.clock import Clock
from tidegate.core.error import NotFound, TidegateError
from tidegate.core.home import Home

_LOOK_S = 0.05


class RestartFailed(TidegateError):
    """The workers could not be replaced; those before them go on."""

    code = "restart_failed"


def restart_server(
    home: Home, *, clock: Clock, within_s: float, sleep: Callable[[float], None] = time.sleep
) -> RestartRecord:
    """Have every worker of the server on a home replaced by a new process, one at a time.

    Args:
        home: The home.
        clock: Time.
        within_s: How long to wait for the end.
        sleep: Waits.

    Raises:
        NotFound: No server runs there.
        RestartFailed: A new worker could not take over, or it takes longer.
    """
    server = read_record(home)
    if server is None:
        raise NotFound(f"No server runs on {home.root}.", hint="Start one: tidegate up", home=str(home.root))
    before = _read(home)
    os.kill(server.pid, RESTART)
    give_up_s = clock.monotonic_s() + within_s
    while clock.monotonic_s() < give_up_s:
        found = _read(home)
        if found is not None and found.state is not RestartState.RUNNING and found != before:
            if found.state is RestartState.GIVEN_UP:
                raise RestartFailed(found.reason, hint="The server's log says more.")
            return found
        sleep(_LOOK_S)
    raise RestartFailed(
        f"The restart has not ended within {within_s:.0f} s; it goes on by itself.",
        hint="`tidegate status` shows the workers.",
    )


def _read(home: Home) -> RestartRecord | None:
    try:
        return msgspec.json.decode(restart_path(home).read_bytes(), type=RestartRecord)
    except (OSError, msgspec.MsgspecError):
        return None
