"""CPUs that do not halt while latencies are taken.

A virtual CPU with nothing to do halts, and to wake it takes the host some 50 us, four times in a request
that goes to another process and back; what it had in its caches is gone by then as well. That is a price of
the machine, which other machines do not have or can be told not to take (`idle=poll`, the host's
`halt_poll_ns`). So latencies of one request are taken twice: as the machine is, and with a process of
the idle class spinning on each CPU, which gives way to whatever else is to run.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TypeVar

T = TypeVar("T")

_SPIN = """
import os, sys
os.sched_setaffinity(0, {int(sys.argv[1])})
os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
parent = os.getppid()
print("spins", flush=True)
while os.getppid() == parent:
    for _ in range(10_000_000):
        pass
"""


@contextmanager
def awake() -> Iterator[None]:
    """Keep every CPU that this process may use from halting."""
    with ExitStack() as stack:
        for cpu in sorted(os.sched_getaffinity(0)):
            command = [sys.executable, "-S", "-c", _SPIN, str(cpu)]
            spinner = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE))
            stack.callback(spinner.kill)
            assert spinner.stdout is not None
            spinner.stdout.readline()
        yield


def while_awake(measure: Callable[[], T]) -> T:
    """Return what is measured while no CPU halts."""
    with awake():
        return measure()
