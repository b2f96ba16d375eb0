"""Take snapshots of data, list, find and compare them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import msgspec

from tidegate.contract.schema import Schema
from tidegate.core.clock import Clock
from tidegate.core.decision import Decision, Evidence, Verdict
from tidegate.core.digest import Digest, is_digest
from tidegate.core.error import InvalidSetting, NotFound
from tidegate.core.identifier import check_name
from tidegate.core.principal import Principal
from tidegate.data.report import Policy, Report
from tidegate.data.rule import Rule
from tidegate.data.snapshot import Snapshot, read_snapshot, scan_snapshot, write_snapshot
from tidegate.data.source import Source
from tidegate.data.store import FileStore
from tidegate.data.summary import ColumnSummary
from tidegate.data.validation import Validated, validate
from tidegate.operation.mutation import Effect, Intent, Outcome, Transaction, UnitOfWork, run
from tidegate.registry.store import PAGE, StoredDecision

KIND = "snapshot"
"""Of the decisions that give a snapshot its name: which data are the data of a name is decided, once each."""

ACTION = "snapshot.take"


class NamedSnapshot(msgspec.Struct, frozen=True):
    """A snapshot under the name of its data set.

    Attributes:
        name: Of the data set.
        number: Counts the snapshots of that name, from 1.
        digest: Of the manifest.
        content: Of the rows alone.
        n_rows: Rows.
        principal: Who took it.
        at_us: When, microseconds UTC.
        note: How it was made, in words.
    """

    name: str
    number: int
    digest: Digest
    content: Digest
    n_rows: int
    principal: Principal
    at_us: int
    note: str = ""

    @property
    def label(self) -> str:
        """`name@number`."""
        return f"{self.name}@{self.number}"


def take_snapshot(
    unit: UnitOfWork,
    store: FileStore,
    source: Source,
    *,
    name: str,
    principal: Principal,
    key: str,
    clock: Clock,
    parents: tuple[Digest, ...] = (),
    note: str = "",
    hidden: Collection[str] = (),
    report: Report | None = None,
) -> Outcome[NamedSnapshot]:
    """Store rows as the next snapshot of the data set `name`.

    Rows that are its latest snapshot already get no new number.

    Raises:
        UnreadableData: The source cannot be read to its end; nothing was named.
        InvalidSetting: The name cannot be used, or the source has no columns.
        Conflict: The key was used for something else.
        StoreUnavailable: The database cannot be reached; nothing was named.
    """
    check_name("data set", name)
    snapshot = write_snapshot(source, store, parents=parents, note=note, hidden=hidden)
    digest = snapshot.digest

    def perform(transaction: Transaction) -> Effect[NamedSnapshot]:
        taken = name_snapshot(
            transaction,
            snapshot,
            name=name,
            principal=principal,
            at_us=clock.wall_us(),
            note=note,
            evidence=_evidence(report),
        )
        return Effect(taken, taken.label, {"digest": digest})

    intent = Intent(action=ACTION, principal=principal, key=key, request={"name": name, "digest": digest})
    return run(unit, intent, perform=perform, result=NamedSnapshot, clock=clock)


def name_snapshot(
    transaction: Transaction,
    snapshot: Snapshot,
    *,
    name: str,
    principal: Principal,
    at_us: int,
    note: str = "",
    evidence: Sequence[Evidence] = (),
) -> NamedSnapshot:
    """Give stored rows the next number of the data set `name`, in a transaction that is under way.

    Rows that are its latest snapshot already keep that number.
    """
    latest = transaction.decisions.latest(name, kind=KIND)
    before = None if latest is None else _named(latest)
    if before is not None and before.digest == snapshot.digest:
        return before
    taken = NamedSnapshot(
        name=name,
        number=1 if before is None else before.number + 1,
        digest=snapshot.digest,
        content=snapshot.content,
        n_rows=snapshot.n_rows,
        principal=principal,
        at_us=at_us,
        note=note,
    )
    transaction.decisions.append(_decision(taken, evidence))
    return taken


class CheckedSnapshot(msgspec.Struct, frozen=True):
    """What came of data that were checked first.

    Attributes:
        report: What was found.
        snapshot: The accepted rows; None where the data were rejected.
        quarantine: The rows put aside, in the data set `NAME.quarantine`; None if there are none.
    """

    report: Report
    snapshot: NamedSnapshot | None = None
    quarantine: NamedSnapshot | None = None


def check_data(
    unit: UnitOfWork,
    store: FileStore,
    source: Source,
    *,
    clock: Clock,
    rules: Sequence[Rule] = (),
    schema: Schema | None = None,
    policy: Policy = Policy.REJECT,
) -> Validated:
    """Check rows against a contract's fields and rules; store nothing.

    Raises:
        InvalidSetting: A rule does not fit the rows.
        NotFound: A rule names a snapshot that does not exist.
    """
    return validate(
        source,
        rules=rules,
        schema=schema,
        references=_StoredReferences(unit, store),
        now_us=clock.wall_us(),
        policy=policy,
    )


def take_checked(
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
) -> CheckedSnapshot:
    """Store the accepted rows as the next snapshot of `name`, and the quarantined ones beside it.

    Of rejected data nothing is stored.

    Raises:
        TidegateError: As `take_snapshot`.
    """
    report = validated.report
    if validated.accepted is None:
        return CheckedSnapshot(report)

    def take(rows: Source, name: str, key: str, note: str) -> NamedSnapshot:
        outcome = take_snapshot(
            unit,
            store,
            rows,
            name=name,
            principal=principal,
            key=key,
            clock=clock,
            parents=parents,
            note=note,
            hidden=hidden,
            report=report,
        )
        return outcome.result

    quarantine = None
    if validated.quarantined is not None:
        # First, so that no snapshot is ever taken whose missing rows are nowhere.
        reason = f"{report.n_quarantined} of {report.n_rows} rows, put aside from {name}"
        quarantine = take(validated.quarantined, f"{name}.quarantine", f"{key}/quarantine", reason)
        note = f"{note}; {report.n_quarantined} rows quarantined".removeprefix("; ")
    return CheckedSnapshot(report, take(validated.accepted, name, key, note), quarantine)


class _StoredReferences:
    """The snapshots that rules name, from the store."""

    def __init__(self, unit: UnitOfWork, store: FileStore) -> None:
        self._unit = unit
        self._store = store

    def summary(self, label: str, column: str) -> ColumnSummary:
        return self._find(label, column).by_name[column]

    def values(self, label: str, column: str) -> Any:
        rows = scan_snapshot(self._store, self._find(label, column))
        return rows.select(column).collect().to_series()

    def _find(self, label: str, column: str) -> Snapshot:
        _, snapshot = find_snapshot(self._unit, self._store, label)
        if column not in snapshot.by_name:
            raise NotFound(
                f"The snapshot {label!r} has no column {column!r}.",
                hint=f"It has: {', '.join(snapshot.by_name)}.",
                column=column,
            )
        return snapshot


def _decision(taken: NamedSnapshot, evidence: Sequence[Evidence]) -> Decision:
    observed = {
        "number": taken.number,
        "digest": taken.digest,
        "content": taken.content,
        "n_rows": taken.n_rows,
    }
    return Decision(
        kind=KIND,
        service=taken.name,
        outcome=f"taken as {taken.label}",
        principal=taken.principal,
        at_us=taken.at_us,
        reason=taken.note,
        evidence=[Evidence(rule="snapshot", verdict=Verdict.SAFE, observed=observed), *evidence],
    )


def _evidence(report: Report | None) -> list[Evidence]:
    """Keep what the checks found, without the rows: those are data, and may be sensitive."""
    if report is None:
        return []
    findings = [
        {"rule": one.rule, "column": one.column, "policy": one.policy, "count": one.count}
        for one in report.findings
    ]
    observed = {
        "n_rows": report.n_rows,
        "n_checks": report.n_checks,
        "n_quarantined": report.n_quarantined,
        "findings": findings,
    }
    return [Evidence(rule="validation", verdict=Verdict.SAFE, observed=observed)]


def _named(stored: StoredDecision) -> NamedSnapshot:
    decision = stored.decision
    observed = decision.evidence[0].observed
    return NamedSnapshot(
        name=decision.service,
        number=observed["number"],
        digest=Digest(observed["digest"]),
        content=Digest(observed["content"]),
        n_rows=observed["n_rows"],
        principal=decision.principal,
        at_us=decision.at_us,
        note=decision.reason,
    )


def list_snapshots(unit: UnitOfWork, name: str | None = None) -> list[NamedSnapshot]:
    """Return the snapshots of one data set, or of all, in the order they were taken."""
    found: list[NamedSnapshot] = []
    after = 0
    with unit.read() as transaction:
        while page := transaction.decisions.page(name, kind=KIND, after=after, limit=PAGE):
            found += map(_named, page)
            after = page[-1].id
    return found


def check_data_set(unit: UnitOfWork, name: str | None, *, others: Collection[str] = ()) -> None:
    """Pass if a data set that is named is known: it has a snapshot, or is among `others`.

    Raises:
        NotFound: It is not.
    """
    known = sorted({*others, *(one.name for one in list_snapshots(unit))})
    if name is not None and name not in known:
        raise NotFound(
            f"There is no data set {name!r}.",
            hint=f"Data sets: {', '.join(known[:10])}." if known else "No snapshot was taken yet.",
            name=name,
        )


def find_snapshot(unit: UnitOfWork, store: FileStore, label: str) -> tuple[Digest, Snapshot]:
    """Return the snapshot that `label` names: a digest, `name@number`, or `name` for the latest.

    Raises:
        NotFound: There is none.
        InvalidSetting: The label cannot be read.
        Corrupt: Its manifest is damaged.
    """
    if is_digest(label):
        return Digest(label), read_snapshot(store, Digest(label))
    name, at, number = label.partition("@")
    if at and not (number.isascii() and number.isdigit()):
        raise InvalidSetting(f"{label!r} names no snapshot.", hint="Write name, name@number or a digest.")
    taken = list_snapshots(unit, name)
    for one in reversed(taken):
        if not at or one.number == int(number):
            return one.digest, read_snapshot(store, one.digest)
    known = sorted({one.name for one in list_snapshots(unit)})
    raise NotFound(
        f"There is no snapshot {label!r}.",
        hint=f"Data sets: {', '.join(known[:10])}." if known else "No snapshot was taken yet.",
        label=label,
    )
