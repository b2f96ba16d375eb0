"""Any sequence of changes, repeated, conflicting and failing ones among them, against a model of them."""

import itertools

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from tidegate.adapter.sql.unit import SqlUnitOfWork
from tidegate.core.clock import SystemClock
from tidegate.core.decision import Decision
from tidegate.core.digest import digest_bytes
from tidegate.core.error import Conflict
from tidegate.core.principal import Principal
from tidegate.operation.audit import verify_audit
from tidegate.operation.decide import record_decision
from tidegate.operation.mutation import Effect, Intent, Transaction, run
from tidegate.registry.version import Version, VersionDraft

examples = itertools.count()
people = st.sampled_from([Principal("ana"), Principal("eve")])


class Changes(RuleBasedStateMachine):
    """One database serves all examples; each has services and keys of its own."""

    keys = Bundle("keys")

    def __init__(self, unit: SqlUnitOfWork) -> None:
        super().__init__()
        self.unit = unit
        self.example = next(examples)
        self.done: dict[str, tuple[object, int]] = {}  # by key: the request, and the number it got
        self.numbers: dict[str, int] = {}
        with unit.read() as transaction:
            self.n_entries = transaction.audit.head().sequence

    @rule(target=keys, name=st.sampled_from("klmn"))
    def new_key(self, name: str) -> str:
        return f"{self.example}-{name}"

    def expect(self, key: str, request: object) -> str:
        if key not in self.done:
            return "done"
        return "replayed" if self.done[key][0] == request else "conflict"

    @rule(key=keys, service=st.sampled_from("ab"), content=st.sampled_from([b"1", b"2"]), who=people)
    def register(self, key: str, service: str, content: bytes, who: Principal) -> None:
        name = f"{service}{self.example}"
        request = ("version", name, content, who)
        expected = self.expect(key, request)
        try:
            outcome = self.add(key, name, content, who)
        except Conflict:
            assert expected == "conflict"
            return
        assert expected == ("replayed" if outcome.replayed else "done")
        if not outcome.replayed:
            self.n_entries += 1
            self.numbers[name] = self.numbers.get(name, 0) + 1
            self.done[key] = (request, self.numbers[name])
        assert outcome.result.label == f"{name}@{self.done[key][1]}"

    def add(self, key: str, name: str, content: bytes, who: Principal, *, fail: bool = False):
        draft = VersionDraft(service=name, manifest=digest_bytes(content), contract=digest_bytes(content))

        def perform(transaction: Transaction) -> Effect[Version]:
            version = transaction.versions.add(draft, principal=who, at_us=1)
            if fail:
                raise ZeroDivisionError
            return Effect(version, version.label)

        intent = Intent(action="version.add", principal=who, key=key, request=draft, service=name)
        return run(self.unit, intent, perform=perform, result=Version, clock=SystemClock())

    @rule(key=keys, service=st.sampled_from("ab"), who=people)
    def fail(self, key: str, service: str, who: Principal) -> None:
        content = b"the request of no other rule"
        expected = "conflict" if key in self.done else "failed"
        try:
            self.add(key, f"{service}{self.example}", content, who, fail=True)
        except ZeroDivisionError:
            assert expected == "failed"
        except Conflict:
            assert expected == "conflict"

    @rule(key=keys, outcome=st.sampled_from(["hold", "pass"]), who=people)
    def decide(self, key: str, outcome: str, who: Principal) -> None:
        request = ("decision", outcome, who)
        expected = self.expect(key, request)
        decision = Decision(
            kind="gate", service=f"a{self.example}", outcome=outcome, principal=who, at_us=1, version=1
        )
        try:
            recorded = record_decision(self.unit, decision, key=key, clock=SystemClock())
        except Conflict:
            assert expected == "conflict"
            return
        assert expected == ("replayed" if recorded.replayed else "done")
        if not recorded.replayed:
            self.n_entries += 1
            self.done[key] = (request, recorded.result.id)
        assert recorded.result.id == self.done[key][1]

    @invariant()
    def log_has_one_entry_for_each_change(self) -> None:
        with self.unit.read() as transaction:
            assert transaction.audit.head().sequence == self.n_entries

    def teardown(self) -> None:
        assert verify_audit(self.unit).holds
        with self.unit.read() as transaction:
            for name, latest in self.numbers.items():
                found = [version.number for version in transaction.versions.page(name)]
                assert found == list(range(1, latest + 1))


def test_any_sequence_of_changes_is_done_once_each_numbered_without_a_gap_and_audited(unit):
    run_state_machine_as_test(
        lambda: Changes(unit), settings=settings(max_examples=12, stateful_step_count=15, deadline=None)
    )
