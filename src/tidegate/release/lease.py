"""Who leads: one controller at a time, by a lease in the database that no clock can confuse.

The holder counts a beat up with every look. A challenger takes over only when it has watched one and
the same beat stand still for the lease's time, by its own clock that only grows: wall clocks and their
jumps play no part. Each take-over gives a higher token. The new leader shows it to the route before
it changes anything, so that the one before, if it merely slept, is refused from then on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import msgspec

from tidegate.core.clock import Clock
from tidegate.core.error import Conflict


class LeaseLost(Conflict):
    """Another controller has taken the lease."""

    code = "lease_lost"


class Lease(msgspec.Struct, frozen=True):
    """What the database says of a lease.

    Attributes:
        name: What it is for.
        holder: Who has it; empty where it was given back.
        token: Grows with each holder.
        beat: Grows while the holder lives.
    """

    name: str
    holder: str = ""
    token: int = 0
    beat: int = 0


class LeaseStore(Protocol):
    """Where leases are kept."""

    def find(self, name: str) -> Lease | None:
        """Return a lease, or None where nobody ever had it."""
        ...

    def replace(self, old: Lease | None, new: Lease) -> bool:
        """Put `new` in the place of `old`; False, and nothing changed, if the lease is not `old` any more."""
        ...


Exchange = Callable[[Lease | None, Lease], bool]


class Leadership:
    """One controller's view of a lease.

    Args:
        name: Of the lease.
        holder: Who this controller is; another one after each start of the process.
        clock: Only its monotonic side is used.
        limit_s: How long a beat may stand still. Ten seconds: a release that nobody watches for so
            long is still at its share, and a slow disk is not a death.
        is_dead: Tells of a holder whether it is known to live no more, so that nobody waits for it.
    """

    def __init__(
        self,
        name: str,
        *,
        holder: str,
        clock: Clock,
        limit_s: float = 10.0,
        is_dead: Callable[[str], bool] = lambda _: False,
    ) -> None:
        self._name = name
        self._holder = holder
        self._clock = clock
        self._limit_s = limit_s
        self._is_dead = is_dead
        self._mine: Lease | None = None
        self._seen: tuple[Lease | None, float] | None = None

    @property
    def name(self) -> str:
        """Name of the lease."""
        return self._name

    @property
    def token(self) -> int | None:
        """Token of the lease that this controller believes to hold."""
        return self._mine.token if self._mine is not None else None

    def renew(self, found: Lease | None, exchange: Exchange) -> int | None:
        """Beat, or take the lease if it is free.

        Args:
            found: The lease as the database has it.
            exchange: Replaces it there, if it still is what was found.

        Returns:
            The token, or None while another one leads.
        """
        if self._mine is not None and found == self._mine:
            following = msgspec.structs.replace(self._mine, beat=self._mine.beat + 1)
        else:
            self._mine = None
            if not self._is_free(found):
                return None
            token = found.token + 1 if found is not None else 1
            following = Lease(self._name, self._holder, token, 0)
        if not exchange(found, following):
            self._mine = None
            return None
        self._mine = following
        return following.token

    def _is_free(self, found: Lease | None) -> bool:
        if found is None or not found.holder or self._is_dead(found.holder):
            return True
        now_s = self._clock.monotonic_s()
        if self._seen is None or self._seen[0] != found:
            self._seen = (found, now_s)
            return False
        return now_s - self._seen[1] >= self._limit_s

    def resign(self, exchange: Exchange) -> None:
        """Give the lease back, so that the next one need not wait."""
        if self._mine is not None:
            exchange(self._mine, msgspec.structs.replace(self._mine, holder="", beat=self._mine.beat + 1))
            self._mine = None

    def forget(self) -> None:
        """Take it that the lease is lost."""
        self._mine = None
