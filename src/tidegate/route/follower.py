"""How a worker follows the route: a cheap poll that keeps the last good one."""

from __future__ import annotations

from tidegate.core.clock import Clock, SystemClock
from tidegate.route.route import Route
from tidegate.route.store import Damage, RouteStorageError, RouteStore

POLL_INTERVAL_S = 0.02
"""How often to look where nothing tells of a change: it is learnt of 10 ms after it on average."""

NOTICED_INTERVAL_S = 0.2
"""How often to look all the same where the kernel tells of it; see `Notice`."""

LISTING_INTERVAL_S = 1.0
"""A listing also finds what lies more than one number ahead: after a damaged file, or a long sleep."""


class RouteFollower:
    """Tells one process when the route has changed.

    Attributes:
        route: The route to follow; the empty one (sequence 0) before the first is found.
        damage: Files newer than `route` that cannot be followed; empty when all is well.
    """

    def __init__(
        self,
        store: RouteStore,
        *,
        clock: Clock | None = None,
        listing_interval_s: float = LISTING_INTERVAL_S,
    ) -> None:
        self.route = Route(store.cell)
        self.damage: tuple[Damage, ...] = ()
        self._store = store
        self._clock = clock or SystemClock()
        self._interval_s = listing_interval_s
        self._list_at_s = 0.0
        self._await(0)

    def poll(self) -> Route | None:
        """Return the route if it is newer than the one returned before, else None.

        Never raises and never waits for anything but the local file system.
        """
        now_s = self._clock.monotonic_s()
        try:
            if not self._store.files.exists(self._next):
                if now_s < self._list_at_s:
                    return None
                self._list_at_s = now_s + self._interval_s
                # A damaged file is read again at each listing: the fault may have been the disk's.
                if self._store.highest() <= self.route.sequence:
                    return None
            return self._take()
        except (OSError, RouteStorageError) as error:
            self.damage = (Damage(str(self._store.folder), str(error)),)
            return None

    def _take(self) -> Route | None:
        reading = self._store.inspect()
        self.damage = reading.damage
        self._await(max(reading.highest, self.route.sequence))
        if reading.route is None or reading.route.sequence <= self.route.sequence:
            return None
        self.route = reading.route
        return reading.route

    def _await(self, highest: int) -> None:
        self._next = self._store.path(highest + 1)
