"""Many changes at once: one transaction for many mutations, one route file for many first deployments."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import Any, NamedTuple, cast

from tidegate.core.clock import Clock
from tidegate.core.digest import Digest
from tidegate.core.principal import Principal
from tidegate.operation.decide import record_decision
from tidegate.operation.key import new_key
from tidegate.operation.mutation import Transaction, UnitOfWork
from tidegate.release import move
from tidegate.release.readiness import Cell
from tidegate.release.step import FIRST_DEPLOYMENT, Outcome, Step, route_changed
from tidegate.route.route import ServiceRoute


class _Own:
    """One mutation's view of a transaction that it shares: its records are its own only."""

    def __init__(self, transaction: Transaction) -> None:
        self._shared = transaction
        self._n_before = len(transaction.records)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._shared, name)

    @property
    def records(self) -> Mapping[str, Digest]:
        """What was added since this view began."""
        return dict(islice(self._shared.records.items(), self._n_before, None))


class OneTransaction:
    """A unit of work whose transactions are all the same one: they commit together, or none does.

    Every mutation keeps its own key and its own audit entry, so a bulk that failed is repeated as a whole.
    """

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction

    @contextmanager
    def write(self) -> Iterator[Transaction]:
        """Give the one transaction; it is not committed at the end of this block."""
        yield cast(Transaction, _Own(self._transaction))

    @contextmanager
    def read(self) -> Iterator[Transaction]:
        """Give the one transaction, which sees what was changed in it."""
        yield self._transaction


class First(NamedTuple):
    """The first version of a service that has no route.

    Attributes:
        version: Its number.
        manifest: Digest of its manifest.
        fallback: Names of its fallback chain.
        placement: When workers load it.
    """

    version: int
    manifest: Digest
    fallback: tuple[str, ...] = ()
    placement: str = ""


def deploy_all(
    unit: UnitOfWork, cell: Cell, firsts: Mapping[str, First], *, principal: Principal, clock: Clock
) -> int:
    """Give all traffic to the first versions of many services, by one change of the route.

    The route is changed first, as a single deployment does it. If the database is lost in between, the
    services serve and their decisions are missing; they serve nothing that was not registered.

    Args:
        unit: The metadata database.
        cell: Where.
        firsts: Service -> its first version.
        principal: Who deploys.
        clock: Says when.

    Returns:
        How many were deployed.

    Raises:
        Conflict: One serves a version already; then nothing is changed.
        TidegateError: The route or the database cannot be written.
    """
    if not firsts:
        return 0
    after = cell.routes.change_all({name: _deployment(name, first) for name, first in firsts.items()})
    with unit.write() as transaction:
        together = OneTransaction(transaction)
        for name, first in firsts.items():
            step = Step(cell=cell, service=name, kind=FIRST_DEPLOYMENT, principal=principal, reason="")
            decision = step.decide(
                Outcome.COMMITTED, version=first.version, evidence=[route_changed(None, after, name)]
            )
            record_decision(together, decision, key=new_key(), clock=clock)
    return len(firsts)


def _deployment(name: str, first: First) -> Callable[[ServiceRoute | None], ServiceRoute]:
    return partial(
        move.deploy_first,
        service=name,
        version=first.version,
        manifest=first.manifest,
        salt=secrets.token_hex(8),
        fallback=first.fallback,
        placement=first.placement,
    )
