"""What a training ran on: every installed package, and the machine."""

from __future__ import annotations

import os
import platform
import socket
from importlib import metadata
from pathlib import Path

import msgspec

from tidegate.core.digest import Digest, canonical_json, digest_bytes

VARIABLES = (
    "MKL_NUM_THREADS",
    "OMP_NUM_THREADS",
    "OPENBLAS_CORETYPE",
    "OPENBLAS_NUM_THREADS",
    "PYTHONHASHSEED",
)
"""Variables that can change the bits of a result: sums in another order, sets in another order."""


class PackageLock(msgspec.Struct, frozen=True, omit_defaults=True):
    """Everything that is installed beside the training code.

    Attributes:
        python: Version of the interpreter.
        system: Operating system and processor family, such as `Linux x86_64`.
        packages: Version of every installed distribution, by its name in small letters.
        variables: Those of `VARIABLES` that are set.
    """

    python: str
    system: str
    packages: dict[str, str]
    variables: dict[str, str] = {}

    @property
    def digest(self) -> Digest:
        """Digest of all of it."""
        return digest_bytes(canonical_json(self))

    def differences(self, other: PackageLock) -> list[str]:
        """Return in words what is different in `other`."""
        found = [
            f"{name} was {old}, is {new}"
            for name, old, new in (
                ("Python", self.python, other.python),
                ("the system", self.system, other.system),
            )
            if old != new
        ]
        for mine, theirs in ((self.packages, other.packages), (self.variables, other.variables)):
            for name in sorted(mine.keys() | theirs.keys()):
                old, new = mine.get(name, "absent"), theirs.get(name, "absent")
                if old != new:
                    found.append(f"{name} was {old}, is {new}")
        return found


class Machine(msgspec.Struct, frozen=True):
    """Where a training ran: what its durations depend on, and its bits should not.

    Attributes:
        name: Its name in the network.
        processor: What the processor calls itself; "" where the system does not say.
        n_cpus: Processors that this process may use.
        memory_bytes: Physical memory; 0 where the system does not say.
    """

    name: str
    processor: str
    n_cpus: int
    memory_bytes: int


def read_packages() -> PackageLock:
    """Describe what is installed here."""
    found: dict[str, str] = {}
    for distribution in metadata.distributions():
        name = distribution.metadata["Name"]
        if name:  # a broken leftover of an installation has none
            found.setdefault(name.lower().replace("_", "-"), distribution.version)
    return PackageLock(
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}",
        packages=dict(sorted(found.items())),
        variables={name: os.environ[name] for name in VARIABLES if name in os.environ},
    )


def read_machine() -> Machine:
    """Describe this machine."""
    affinity = getattr(os, "sched_getaffinity", None)
    return Machine(
        name=socket.gethostname(),
        processor=_processor(),
        n_cpus=len(affinity(0)) if affinity is not None else os.cpu_count() or 1,
        memory_bytes=_memory_bytes(),
    )


def _processor() -> str:
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor()


def _memory_bytes() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 0
