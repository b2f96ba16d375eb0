"""Signals that outlive the process: each change of one is a decision with its evidence, audited."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from tidegate.core.clock import Clock
from tidegate.core.decision import Decision, Evidence, Verdict
from tidegate.core.error import NotFound
from tidegate.core.principal import Principal
from tidegate.monitoring.signal import Signal, SignalBook, State
from tidegate.operation.decide import record_decision
from tidegate.operation.key import new_key
from tidegate.operation.mutation import UnitOfWork
from tidegate.registry.store import PAGE

KIND = "signal"


def stored_signals(unit: UnitOfWork, service: str | None = None) -> list[Signal]:
    """Return the signals of one service or all as they stand, the latest first."""
    found: dict[tuple[str, str], Signal] = {}
    after = 0
    while True:
        with unit.read() as transaction:
            page = transaction.decisions.page(service, kind=KIND, after=after)
        for stored in page:
            after = stored.id
            observed = stored.decision.evidence[0].observed
            signal = msgspec.convert(observed["signal"], Signal)
            found[signal.service, signal.id] = signal
        if len(page) < PAGE:
            break
    return sorted(found.values(), key=lambda each: (each.first_on, each.id), reverse=True)


def keep_signals(
    unit: UnitOfWork, signals: Iterable[Signal], *, principal: Principal, clock: Clock
) -> list[Signal]:
    """Store what is new about signals; returns those that began or ended.

    What people said of a signal (acknowledged, muted, resolved) stays as they said it.
    """
    given = list(signals)
    known = {
        (each.service, each.id): each
        for service in {each.service for each in given}
        for each in stored_signals(unit, service)
    }
    changed = []
    for signal in sorted(given, key=lambda each: each.first_on):
        before = known.get((signal.service, signal.id))
        merged = signal if before is None else _merged(before, signal)
        if merged == before:
            continue
        _store(unit, merged, _word(before, merged), principal=principal, clock=clock)
        if before is None or before.state is not merged.state:
            changed.append(merged)
    return changed


def _merged(before: Signal, now: Signal) -> Signal:
    if before.state is State.RESOLVED:
        return before
    state = before.state if now.state is State.OPEN else now.state
    return msgspec.structs.replace(
        now, state=state, acknowledged_by=before.acknowledged_by, muted_until_us=before.muted_until_us
    )


def _word(before: Signal | None, now: Signal) -> str:
    if before is None:
        return "opened" if now.state is not State.RESOLVED else "opened-and-resolved"
    return "updated" if before.state is now.state else now.state.value


def _store(
    unit: UnitOfWork, signal: Signal, word: str, *, principal: Principal, clock: Clock, reason: str = ""
) -> None:
    resolved = signal.state is State.RESOLVED
    evidence = Evidence(
        rule=f"monitor-{signal.kind}",
        verdict=Verdict.SAFE if resolved else Verdict.REGRESSED,
        reason=signal.resolution if resolved else signal.title,
        observed={"signal": msgspec.to_builtins(signal)},
        statistic=signal.evidence.get("p_value"),
    )
    decision = Decision(
        kind=KIND,
        service=signal.service,
        outcome=word,
        principal=principal,
        at_us=clock.wall_us(),
        reason=reason,
        evidence=[evidence],
    )
    record_decision(unit, decision, key=new_key(), clock=clock)


def change_signal(
    unit: UnitOfWork,
    id: str,
    change: Callable[[SignalBook, str], Signal],
    *,
    word: str,
    principal: Principal,
    clock: Clock,
) -> Signal:
    """Have a person acknowledge, mute or resolve a signal.

    Args:
        unit: Where it is kept.
        id: The first digits of its id, as many as tell it from others.
        change: What is done, on the book of its service and its whole id.
        word: What that is called in the decision.
        principal: Who does it.
        clock: Says when.

    Raises:
        NotFound: No signal or several begin so.
        InvalidSetting: The signal is over.
    """
    found = [signal for signal in stored_signals(unit) if id and signal.id.startswith(id)]
    if len(found) != 1:
        raise NotFound(
            f"{len(found)} signals have an id that begins with {id!r}; expected one.",
            hint="`tidegate signals list --all` shows them.",
            id=id,
        )
    book = SignalBook(found[0].service, signals=found)
    changed = change(book, found[0].id)
    _store(unit, changed, word, principal=principal, clock=clock)
    return changed
