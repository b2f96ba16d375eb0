"""Telling people: each signal once, again and again until someone's door has opened."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import msgspec

from tidegate.core.clock import Clock
from tidegate.core.error import TidegateError
from tidegate.monitoring.signal import Signal, State, to_tell

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
    def key(self) -> str:
        """What tells it from others, the same in each life of the process; no secret."""
        ...

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


class Shelf(Protocol):
    """Where an outbox is kept while the process is away."""

    def load(self) -> bytes | None:
        """Return what was saved last; None: nothing, or nothing that can be read."""
        ...

    def save(self, content: bytes) -> None:
        """Keep it instead of what was there, wholly or not at all.

        Raises:
            OSError: It cannot be written.
        """
        ...


class _Letter(msgspec.Struct):
    """A message to one channel that is not delivered yet; times are microseconds UTC."""

    signal: Signal
    channel: str
    since_us: int
    next_us: int
    wait_s: float = FIRST_WAIT_S


class _Content(msgspec.Struct):
    """What an outbox knows: what waits, and which signals were taken for which channel."""

    letters: list[_Letter] = []
    taken: set[str] = set()


class Outbox:
    """Keeps what is not delivered yet. Waits twice as long after each failure, up to ten minutes.

    What it knows is saved after each message, so that a process that ends in between leaves nothing
    untold, and tells at most that one message twice: with the same idempotency key.

    Each channel may have a thread of its own that delivers to it; nothing waits for a message on its way.
    """

    def __init__(self, channels: Sequence[Channel], *, clock: Clock, shelf: Shelf | None = None) -> None:
        """Take up where the shelf says; without one nothing outlives the process."""
        self._channels = {channel.key: channel for channel in channels}
        self._clock = clock
        self._shelf = shelf
        self._lock = threading.Lock()  # of what is kept; never held while a message is on its way
        self._content = self._loaded()
        self.n_delivered = 0
        self.n_given_up = 0

    def _loaded(self) -> _Content:
        saved = self._shelf.load() if self._shelf is not None else None
        try:
            content = msgspec.json.decode(saved, type=_Content) if saved else _Content()
        except msgspec.MsgspecError:  # of another version: better told twice than not at all
            content = _Content()
        content.letters = [each for each in content.letters if each.channel in self._channels]
        return content

    @property
    def channels(self) -> tuple[str, ...]:
        """Keys of the channels."""
        return tuple(self._channels)

    @property
    def n_waiting(self) -> int:
        """Messages that are not delivered yet."""
        return len(self._content.letters)

    @property
    def due_s(self) -> float | None:
        """Seconds until the next try, at least 0; None: nothing waits."""
        with self._lock:
            next_us = min((letter.next_us for letter in self._content.letters), default=None)
        return None if next_us is None else max(0.0, (next_us - self._clock.wall_us()) / 1e6)

    def put(self, signals: Iterable[Signal]) -> list[str]:
        """Take all signals as they stand; those that people should be told of and were not wait for it.

        What is acknowledged or muted meanwhile is not delivered any more. Returns what went wrong, in words.
        """
        given = {f"{each.service}/{each.id}": each for each in signals}
        now_us = self._clock.wall_us()
        with self._lock:
            return self._take(given, now_us)

    def _take(self, given: Mapping[str, Signal], now_us: int) -> list[str]:
        content = self._content
        before = msgspec.json.encode(content)
        tell = to_tell(given.values(), now_us=now_us)
        for signal in tell:
            for key in self._channels:
                name = f"{key}/{signal.service}/{signal.id}"
                if name not in content.taken:
                    content.taken.add(name)
                    content.letters.append(_Letter(signal, key, now_us, now_us))
        still = []
        for letter in content.letters:
            letter.signal = now = given.get(f"{letter.signal.service}/{letter.signal.id}", letter.signal)
            if now.state is not State.ACKNOWLEDGED and not now.is_muted(now_us):
                still.append(letter)
        content.letters = still
        alive = {name for name, each in given.items() if each.state is not State.RESOLVED}
        content.taken = {name for name in content.taken if name.partition("/")[2] in alive}
        return self._save() if msgspec.json.encode(content) != before else []

    def deliver(self, channel: str | None = None) -> list[str]:
        """Try what is due, of one channel or all; returns what went wrong, in words.

        Args:
            channel: Its key. Two threads must not deliver to the same one.
        """
        troubles: list[str] = []
        with self._lock:
            letters = [each for each in self._content.letters if channel in (None, each.channel)]
        for letter in letters:
            if letter.next_us <= self._clock.wall_us():
                troubles += self._try(letter)
        return troubles

    def _try(self, letter: _Letter) -> list[str]:
        with self._lock:
            if not self._holds(letter):  # acknowledged or muted since
                return []
        channel, trouble = self._channels[letter.channel], None
        try:
            channel.send(letter.signal)
        except NotDelivered as error:
            trouble = f"{channel.name}: {error.message}"
        except Exception as error:  # noqa: BLE001 - a fault of one channel is no reason to tell nobody
            trouble = f"{channel.name}: It failed with {type(error).__name__}."
        now_us = self._clock.wall_us()
        with self._lock:
            if trouble is not None and now_us - letter.since_us < GIVE_UP_S * 1e6:
                letter.next_us = now_us + int(letter.wait_s * 1e6)
                letter.wait_s = min(2 * letter.wait_s, LONGEST_WAIT_S)
            else:
                self.n_delivered += trouble is None
                self.n_given_up += trouble is not None
                self._content.letters = [each for each in self._content.letters if each is not letter]
            return ([] if trouble is None else [trouble]) + self._save()

    def _holds(self, letter: _Letter) -> bool:
        return any(each is letter for each in self._content.letters)

    def _save(self) -> list[str]:
        if self._shelf is None:
            return []
        try:
            self._shelf.save(msgspec.json.encode(self._content))
        except OSError as error:
            return [f"What waits could not be saved, and would be told again after a restart: {error}."]
        return []


def message(signal: Signal) -> str:
    """Return a signal as a few lines for a person; never a value of a record."""
    over = f" Over since {signal.resolved_on.isoformat()}." if signal.resolved_on else ""
    lines = [
        f"[{signal.severity.value}] {signal.service}: {signal.title}",
        f"Since {signal.first_on.isoformat()}.{over}{f' Cost: {signal.cost}.' if signal.cost else ''}",
        f"What to do: {signal.remedy}",
        f"Look: tidegate signals show {signal.id}",
    ]
    if signal.owner:
        lines.append(f"Owner: {signal.owner}")
    return "\n".join(lines)
