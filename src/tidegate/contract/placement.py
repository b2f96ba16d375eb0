"""Where a service's model runs, and what it may take there."""

from __future__ import annotations

import msgspec

from tidegate.core.declared import check_types
from tidegate.core.error import InvalidSetting

LOADS = ("", "always", "on-demand")


class Placement(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where and how a model runs.

    Attributes:
        load: `always` keeps the model loaded, `on-demand` loads it when somebody asks; "" leaves it to
            the server, which loads on demand where there are many services.
        isolated: Whether the model has a process of its own even if its calls are so short that it could
            run in the workers' loops. Code that is not ours always has one.
        memory_mb: What the process of a model that has one may take, megabytes, before it is replaced
            by a fresh one; 0: four times what its trial took, and 512 at least.
        nice: Added to the niceness of that process, 0 to 19: at 19 it gets what everything else leaves.
        cpus: Cores that process may use; 0: all.
    """

    load: str = ""
    isolated: bool = False
    memory_mb: int = 0
    nice: int = 0
    cpus: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be.

        Raises:
            InvalidSetting: A value has another type or is out of its range; the message names it.
        """
        check_types(self)
        if self.load not in LOADS:
            raise InvalidSetting(
                f"Placement.load is {self.load!r}.", hint="Use 'always', 'on-demand', or leave it out."
            )
        for name, most in (("memory_mb", 1 << 30), ("nice", 19), ("cpus", 4096)):
            value = getattr(self, name)
            if not 0 <= value <= most:
                raise InvalidSetting(f"Placement.{name} is {value}, expected 0 to {most}.")
