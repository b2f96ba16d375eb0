"""The command line, in a process that stops itself in the middle of one change of a route.

    python -m tests.system.stopping OPERATION NUMBER COMMAND ...

stops, as Ctrl-Z or a debugger would, right before the NUMBER-th time it does OPERATION to a route.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from tidegate.cli.main import main
from tidegate.route.file import LocalFiles


def stop_before(operation: str, number: int) -> None:
    """Have this process stop itself before one call of a method of `LocalFiles`."""
    original = getattr(LocalFiles, operation)
    calls = 0

    def stopping(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        if "route" in arguments[1].parts:  # decisions that wait for the database are files as well
            calls += 1
            if calls == number:
                os.kill(os.getpid(), signal.SIGSTOP)
        return original(*arguments, **named)

    setattr(LocalFiles, operation, stopping)


if __name__ == "__main__":
    stop_before(sys.argv[1], int(sys.argv[2]))
    sys.argv = ["tidegate", *sys.argv[3:]]
    main()
