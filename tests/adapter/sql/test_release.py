"""Releases and leases, over both databases."""

import pytest

from tidegate.adapter.sql.unit import SqlUnitOfWork
from tidegate.core.error import Conflict, NotFound
from tidegate.release.book import StoredRelease
from tidegate.release.lease import Lease


def release(id: str = "r1", *, service: str = "flights", is_open: bool = True, revision: int = 0):
    return StoredRelease(id, service, is_open, revision, b'{"step":1}')


def test_service_has_one_open_release_at_most(unit: SqlUnitOfWork):
    with unit.write() as transaction:
        transaction.releases.add(release())
        transaction.releases.add(release("r2", service="churn"))

    with pytest.raises(Conflict, match=r"is under way \(r1\)"), unit.write() as transaction:
        transaction.releases.add(release("r3"))
    with unit.write() as transaction:
        transaction.releases.save(release(is_open=False, revision=1), revision=0)
        transaction.releases.add(release("r3"))

    with unit.read() as transaction:
        assert transaction.releases.find_open("flights") == release("r3")
        assert [each.id for each in transaction.releases.page("flights")] == ["r3", "r1"]
        assert [each.id for each in transaction.releases.page(open_only=True)] == ["r3", "r2"]
        assert transaction.releases.get("r1") == release(is_open=False, revision=1)


def test_save_on_top_of_another_change_is_a_conflict(unit: SqlUnitOfWork):
    with unit.write() as transaction:
        transaction.releases.add(release())
        transaction.releases.save(release(revision=1), revision=0)

    with pytest.raises(Conflict, match="changed by someone else"), unit.write() as transaction:
        transaction.releases.save(release(revision=1), revision=0)
    with pytest.raises(NotFound), unit.read() as transaction:
        transaction.releases.get("nobody")


def test_lease_is_replaced_only_by_who_has_seen_its_last_beat(unit: SqlUnitOfWork):
    first = Lease("releases", "one", 1, 0)
    with unit.write() as transaction:
        assert transaction.leases.find("releases") is None
        assert transaction.leases.replace(None, first)
        assert not transaction.leases.replace(None, Lease("releases", "two", 1, 0))
    with unit.write() as transaction:
        assert transaction.leases.replace(first, Lease("releases", "one", 1, 1))
        assert not transaction.leases.replace(first, Lease("releases", "two", 2, 0))
    with unit.read() as transaction:
        assert transaction.leases.find("releases") == Lease("releases", "one", 1, 1)
