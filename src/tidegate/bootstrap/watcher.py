"""The watcher: what the monitors find while a server runs, beside the controller."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Mapping
from contextlib import closing
from datetime import UTC, date, datetime, timedelta

import msgspec

from tidegate.adapter.notify.channel import channels_of
from tidegate.adapter.notify.shelf import FileShelf
from tidegate.bootstrap.local import Local
from tidegate.contract.objective import Objectives
from tidegate.core.error import InvalidSetting, NotFound, TidegateError
from tidegate.journal.ledger import Ledger
from tidegate.journal.record import RecordKind
from tidegate.journal.tally import US_PER_MINUTE, Tally
from tidegate.monitoring.alert import Outbox
from tidegate.monitoring.burn import Burn, burning
from tidegate.monitoring.refusal import (
    BEFORE_MINUTES,
    FEATURE_FAULTS,
    FEWEST,
    WATCHED,
    WINDOW_MINUTES,
    finding_of,
    refused,
)
from tidegate.monitoring.signal import Finding, Severity, SignalBook, counts_by
from tidegate.monitoring.subject import Subject
from tidegate.operation.monitor import watched_subject
from tidegate.operation.signal import keep_signals, stored_signals

_log = logging.getLogger("tidegate.watcher")

ALERT_VARIABLE = "TIDEGATE_ALERT_URLS"
_ROUND_S = 30.0
_RETRY_S, _LONGEST_RETRY_S = 900.0, 21_600.0
_TELL_S = 1.0  # most messages take less; those that take longer are not waited for
_LOOK_BACK_MINUTES = 360
_NOW = ("slo", "refusal")
_REMEMBER_US = 600_000_000
_PERIOD_DAYS = 60  # of which a day's run is made: long enough for what creeps, seconds to look at


def make_watcher(local: Local) -> Watcher:
    """Return a watcher that tells the addresses of the settings.

    An address that cannot be used is logged: it must not keep a server from starting.
    """
    try:
        channels = channels_of(os.environ.get(ALERT_VARIABLE, "").split(","))
    except TidegateError as error:
        _log.error("alert.unusable: %s", error)
        channels = []
    shelf = FileShelf(local.home.root / "alerts.json")
    return Watcher(local, Outbox(channels, clock=local.clock, shelf=shelf))


class Watcher(threading.Thread):
    """Every half minute the burn rates, after each day all monitors; whatever begins is told."""

    def __init__(self, local: Local, outbox: Outbox) -> None:
        super().__init__(name="watcher", daemon=True)
        self._local = local
        self._outbox = outbox
        self._stopping = threading.Event()
        self._couriers: dict[str, threading.Thread] = {}
        self._books: dict[str, SignalBook] = {}
        self._subjects: dict[str, tuple[Subject, str]] = {}
        self._remembered = 0
        # service -> the day on which its monitors ran, when they may be tried again, the wait after that
        self._daily_of: dict[str, tuple[date | None, float, float]] = {}
        self.open_signals: Mapping[tuple[str, str, str], int] = {}

    def run(self) -> None:
        """Look, until told to stop; a fault is seen and does not end it."""
        while not self._stopping.is_set():
            try:
                self.look()
            except TidegateError as error:
                _log.warning("watcher.delayed: %s", error)
            except Exception:  # noqa: BLE001 - whatever it is, it must be seen and must not end the watching
                _log.exception("watcher.failed")
            self._rest()

    def _rest(self) -> None:
        """Wait for the next look; messages that are due meanwhile are tried again."""
        ends_s = self._local.clock.monotonic_s() + _ROUND_S
        while not self._stopping.is_set():
            left_s = ends_s - self._local.clock.monotonic_s()
            due_s = self._outbox.due_s
            if left_s <= 0:
                return
            self._stopping.wait(left_s if due_s is None else min(left_s, due_s))
            if due_s is not None and due_s < left_s and not self._stopping.is_set():
                self._tell()

    def _tell(self) -> None:
        """Deliver what is due, each channel in a thread of its own: a slow one holds up nothing else."""
        ends_s = self._local.clock.monotonic_s() + _TELL_S
        for channel in self._outbox.channels:
            courier = self._couriers.get(channel)
            if courier is None or not courier.is_alive():
                courier = threading.Thread(target=self._deliver, args=(channel,), name="courier", daemon=True)
                self._couriers[channel] = courier
                courier.start()
        for courier in self._couriers.values():
            courier.join(max(0.0, ends_s - self._local.clock.monotonic_s()))

    def _deliver(self, channel: str) -> None:
        for trouble in self._outbox.deliver(channel):
            _log.warning("alert.delayed: %s", trouble)

    def stop(self) -> None:
        """End after the present look."""
        self._stopping.set()

    def look(self) -> None:
        """Look once at everything that is due."""
        now_us = self._local.clock.wall_us()
        today = datetime.fromtimestamp(now_us / 1e6, UTC).date()
        if now_us // _REMEMBER_US != self._remembered:  # a new version may promise something else
            self._remembered = now_us // _REMEMBER_US
            self._subjects.clear()
        # of thousands of services most are not asked for hours: who was, and who was burning, is looked at
        for service in sorted({*self._asked(now_us // US_PER_MINUTE), *self._books}):
            try:
                self._burn(service, now_us, today)
            except Exception:  # noqa: BLE001 - one service must not keep others unwatched
                _log.exception("burn.failed service=%s", service)
        for folder in sorted(self._local.home.records.iterdir()):
            if folder.is_dir():
                self._daily(folder.name, today)
        counted: dict[tuple[str, str, str], int] = {}
        stored = stored_signals(self._local.unit)
        for signal in stored:
            for key, count in counts_by([signal]).items():
                counted[signal.service, *key] = counted.get((signal.service, *key), 0) + count
        self.open_signals = counted
        # of those that are stored, not those that this look changed: nothing is lost between the two
        for trouble in self._outbox.put(stored):
            _log.warning("alert.unsaved: %s", trouble)
        self._tell()

    def _asked(self, minute: int) -> list[str]:
        """Return the services that were asked in the last hours."""
        try:
            ledger = Ledger(self._local.home.ledger, read_only=True)
        except NotFound:  # nothing was asked yet
            return []
        since = minute - _LOOK_BACK_MINUTES
        with closing(ledger):
            refused_ones = {service for service, _, _ in ledger.refusals(since_minute=since) if service}
            return [*{*ledger.asked_since(since), *refused_ones}]

    def _subject(self, service: str) -> tuple[Subject, str]:
        found = self._subjects.get(service)
        if found is None:
            found = watched_subject(self._local.unit, self._local.artifacts, service)
            self._subjects[service] = found
        return found

    def _burn(self, service: str, now_us: int, today: date) -> None:
        """Look at what cannot wait for the day's end: objectives, and requests that are refused."""
        try:
            subject, _ = self._subject(service)
        except NotFound:  # its records are older than this database
            return
        minute = now_us // US_PER_MINUTE
        findings = self._found_now(service, minute, subject.objectives)
        book = self._books.get(service)
        if book is None:
            known = [each for each in stored_signals(self._local.unit, service) if each.kind in _NOW]
            book = SignalBook(service, owner=subject.monitoring.owner, signals=known)
            self._books[service] = book
        before = {signal.id: signal for signal in book.signals}
        book.update(today, findings, stamp=str(minute))
        changed = [signal for signal in book.signals if before.get(signal.id) != signal]
        keep_signals(self._local.unit, changed, principal=self._local.principal, clock=self._local.clock)

    def _found_now(self, service: str, minute: int, objectives: Objectives) -> list[Finding]:
        try:
            ledger = Ledger(self._local.home.ledger, read_only=True)
        except NotFound:  # nothing was asked yet
            return []
        with closing(ledger):
            hour = minute - WINDOW_MINUTES + 1
            promises = objectives.availability is not None or objectives.latency_p99_ms is not None
            minutes = _tallies(ledger, service, minute - _LOOK_BACK_MINUTES if promises else hour)
            causes = _causes(ledger, service, minutes, hour)
            if sum(causes.values()) < FEWEST:  # as nearly always: a whole day is not read for it
                causes = {}
            else:
                day = _tallies(ledger, service, hour - BEFORE_MINUTES)
                causes = _causes(ledger, service, day, hour - BEFORE_MINUTES)
                answered = {at: tally.requests for at, tally in day.items()}
        findings = [_burning(each) for each in burning(minutes, minute, objectives)]
        if causes:
            findings += [finding_of(each) for each in refused(causes, answered, minute)]
        return findings

    def _daily(self, service: str, today: date) -> None:
        """Run a service's monitors once a day; where that fails again after a while, and a longer one."""
        done_on, retry_s, wait_s = self._daily_of.get(service, (None, 0.0, _RETRY_S))
        now_s = self._local.clock.monotonic_s()
        if done_on == today or now_s < retry_s:
            return
        try:
            self._yesterday(service, today)
        except Exception:  # noqa: BLE001 - the records of one service must not keep others unwatched
            _log.exception("monitor.failed service=%s; next try in %.0f s", service, wait_s)
            self._daily_of[service] = (done_on, now_s + wait_s, min(2 * wait_s, _LONGEST_RETRY_S))
        else:
            self._daily_of[service] = (today, 0.0, _RETRY_S)

    def _yesterday(self, service: str, today: date) -> None:
        """Run the monitors over the days that are whole."""
        from tidegate.bootstrap.monitor import watched_history
        from tidegate.monitoring.run import signals_of

        try:
            subject, history = watched_history(self._local, service)
            days = [day for day in history.days() if day < today]
        except NotFound:
            return
        rest = days[subject.monitoring.reference_days :]
        if not rest:  # the reference is not whole yet
            return
        first = max(rest[0], today - timedelta(days=_PERIOD_DAYS))
        try:
            found = signals_of(
                history,
                subject,
                over=(first, rest[-1]),
                reference=(days[0], days[subject.monitoring.reference_days - 1]),
            )
        except InvalidSetting as error:
            _log.warning("monitor.skipped service=%s: %s", service, error)
            return
        keep_signals(self._local.unit, found, principal=self._local.principal, clock=self._local.clock)


