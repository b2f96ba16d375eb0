"""Signals: one for each cause, from its first sight until the evidence says that it is over."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import date
from enum import StrEnum
from typing import Any

import msgspec

from tidegate.core.digest import digest_bytes
from tidegate.core.error import InvalidSetting

QUIET_WINDOWS = 3
"""Windows without a finding after which a signal is over: one quiet day between two storms is no end."""


class Severity(StrEnum):
    """How soon someone should look."""

    CRITICAL = "critical"  # users are hurt now
    WARNING = "warning"  # quality has changed
    NOTICE = "notice"  # the world has changed; what that means for quality is not known


class State(StrEnum):
    """Where a signal stands."""

    OPEN = "open"
    ACKNOWLEDGED = "acknowledged"
    RESOLVED = "resolved"


class Finding(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one monitor found in one window.

    Attributes:
        kind: The monitor: `input`, `output`, `label`, `estimate`, `risk`, `slice`, `service`, `slo` ...
        subjects: What it concerns, the first before all: fields, a slice, an objective.
        title: One line for a person.
        severity: How soon someone should look.
        evidence: The figures, plain JSON values; `verdict`-grade: statistic, p-value, level, windows.
        remedy: What to do about it, in words.
        cost: What it is estimated to cost, in words; empty where nothing says.
    """

    kind: str
    subjects: tuple[str, ...]
    title: str
    severity: Severity
    evidence: dict[str, Any]
    remedy: str
    cost: str = ""


class Signal(msgspec.Struct, frozen=True, omit_defaults=True):
    """An actionable finding, over all windows in which it was made.

    Attributes:
        id: Twelve hexadecimal digits, the same however often the history is run again.
        service: Whose it is.
        kind, subjects, title, severity, evidence, remedy, cost: Of the finding; the latest but for
            the id.
        first_on, last_on: First and last day it was found.
        n_windows: In how many windows.
        state: Where it stands.
        owner: Who is told.
        replay: Command that shows the day it began.
        acknowledged_by: Who has seen it.
        muted_until_us: Until when nobody is told; 0: not muted.
        resolved_on: The day it ended.
        resolution: Why it ended, in words.
    """

    id: str
    service: str
    kind: str
    subjects: tuple[str, ...]
    title: str
    severity: Severity
    evidence: dict[str, Any]
    remedy: str
    first_on: date
    last_on: date
    cost: str = ""
    n_windows: int = 1
    state: State = State.OPEN
    owner: str = ""
    replay: str = ""
    acknowledged_by: str = ""
    muted_until_us: int = 0
    resolved_on: date | None = None
    resolution: str = ""

    def is_muted(self, now_us: int) -> bool:
        """Tell whether nobody should be told now."""
        return now_us < self.muted_until_us


