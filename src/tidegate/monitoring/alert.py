"""Telling people: each signal once, again and again until someone's door has opened."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from tidegate.core.clock import Clock
from tidegate.core.error import TidegateError
from tidegate.monitoring.signal import Signal, to_tell

FIRST_WAIT_S = 5.0
LONGEST_WAIT_S = 600.0
GIVE_UP_S = 86_400.0
"""A day: whoever could not be reached for so long finds the signal in the list, not in a late message."""


class NotDelivered(TidegateError):
    """A message could not be handed over now; it is tried again."""

    code = "not_delivered"


class Channel(Protocol):
    """A way to people."""

    @property
    def name(self) -> str:
        """What it is called in logs; no secret."""
        ...

    def send(self, signal: Signal) -> None:
        """Hand a message over.

        Raises:
            NotDelivered: Not now.
        """
        ...


class _Letter:
    def __init__(self, signal: Signal, channel: Channel, now_s: float) -> None:
        self.signal = signal
        self.channel = channel
        self.since_s = now_s
        self.next_s = now_s
        self.wait_s = FIRST_WAIT_S


class Outbox:
    """Keeps what is not delivered yet. Waits twice as long after each failure, up to ten minutes."""

    def __init__(self, channels: Sequence[Channel], *, clock: Clock) -> None:
        self._channels = channels
        self._clock = clock
        self._letters: list[_Letter] = []
        self.n_delivered = 0
        self.n_given_up = 0

    @property
    def n_waiting(self) -> int:
        """Messages that are not delivered yet."""
        return len(self._letters)

    def put(self, signals: Iterable[Signal]) -> None:
        """Take what people should be told: not what is acknowledged, muted or over."""
        now_s = self._clock.monotonic_s()
        for signal in to_tell(signals, now_us=self._clock.wall_us()):
            self._letters += [_Letter(signal, channel, now_s) for channel in self._channels]

    def deliver(self) -> list[str]:
        """Try what is due; returns what went wrong, in words."""
        now_s = self._clock.monotonic_s()
        troubles, rest = [], []
        for letter in self._letters:
            if letter.next_s > now_s:
                rest.append(letter)
                continue
            try:
                letter.channel.send(letter.signal)
            except NotDelivered as error:
                troubles.append(f"{letter.channel.name}: {error.message}")
                if now_s - letter.since_s >= GIVE_UP_S:
                    self.n_given_up += 1
                    continue
                letter.next_s = now_s + letter.wait_s
                letter.wait_s = min(2 * letter.wait_s, LONGEST_WAIT_S)
                rest.append(letter)
            else:
                self.n_delivered += 1
        self._letters = rest
        return troubles


def message(signal: Signal) -> str:
    """Return a signal as a few lines for a person; never a value of a record."""
    lines = [
        f"[{signal.severity.value}] {signal.service}: {signal.title}",
        f"Since {signal.first_on.isoformat()}.{f' Cost: {signal.cost}.' if signal.cost else ''}",
        f"What to do: {signal.remedy}",
        f"Look: tidegate signals show {signal.id}",
    ]
    if signal.owner:
        lines.append(f"Owner: {signal.owner}")
    return "\n".join(lines)
