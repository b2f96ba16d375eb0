from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import msgspec
import psycopg
import pytest
from sqlalchemy import event

from tidegate.adapter.sql.unit import SqlUnitOfWork, open_database
from tidegate.core.clock import SystemClock
from tidegate.core.decision import Decision
from tidegate.core.digest import digest_bytes
from tidegate.core.error import Conflict, InvalidSetting
from tidegate.core.principal import Principal
from tidegate.governance.audit import Head
from tidegate.operation.audit import verify_audit
from tidegate.operation.decide import record_decision
from tidegate.operation.key import new_key
from tidegate.operation.mutation import Effect, Intent, Outcome, Transaction, run
from tidegate.registry.store import CommitUnknown, StoreUnavailable
from tidegate.registry.version import VersionDraft

ANA = Principal("ana@laptop")
DIGEST = digest_bytes(b"")


class Result(msgspec.Struct):
    number: int
    note: str


def add_version(transaction: Transaction) -> Effect[Result]:
    draft = VersionDraft(service="flights", manifest=DIGEST, contract=DIGEST)
    version = transaction.versions.add(draft, principal=ANA, at_us=1)
    return Effect(Result(version.number, "ü"), version.label, {"why": "test"})


def mutate(
    unit: Any,
    key: str = "k",
    *,
    request: Any = None,
    principal: Principal = ANA,
    action: str = "version.add",
    perform: Callable[[Transaction], Effect[Result]] = add_version,
) -> Outcome[Result]:
    intent = Intent(action=action, principal=principal, key=key, request=request, service="flights")
    return run(unit, intent, perform=perform, result=Result, clock=SystemClock())


def count(unit: SqlUnitOfWork) -> tuple[int, int]:
    with unit.read() as transaction:
        return len(transaction.versions.page()), transaction.audit.head().sequence


def test_mutation_appends_one_audit_entry_that_tells_who_did_what(unit):
    outcome = mutate(unit, request={"a": 1})

    assert outcome == Outcome(Result(1, "ü"), 1, replayed=False)
    with unit.read() as transaction:
        (entry,) = transaction.audit.page()
        version = transaction.versions.get("flights", 1)
    assert (entry.principal, entry.action, entry.service, entry.subject, entry.key) == (
        ANA,
        "version.add",
        "flights",
        "flights@1",
        "k",
    )
    assert entry.detail["why"] == "test"
    assert entry.detail["records"] == {"version:flights@1": version.digest}
    assert verify_audit(unit).holds


def test_same_key_and_request_give_the_first_result_and_change_nothing(unit):
    first = mutate(unit, request={"a": 1, "b": 2})

    again = mutate(unit, request={"b": 2, "a": 1})

    assert again == Outcome(first.result, first.sequence, replayed=True)
    assert count(unit) == (1, 1)


@pytest.mark.parametrize(
    "change", [{"request": {"a": 2}}, {"principal": Principal("eve@laptop")}, {"action": "route.switch"}]
)
def test_same_key_for_something_else_is_a_conflict_that_names_it(unit, change):
    mutate(unit, "deploy-7", request={"a": 1})

    with pytest.raises(Conflict, match=r"'deploy-7' was used before, for 'version.add'.*audit entry 1"):
        mutate(unit, "deploy-7", **{"request": {"a": 1}, **change})

    assert count(unit) == (1, 1)


def test_mutation_that_fails_leaves_nothing_and_its_key_free(unit):
    def fail(transaction: Transaction) -> Effect[Result]:
        add_version(transaction)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        mutate(unit, perform=fail)

    assert count(unit) == (0, 0)
    assert not mutate(unit).replayed


def test_result_that_cannot_be_kept_leaves_nothing(unit):
    def give_object(transaction: Transaction) -> Effect[Any]:
        return Effect(object(), "flights")

    with pytest.raises(InvalidSetting, match=r"result of version\.add"):
        mutate(unit, perform=give_object)

    assert count(unit) == (0, 0)


@pytest.mark.parametrize("key", ["", "x" * 201, "a\nb", "schlüssel"])
def test_key_that_cannot_be_used_is_refused(unit, key):
    with pytest.raises(InvalidSetting):
        mutate(unit, key)


def test_new_keys_are_usable_and_differ(unit):
    assert {mutate(unit, new_key()).replayed for _ in range(3)} == {False}


