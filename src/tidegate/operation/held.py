"""Batches that are unlike their source's history: held until a person releases or refuses them."""

from __future__ import annotations

from collections.abc import Collection
from enum import StrEnum

import msgspec

from tidegate.core.clock import Clock
from tidegate.core.decision import Decision, Evidence, Verdict
from tidegate.core.digest import Digest
from tidegate.core.error import Conflict, InvalidSetting, NotFound
from tidegate.core.identifier import check_name
from tidegate.core.principal import Principal
from tidegate.data.guard import MAX_BATCHES, GuardReport, guard_batch, read_history
from tidegate.data.report import Report
from tidegate.data.snapshot import read_snapshot, write_snapshot
from tidegate.data.source import Source
from tidegate.data.store import FileStore
from tidegate.data.validation import Validated
from tidegate.operation.data import NamedSnapshot, list_snapshots, name_snapshot, take_checked
from tidegate.operation.mutation import Effect, Intent, Outcome, Transaction, UnitOfWork, run
from tidegate.registry.store import PAGE, StoredDecision

KIND = "batch"
_RULE = "guard"
_SHORTEST = 4


class State(StrEnum):
    """What became of a batch."""

    HELD = "held"
    RELEASED = "released"
    REFUSED = "refused"


class HeldBatch(msgspec.Struct, frozen=True):
    """A batch that the guard did not let pass.

    Attributes:
        name: Of the data set it would be the next snapshot of.
        digest: Of its rows' manifest, in the store.
        n_rows: Rows.
        state: What became of it.
        report: Why it was held.
        principal: Who brought it.
        at_us: When, microseconds UTC.
        note: How the rows were made, in words.
        judged_by: Who released or refused it; None while it is held.
        reason: Why, in that person's words.
    """

    name: str
    digest: Digest
    n_rows: int
    state: State
    report: GuardReport
    principal: Principal
    at_us: int
    note: str = ""
    judged_by: Principal | None = None
    reason: str = ""


def guard_source(
    unit: UnitOfWork,
    store: FileStore,
    source: Source,
    *,
    name: str,
    label: str | None = None,
    hidden: Collection[str] = (),
) -> GuardReport:
    """Hold rows against the snapshots of the data set that they would join.

    Raises:
        InvalidSetting: The label is no column of the rows.
        UnreadableData: The rows cannot be read.
        Corrupt: An earlier snapshot is damaged.
    """
    taken = list_snapshots(unit, name)[-MAX_BATCHES:]
    history = read_history(store, [read_snapshot(store, one.digest) for one in taken])
    return guard_batch(source.frame.collect(), history, label=label, hidden=hidden)


def hold_batch(
    unit: UnitOfWork,
    store: FileStore,
    source: Source,
    report: GuardReport,
    *,
    name: str,
    principal: Principal,
    key: str,
    clock: Clock,
    parents: tuple[Digest, ...] = (),
    note: str = "",
    hidden: Collection[str] = (),
) -> Outcome[HeldBatch]:
    """Store rows without giving them the data set's name, until a person judges them.

    Raises:
        TidegateError: As `take_snapshot`.
    """
    check_name("data set", name)
    snapshot = write_snapshot(source, store, parents=parents, note=note, hidden=hidden)
    digest = snapshot.digest

    def perform(transaction: Transaction) -> Effect[HeldBatch]:
        held = HeldBatch(
            name=name,
            digest=digest,
            n_rows=snapshot.n_rows,
            state=State.HELD,
            report=report,
            principal=principal,
            at_us=clock.wall_us(),
            note=note,
        )
        transaction.decisions.append(_decision(held, principal, held.at_us))
        return Effect(held, name, {"digest": digest, "outcome": State.HELD.value})

    intent = Intent(
        action="batch.hold", principal=principal, key=key, request={"name": name, "digest": digest}
    )
    return run(unit, intent, perform=perform, result=HeldBatch, clock=clock)


class GuardedSnapshot(msgspec.Struct, frozen=True, omit_defaults=True):
    """What came of rows that were checked, and held against their data set's history.

    Attributes:
        report: What the checks found.
        snapshot: The accepted rows; None where they were rejected or held.
        quarantine: The rows put aside, in the data set `NAME.quarantine`; None if there are none.
        guard: What the guard found; None where it was not asked.
        held: The batch that waits for a person; None if none does.
    """

    report: Report
    snapshot: NamedSnapshot | None = None
    quarantine: NamedSnapshot | None = None
    guard: GuardReport | None = None
    held: HeldBatch | None = None


def take_guarded(
    unit: UnitOfWork,
    store: FileStore,
    validated: Validated,
    *,
    name: str,
    principal: Principal,
    key: str,
    clock: Clock,
    parents: tuple[Digest, ...] = (),
    note: str = "",
    hidden: Collection[str] = (),
    guard: bool = True,
    label: str | None = None,
) -> GuardedSnapshot:
    """Store the accepted rows as the next snapshot of `name`, or hold them if they are unlike the earlier.

    Without enough earlier snapshots nothing is known, and the rows are held as well: no evidence never
    means yes. Rows of a held batch that break a rule whose policy is to quarantine are not stored.

    Raises:
        TidegateError: As `take_checked` and `guard_source`.
    """
    found = None
    if guard and validated.accepted is not None:
        found = guard_source(unit, store, validated.accepted, name=name, label=label, hidden=hidden)
        if found.verdict is not Verdict.SAFE:
            held = hold_batch(
                unit,
                store,
                validated.accepted,
                found,
                name=name,
                principal=principal,
                key=key,
                clock=clock,
                parents=parents,
                note=note,
                hidden=hidden,
            ).result
            return GuardedSnapshot(validated.report, guard=found, held=held)
    taken = take_checked(
        unit,
        store,
        validated,
        name=name,
        principal=principal,
        key=key,
        clock=clock,
        parents=parents,
        note=note,
        hidden=hidden,
    )
    return GuardedSnapshot(taken.report, taken.snapshot, taken.quarantine, found)


