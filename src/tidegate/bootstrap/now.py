"""What is going on this minute, for a person at a terminal."""

from __future__ import annotations

from contextlib import closing

import msgspec

from tidegate.bootstrap.local import Local
from tidegate.core.error import NotFound
from tidegate.journal.ledger import Ledger
from tidegate.journal.reader import End, list_segments
from tidegate.journal.record import RecordKind
from tidegate.journal.tally import US_PER_MINUTE, Tally, merge
from tidegate.monitoring.signal import Signal, State
from tidegate.operation.signal import stored_signals
from tidegate.registry.store import StoreUnavailable


class ServiceNow(msgspec.Struct, frozen=True):
    """One service over the last minutes.

    Attributes:
        service: Its name.
        requests: Requests by minute, the oldest first.
        per_s: Requests a second over the last whole minute.
        failed: Share of requests that got an error, over all minutes shown.
        fallback: Share that something else than the model answered.
        p50_us, p99_us: Service times over all minutes shown, microseconds.
        n_outcomes: Outcomes that were joined to predictions of these minutes.
    """

    service: str
    requests: list[int]
    per_s: float
    failed: float
    fallback: float
    p50_us: float
    p99_us: float
    n_outcomes: int


class Now(msgspec.Struct, frozen=True):
    """Everything at one glance.

    Attributes:
        at_us: When, microseconds UTC.
        services: Those that were asked in the last minutes.
        behind_bytes: Bytes of the journal that are not counted yet; None without a ledger.
        signals: Signals that are not over, the latest first; None while the database cannot be reached.
    """

    at_us: int
    services: list[ServiceNow]
    behind_bytes: int | None
    signals: list[Signal] | None


def look(local: Local, *, minutes: int = 30) -> Now:
    """Read the ledger and the signals as they are now; needs no running server."""
    now_us = local.clock.wall_us()
    last = now_us // US_PER_MINUTE
    services: list[ServiceNow] = []
    behind: int | None = None
    try:
        ledger = Ledger(local.home.ledger, read_only=True)
    except NotFound:
        pass
    else:
        with closing(ledger):
            counted = {
                each.name: each.position if each.end is End.GROWING else None for each in ledger.segments()
            }
            behind = _behind(local, counted)
            by_service: dict[str, dict[int, Tally]] = {}
            for key, tally in ledger.tallies(kind=RecordKind.PREDICTION, since_minute=last - minutes + 1):
                by_service.setdefault(key.service, {}).setdefault(key.minute, Tally()).add(tally)
        services = [_service(name, found, last, minutes) for name, found in sorted(by_service.items())]
    signals: list[Signal] | None
    try:
        signals = [each for each in stored_signals(local.unit) if each.state is not State.RESOLVED]
    except StoreUnavailable:
        signals = None
    return Now(now_us, services, behind, signals)


def _service(name: str, found: dict[int, Tally], last: int, minutes: int) -> ServiceNow:
    total = merge(found.values())
    requests = [found[m].requests if m in found else 0 for m in range(last - minutes + 1, last + 1)]
    n = max(1, total.requests)
    return ServiceNow(
        name,
        requests,
        requests[-2] / 60 if len(requests) > 1 else 0.0,
        total.failed / n,
        total.fallback / n,
        total.quantile_us(0.5),
        total.quantile_us(0.99),
        total.joined,
    )


def _behind(local: Local, counted: dict[str, int | None]) -> int:
    total = 0
    for entry in list_segments(local.home.journal):
        position = counted.get(entry.name, 0)
        if position is None:  # counted to its end
            continue
        try:
            total += max(0, entry.path.stat().st_size - position)
        except FileNotFoundError:  # renamed or cleared away since it was listed
            continue
    return total
