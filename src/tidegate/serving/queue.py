"""The queue before a slow model: who is served next, and who is told at once that it will not be.

A queue that is longer than its model can answer in time does no good to anybody: first in, first out,
everyone waits until the answer is of no use. As long as the queue runs empty now and then, it is
first in, first out, and also while it never does but nobody waits for a good part of his time: so many
patient callers are no overload. Once somebody always has for a while, it is: the newest are served first,
by criticality, for they are those who still can be answered in time, and who has waited too long for
that is refused. Pure: time comes as an argument.

Source: Nichols & Jacobson, "Controlling Queue Delay", ACM Queue 10(5), 2012; Maurer, "Fail at Scale",
ACM Queue 13(8), 2015 (the adaptive timeout and the turn to last in, first out); METHODS, section 5.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from math import inf
from typing import Generic, NamedTuple, TypeVar

from tidegate.contract.objective import Criticality

INTERVAL_S = 0.1
"""How long a queue may stand before it is more than a burst."""

MIN_TARGET_S = 0.005
"""What a request may wait at least, however short the calls are: below, the machine's own jitter is cut."""

STANDING_SHARE = 0.25
"""Part of a request's time that it may wait in a queue that never runs empty."""

T = TypeVar("T")


class Waiting(Generic[T]):
    """One request in the queue."""

    __slots__ = ("cancelled", "criticality", "deadline_s", "item", "n_rows", "number", "since_s")

    def __init__(
        self,
        item: T,
        *,
        n_rows: int,
        deadline_s: float,
        criticality: int,
        since_s: float,
        number: int,
    ) -> None:
        self.item = item
        self.n_rows = n_rows
        self.deadline_s = deadline_s
        self.criticality = criticality
        self.since_s = since_s
        self.number = number
        self.cancelled = False


class Taken(NamedTuple, Generic[T]):
    """What leaves the queue at once.

    Attributes:
        batch: What goes into the next call, in the order of arrival.
        late: What cannot be answered before its deadline any more.
        shed: What could be, but newer or more critical requests are served instead.
    """

    batch: list[T]
    late: list[T]
    shed: list[T]


class CallQueue(Generic[T]):
    """Requests that wait for one model."""

    def __init__(
        self,
        *,
        max_batch_rows: int,
        call_s: Callable[[int], float],
        interval_s: float = INTERVAL_S,
        min_target_s: float = MIN_TARGET_S,
    ) -> None:
        """Make an empty queue.

        Args:
            max_batch_rows: Rows of one call; a request with more goes alone.
            call_s: Expected duration of a call of that many rows, seconds; 0 where nothing is known.
            interval_s: After which a queue that was never empty is a standing one.
            min_target_s: Least time that a request may wait in a standing queue.
        """
        self.rows = 0
        self._max_batch_rows = max_batch_rows
        self._call_s = call_s
        self._interval_s = interval_s
        self._min_target_s = min_target_s
        self._classes: tuple[deque[Waiting[T]], ...] = tuple(deque() for _ in Criticality)
        self._length = 0
        self._number = 0
        self._calm_s = -inf  # when it was last seen empty, or its oldest not to have waited too long
        self._stands = False

    def __len__(self) -> int:
        return self._length

    def is_standing(self, now_s: float) -> bool:
        """Tell whether more comes than can be served: for an interval the oldest has waited too long.

        Once it stands it does so, whenever the oldest has waited too long, until it has been empty.
        """
        if self._length == 0:
            return False
        is_stale = any(self._is_stale(waiting[0], now_s) for waiting in self._classes if waiting)
        if not is_stale:
            self._calm_s = now_s
        elif now_s - self._calm_s > self._interval_s:
            self._stands = True
        return is_stale and self._stands

    def _is_stale(self, entry: Waiting[T], now_s: float) -> bool:
        """Tell whether a request has waited longer than one call and a good part of its time."""
        waited_s = now_s - entry.since_s
        least_s = max(self._min_target_s, self._call_s(self._max_batch_rows))
        return waited_s > max(least_s, STANDING_SHARE * (entry.deadline_s - entry.since_s))

    def put(
        self,
        item: T,
        *,
        n_rows: int,
        deadline_s: float,
        now_s: float,
        criticality: int = Criticality.NORMAL,
    ) -> Waiting[T]:
        """Add a request; the answer is what `cancel` takes."""
        if self._length == 0:
            self._calm(now_s)
        self._number += 1
        entry = Waiting(
            item,
            n_rows=n_rows,
            deadline_s=deadline_s,
            criticality=criticality,
            since_s=now_s,
            number=self._number,
        )
        self._classes[min(max(criticality, 0), len(self._classes) - 1)].append(entry)
        self._length += 1
        self.rows += n_rows
        return entry

    def cancel(self, entry: Waiting[T]) -> None:
        """Forget a request whose caller is gone; it costs nothing more."""
        if not entry.cancelled:
            entry.cancelled = True
            self._leave(entry)

    def take(self, now_s: float) -> Taken[T]:
        """Take the next batch out: the largest that is done before the first deadline in it.

        What could not be answered in time is left out before the batch is formed, so that it takes no
        time from what still can be. If that is everything, one is tried all the same: else a
        pessimistic estimate would never be corrected.
        """
        standing = self.is_standing(now_s)
        batch: list[Waiting[T]] = []
        late: list[Waiting[T]] = []
        hopeless: Waiting[T] | None = None
        n_rows, due_s = 0, inf
        while (source := self._next_class(standing)) is not None:
            entry = source[-1] if standing else source[0]
            if not entry.cancelled:
                if entry.deadline_s <= now_s + self._call_s(entry.n_rows):
                    if entry.deadline_s > now_s and hopeless is None:
                        hopeless = entry
                    else:
                        late.append(entry)
                else:
                    total = n_rows + entry.n_rows
                    earliest_s = min(due_s, entry.deadline_s)
                    if batch and (total > self._max_batch_rows or now_s + self._call_s(total) > earliest_s):
                        break
                    batch.append(entry)
                    n_rows, due_s = total, earliest_s
                self._leave(entry)
                entry.cancelled = True
            _ = source.pop() if standing else source.popleft()
        if hopeless is not None:
            (late if batch else batch).append(hopeless)
        shed = self._shed(now_s) if standing else []
        if self._length == 0:
            self._calm(now_s)
        batch.sort(key=lambda entry: entry.number)
        return Taken(
            [each.item for each in batch], [each.item for each in late], [each.item for each in shed]
        )

    def _next_class(self, standing: bool) -> deque[Waiting[T]] | None:
        """Return the class that the next request comes from: in a standing queue the most critical."""
        if self._length == 0:
            for waiting in self._classes:
                waiting.clear()  # of the cancelled
            return None
        if standing:
            return next(waiting for waiting in reversed(self._classes) if waiting)
        return min((waiting for waiting in self._classes if waiting), key=lambda waiting: waiting[0].number)

    def _shed(self, now_s: float) -> list[Waiting[T]]:
        """Give up what has waited too long: it would only wait on until its deadline."""
        shed = []
        for waiting in self._classes:
            while waiting and (waiting[0].cancelled or self._is_stale(waiting[0], now_s)):
                entry = waiting.popleft()
                if not entry.cancelled:
                    entry.cancelled = True
                    self._leave(entry)
                    shed.append(entry)
        return shed

    def _calm(self, now_s: float) -> None:
        self._calm_s = now_s
        self._stands = False

    def _leave(self, entry: Waiting[T]) -> None:
        self._length -= 1
        self.rows -= entry.n_rows
