"""Answers that wait for a disk that stands: until it goes on, or until their callers' time is over."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from math import inf

from tidegate.core.clock import Clock
from tidegate.journal.lane import JournalLane, Writing
from tidegate.journal.record import JournalMode, JournalUnavailable
from tidegate.serving.alarm import Alarm
from tidegate.serving.call import Call, Group

_SHARE = 0.9
"""Part of a request's time after which its answer leaves as the journal mode says: it has a way to go."""


class Held:
    """The answers of one write, or of one sync; an entry is None once it has left."""

    __slots__ = ("entries", "was_answered", "writing")

    def __init__(self, groups: Sequence[Group], writing: Writing | None) -> None:
        self.entries: list[Group | None] = list(groups)
        self.writing = writing
        self.was_answered = False  # whether an answer has left although nothing was written yet


class Hold:
    """Keeps answers of one data plane."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        lane: JournalLane,
        *,
        clock: Clock,
        release: Callable[[Group, JournalUnavailable], None],
    ) -> None:
        """Keep nothing yet.

        Args:
            loop: The event loop.
            lane: Where the records go.
            clock: Time.
            release: Answers a group whose record is not written, as its journal mode says.
        """
        self._lane = lane
        self._clock = clock
        self._release = release
        self._held: set[Held] = set()
        self._alarm = Alarm(self._look, loop.call_later, clock.monotonic_s)

    def __bool__(self) -> bool:
        return bool(self._held)

    def keep(self, groups: Sequence[Group], writing: Writing | None = None) -> Held:
        """Keep answers until `take`; those that need not wait for a disk known to stand leave at once.

        Args:
            groups: In the order of the frames that are being written.
            writing: The frames; None if they wait for a sync.
        """
        held = Held(groups, writing)
        self._held.add(held)
        if writing is not None and self._lane.is_stalled:
            for at, group in enumerate(groups):
                if group.arm.version.journal is JournalMode.AVAILABLE:
                    held.entries[at] = None
                    held.was_answered = True
                    self._release(group, self._stalled())
        self._watch([held])
        return held

    def take(self, held: Held) -> list[Group | None]:
        """Return the groups that are still kept, in their places."""
        self._held.discard(held)
        return held.entries

    def _look(self) -> None:
        now_s = self._clock.monotonic_s()
        for held in list(self._held):
            for at, group in enumerate(held.entries):
                if group is None:
                    continue
                late = [call for call in group.calls if _limit_s(call) <= now_s]
                if late:
                    rest = [call for call in group.calls if _limit_s(call) > now_s]
                    held.entries[at] = _part(group, rest) if rest else None
                    held.was_answered |= group.arm.version.journal is JournalMode.AVAILABLE
                    self._release(_part(group, late) if rest else group, self._stalled())
            if not any(held.entries) and self._is_over(held):
                self._held.discard(held)
        self._watch(self._held)

    def _watch(self, several: Iterable[Held]) -> None:
        kept = (group for held in several for group in held.entries if group is not None)
        self._alarm.set(min((_limit_s(call) for group in kept for call in group.calls), default=inf))

    def _is_over(self, held: Held) -> bool:
        """Tell whether nothing more is to come of it.

        What was refused to every caller should not be in the journal, if that can be helped; what was
        answered should.
        """
        return held.writing is None or (not held.was_answered and self._lane.withdraw(held.writing))

    def _stalled(self) -> JournalUnavailable:
        return JournalUnavailable(
            f"The disk of the journal has not taken a write for {self._lane.stalled_s:.1f} s.",
            hint="Check the disk; the journal goes on by itself when it does.",
        )


def _limit_s(call: Call) -> float:
    return call.started_s + _SHARE * (call.deadline_s - call.started_s)


def _part(group: Group, calls: list[Call]) -> Group:
    part = group.part(calls)
    part.error, part.flags, part.answered_by = group.error, group.flags, group.answered_by
    return part