def test_nested_use_of_the_transaction_sees_its_own_changes(unit):
    def twice(transaction: Transaction) -> Effect[Result]:
        add_version(transaction)
        effect = add_version(transaction)
        assert transaction.versions.latest("flights").number == 2
        return effect

    assert mutate(unit, perform=twice).result.number == 2
    assert count(unit) == (2, 1)


class LossyCommit:
    """Loses the connection during chosen commits, before or after the database has them."""

    def __init__(self, unit: SqlUnitOfWork, losses: list[str]) -> None:
        self.dialect = unit._engine.dialect
        self.commit = self.dialect.do_commit
        self.losses = losses

    def __call__(self, connection: Any) -> None:
        loss = self.losses.pop(0) if self.losses else ""
        if loss != "before":
            self.commit(connection)
        if loss:
            connection.driver_connection.close()
            raise self.dialect.loaded_dbapi.OperationalError("server closed the connection unexpectedly")


@contextmanager
def losing(unit: SqlUnitOfWork, *losses: str) -> Iterator[None]:
    lossy = LossyCommit(unit, list(losses))
    lossy.dialect.do_commit = lossy
    try:
        yield
    finally:
        lossy.dialect.do_commit = lossy.commit


@pytest.mark.parametrize("losses", [["after"], ["before"], ["before", "after"], ["before", "before"]])
def test_commit_of_unknown_outcome_is_looked_up_and_done_once(unit, losses):
    with losing(unit, *losses):
        outcome = mutate(unit)

    assert outcome.result == Result(1, "ü")
    assert outcome.replayed == (losses[-1] == "after")
    assert count(unit) == (1, 1)
    assert verify_audit(unit).holds


def test_commit_that_stays_unknown_is_told_and_the_key_settles_it(unit):
    with (
        losing(unit, "before", "before", "before"),
        pytest.raises(CommitUnknown, match="same idempotency key"),
    ):
        mutate(unit)

    assert count(unit) == (0, 0)
    assert not mutate(unit).replayed


class LostAfterwards:
    """A database that cannot be reached again after an unknown commit."""

    def __init__(self, unit: SqlUnitOfWork) -> None:
        self.unit = unit
        self.turn = 0

    def write(self) -> Any:
        self.turn += 1
        if self.turn > 1:
            raise StoreUnavailable("down")
        return self.unit.write()


def test_database_lost_after_an_unknown_commit_is_told_as_unknown_not_as_unchanged(unit):
    with losing(unit, "after"), pytest.raises(CommitUnknown):
        mutate(LostAfterwards(unit))

    assert mutate(unit).replayed


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_connection_ended_by_the_server_before_the_commit_is_repeated_once(unit, postgresql):
    ended: list[int] = []

    def end(connection: Any) -> None:
        if not ended:
            ended.append(connection.connection.driver_connection.info.backend_pid)
            with psycopg.connect(postgresql, autocommit=True) as other:
                other.execute("SELECT pg_terminate_backend(%s, 5000)", ended)

    event.listen(unit._engine, "commit", end)

    assert mutate(unit).result.number == 1
    assert ended
    assert count(unit) == (1, 1)


def test_database_that_is_down_is_told_and_nothing_is_changed(tmp_path):
    class Down:
        def write(self) -> Any:
            raise StoreUnavailable("down")

    with pytest.raises(StoreUnavailable):
        mutate(Down())


def test_two_units_with_one_key_do_it_once(database_url):
    with closing(open_database(database_url)) as one, closing(open_database(database_url)) as other:
        assert [mutate(unit).replayed for unit in (one, other, one)] == [False, True, True]
        assert count(one) == (1, 1)


def test_decision_is_recorded_once_with_its_entry(unit):
    decision = Decision(
        kind="gate",
        service="flights",
        outcome="hold",
        principal=ANA,
        at_us=5,
        version=2,
        reason="too few rows",
    )

    first = record_decision(unit, decision, key="d", clock=SystemClock())
    again = record_decision(unit, decision, key="d", clock=SystemClock())

    assert first.result.decision == decision
    assert again == Outcome(first.result, 1, replayed=True)
    with unit.read() as transaction:
        assert transaction.decisions.page() == [first.result]
        (entry,) = transaction.audit.page()
    assert (entry.action, entry.subject) == ("decision.record", "flights@2")
    assert verify_audit(unit).holds
    assert entry.sequence == first.sequence == Head(1, entry.hash).sequence