class SignalBook:
    """Keeps the signals of one service; the same findings give the same signals."""

    def __init__(self, service: str, *, owner: str = "", signals: Iterable[Signal] = ()) -> None:
        self.service = service
        self.owner = owner
        self._signals = {signal.id: signal for signal in signals}
        self._quiet: dict[str, int] = {}

    @property
    def signals(self) -> list[Signal]:
        """All of them, the latest first."""
        return sorted(self._signals.values(), key=lambda each: (each.first_on, each.id), reverse=True)

    def get(self, id: str) -> Signal | None:
        """Return the signal whose id begins so, if there is one."""
        found = [signal for signal in self._signals.values() if id and signal.id.startswith(id)]
        return found[0] if len(found) == 1 else None

    def update(
        self,
        on: date,
        findings: Sequence[Finding],
        *,
        stamp: str = "",
        untested: Collection[str] = (),
    ) -> list[Signal]:
        """Take the findings of one day in, and return the signals that began or ended with it.

        `stamp` tells looks of the same day apart, where there are several. The silence of `untested`
        monitors, which did not look, means nothing.

        A finding belongs to the open signal of its kind with which it shares a subject. Signals that
        were not found again for `QUIET_WINDOWS` windows are over.
        """
        changed: list[Signal] = []
        seen: set[str] = set()
        for finding in findings:
            known = self._same(finding)
            if known is None:
                known = self._begin(on, finding, stamp)
                changed.append(known)
            else:
                known = msgspec.structs.replace(
                    known,
                    last_on=max(on, known.last_on),
                    n_windows=known.n_windows + (on > known.last_on),
                    subjects=tuple(dict.fromkeys([*known.subjects, *finding.subjects])),
                    severity=min(known.severity, finding.severity, key=list(Severity).index),
                    evidence=finding.evidence,
                    cost=finding.cost or known.cost,
                )
            self._signals[known.id] = known
            seen.add(known.id)
        for signal in list(self._signals.values()):
            if signal.state is State.RESOLVED or signal.kind in untested:
                continue
            self._quiet[signal.id] = 0 if signal.id in seen else self._quiet.get(signal.id, 0) + 1
            if self._quiet[signal.id] >= QUIET_WINDOWS:
                changed.append(self.resolve(signal.id, on, f"not found in {QUIET_WINDOWS} windows in a row"))
        return changed

    def _same(self, finding: Finding) -> Signal | None:
        for signal in self._signals.values():
            if (
                signal.kind == finding.kind
                and signal.state is not State.RESOLVED
                and set(signal.subjects) & set(finding.subjects)
            ):
                return signal
        return None

    def _begin(self, on: date, finding: Finding, stamp: str) -> Signal:
        name = f"{self.service}|{finding.kind}|{finding.subjects[0]}|{on.isoformat()}{stamp}"
        return Signal(
            id=digest_bytes(name.encode()).removeprefix("sha256:")[:12],
            service=self.service,
            kind=finding.kind,
            subjects=finding.subjects,
            title=finding.title,
            severity=finding.severity,
            evidence=finding.evidence,
            remedy=finding.remedy,
            first_on=on,
            last_on=on,
            cost=finding.cost,
            owner=self.owner,
            replay=f"tidegate monitor run {self.service} --over {on.isoformat()}..{on.isoformat()}",
        )

    def _changed(self, id: str, **changes: Any) -> Signal:
        signal = self._signals[id]
        if signal.state is State.RESOLVED:
            raise InvalidSetting(
                f"Signal {id} was resolved on {signal.resolved_on}: {signal.resolution}.",
                hint="A cause that comes back is a new signal.",
            )
        self._signals[id] = changed = msgspec.structs.replace(signal, **changes)
        return changed

    def acknowledge(self, id: str, by: str) -> Signal:
        """Note who has seen it; it stays until it is over.

        Raises:
            InvalidSetting: It is over.
        """
        return self._changed(id, state=State.ACKNOWLEDGED, acknowledged_by=by)

    def mute(self, id: str, until_us: int) -> Signal:
        """Tell nobody about it until then; it goes on being found.

        Raises:
            InvalidSetting: It is over.
        """
        return self._changed(id, muted_until_us=until_us)

    def resolve(self, id: str, on: date, why: str) -> Signal:
        """End it.

        Raises:
            InvalidSetting: It is over already.
        """
        return self._changed(id, state=State.RESOLVED, resolved_on=on, resolution=why)


def to_tell(signals: Iterable[Signal], *, now_us: int) -> list[Signal]:
    """Return those that someone should be told about now, the most severe first."""
    waiting = [signal for signal in signals if signal.state is State.OPEN and not signal.is_muted(now_us)]
    return sorted(waiting, key=lambda each: (list(Severity).index(each.severity), each.first_on))


def counts_by(signals: Iterable[Signal]) -> Mapping[tuple[str, str], int]:
    """Return how many signals are not over, by kind and severity: few enough labels for a metric."""
    found: dict[tuple[str, str], int] = {}
    for signal in signals:
        if signal.state is not State.RESOLVED:
            key = (signal.kind, signal.severity.value)
            found[key] = found.get(key, 0) + 1
    return found
