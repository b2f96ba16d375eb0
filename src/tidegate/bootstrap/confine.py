"""Bounds of a process that runs code of others, set by itself before it loads any."""

from __future__ import annotations

import os
import resource
import sys
from contextlib import suppress

from tidegate.contract.placement import Placement

ALLOWANCE = 2.0
"""The kernel refuses memory at so many times the bound: the process is replaced before, unless one call
asks for everything at once. That call fails then, and the machine is spared."""


def confine(placement: Placement, *, memory_bytes: int) -> list[str]:
    """Set what the system lets a process set for itself.

    Args:
        placement: What was declared.
        memory_bytes: What the process may take before it is replaced; 0: no bound.

    Returns:
        What could not be set, in words.
    """
    failed: list[str] = []
    if memory_bytes and sys.platform == "linux":
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        wanted = int(ALLOWANCE * memory_bytes)
        bound = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        try:
            resource.setrlimit(resource.RLIMIT_DATA, (bound, hard))
        except (OSError, ValueError) as error:
            failed.append(f"no bound on its memory could be set: {error}")
    if placement.nice:
        try:
            os.nice(placement.nice)
        except OSError as error:
            failed.append(f"its niceness could not be raised by {placement.nice}: {error}")
    if placement.cpus:
        if hasattr(os, "sched_setaffinity"):
            cores = sorted(os.sched_getaffinity(0))[-placement.cpus :]
            with suppress(OSError):
                os.sched_setaffinity(0, cores)
        else:
            failed.append("this system binds no process to cores")
    return failed