def _tallies(ledger: Ledger, service: str, since_minute: int) -> dict[int, Tally]:
    """Return what happened minute by minute, all versions and arms together."""
    minutes: dict[int, Tally] = {}
    for key, tally in ledger.tallies(service, kind=RecordKind.PREDICTION, since_minute=since_minute):
        minutes.setdefault(key.minute, Tally()).add(tally)
    return minutes


def _causes(
    ledger: Ledger, service: str, minutes: Mapping[int, Tally], since_minute: int
) -> dict[tuple[int, str], int]:
    """Return by minute and cause how many requests were refused, or failed for want of features."""
    found = {
        (at, what): count
        for (_, at, what), count in ledger.refusals(service, since_minute=since_minute).items()
        if what.partition("(")[0] in WATCHED
    }
    for at, tally in minutes.items():
        if at >= since_minute:
            found |= {(at, code): tally.errors[code] for code in FEATURE_FAULTS if code in tally.errors}
    return found


def _burning(burn: Burn) -> Finding:
    share = burn.n_bad / max(1, burn.n_requests)
    what = "answered with an error" if burn.objective == "availability" else "slower than promised"
    return Finding(
        kind="slo",
        subjects=(burn.objective,),
        title=f"The budget of {burn.objective} burns {burn.rate:.1f} times too fast: {share:.2%} {what}",
        severity=Severity.CRITICAL,
        evidence=msgspec.to_builtins(burn),
        remedy="Look at `tidegate status` and the errors: `tidegate journal show --errors`. "
        "If a version moved since, `tidegate rollback`.",
        cost=f"{burn.n_bad:,} requests in {burn.long_minutes} minutes",
    )