def judge_batch(
    unit: UnitOfWork,
    store: FileStore,
    digits: str,
    *,
    release: bool,
    reason: str,
    principal: Principal,
    key: str,
    clock: Clock,
) -> Outcome[NamedSnapshot | None]:
    """Release a held batch, which makes it the next snapshot of its data set, or refuse it for good.

    Args:
        unit: The metadata database.
        store: Holds the rows.
        digits: The first digits of the batch's digest.
        release: Or refuse.
        reason: Why, for the audit log.
        principal: Who judges.
        key: Idempotency key.
        clock: Says when.

    Returns:
        The snapshot; None where the batch is refused.

    Raises:
        InvalidSetting: No reason is given, or it is no person who judges.
        NotFound: No batch is called so, or several are.
        Conflict: It was judged before.
    """
    if principal.kind != "person":
        raise InvalidSetting(f"A held batch is judged by a person; {principal.name} is a {principal.kind}.")
    if not reason.strip():
        raise InvalidSetting("A held batch is judged with a reason.", hint="Say it with --reason '...'.")
    state = State.RELEASED if release else State.REFUSED
    start = digits.removeprefix("sha256:").lower()

    def perform(transaction: Transaction) -> Effect[NamedSnapshot | None]:
        # Found inside: two people who judge at once must not both succeed.
        held = _find(_batches(transaction), start)
        if held.state is not State.HELD:
            raise Conflict(
                f"The batch {start[:12]} of {held.name!r} was {held.state} before.", digest=held.digest
            )
        at_us = clock.wall_us()
        judged = msgspec.structs.replace(held, state=state)
        transaction.decisions.append(_decision(judged, principal, at_us, reason=reason))
        taken = None
        if release:
            taken = name_snapshot(
                transaction,
                read_snapshot(store, held.digest),
                name=held.name,
                principal=principal,
                at_us=at_us,
                note=held.note or "held by the guard, released by a person",
                evidence=[_evidence(held)],
            )
        return Effect(taken, held.name, {"digest": held.digest, "outcome": state.value})

    intent = Intent(
        action="batch.release" if release else "batch.refuse",
        principal=principal,
        key=key,
        request={"batch": start, "reason": reason},
    )
    return run(unit, intent, perform=perform, result=NamedSnapshot | None, clock=clock)  # type: ignore[arg-type]  # a union is no type to mypy


def list_batches(unit: UnitOfWork, name: str | None = None) -> list[HeldBatch]:
    """Return the batches that were ever held, of one data set or of all, oldest first."""
    with unit.read() as transaction:
        return [each for each in _batches(transaction) if name in (None, each.name)]


def _batches(transaction: Transaction) -> list[HeldBatch]:
    found: dict[tuple[str, Digest, int], HeldBatch] = {}
    open_: dict[tuple[str, Digest], tuple[str, Digest, int]] = {}
    after = 0
    while page := transaction.decisions.page(None, kind=KIND, after=after, limit=PAGE):
        for stored in page:
            held = _held(stored)
            same = (held.name, held.digest)
            if held.state is State.HELD:
                # The same rows may be brought again while they are held, or after they were refused.
                found.setdefault(open_.setdefault(same, (*same, stored.id)), held)
            elif same in open_:
                place = open_.pop(same)
                found[place] = msgspec.structs.replace(
                    found[place],
                    state=held.state,
                    judged_by=stored.decision.principal,
                    reason=stored.decision.reason,
                )
        after = page[-1].id
    return list(found.values())


def _find(batches: list[HeldBatch], start: str) -> HeldBatch:
    matching = [
        each
        for each in batches
        if len(start) >= _SHORTEST and each.digest.removeprefix("sha256:").startswith(start)
    ]
    waiting = [each for each in matching if each.state is State.HELD] or matching[-1:]
    if len(waiting) != 1:
        raise NotFound(
            f"{'No batch is' if not waiting else f'{len(waiting)} batches are'} called {start!r}.",
            hint="`tidegate data held` lists them; name one by its first digits.",
            batch=start,
        )
    return waiting[0]


def _decision(held: HeldBatch, principal: Principal, at_us: int, *, reason: str = "") -> Decision:
    return Decision(
        kind=KIND,
        service=held.name,
        outcome=held.state.value,
        principal=principal,
        at_us=at_us,
        reason=reason or held.note,
        evidence=[_evidence(held)],
    )


def _evidence(held: HeldBatch) -> Evidence:
    report = held.report
    return Evidence(
        rule=_RULE,
        verdict=report.verdict,
        reason="; ".join(each.message for each in report.departures)
        or ("too few earlier batches" if report.verdict is Verdict.UNDECIDED else ""),
        observed={
            "digest": held.digest,
            "n_rows": held.n_rows,
            "note": held.note,
            "report": msgspec.to_builtins(report),
        },
    )


def _held(stored: StoredDecision) -> HeldBatch:
    decision = stored.decision
    observed = decision.evidence[0].observed
    return HeldBatch(
        name=decision.service,
        digest=Digest(observed["digest"]),
        n_rows=observed["n_rows"],
        state=State(decision.outcome),
        report=msgspec.convert(observed["report"], GuardReport),
        principal=decision.principal,
        at_us=decision.at_us,
        note=observed["note"],
    )
