"""Look at versions."""

from __future__ import annotations

from tidegate.core.error import NotFound
from tidegate.operation.mutation import UnitOfWork
from tidegate.registry.store import PAGE, StoredDecision
from tidegate.registry.version import Version


def list_versions(
    unit: UnitOfWork, service: str | None = None, *, after: tuple[str, int] = ("", 0), limit: int = PAGE
) -> list[Version]:
    """Return versions by service and number, starting behind `after`.

    Raises:
        NotFound: `service` is named and has no version at all.
    """
    with unit.read() as transaction:
        found = transaction.versions.page(service, after=after, limit=limit)
        if service is not None and not found and transaction.versions.latest(service) is None:
            raise _no_service(service, transaction.versions.services())
        return found


def show_version(unit: UnitOfWork, service: str, *, number: int | None = None) -> Version:
    """Return one version; the latest unless `number` says which.

    Raises:
        NotFound: There is none.
    """
    with unit.read() as transaction:
        if number is not None:
            return transaction.versions.get(service, number)
        latest = transaction.versions.latest(service)
        if latest is None:
            raise _no_service(service, transaction.versions.services())
        return latest


def list_services(unit: UnitOfWork) -> list[str]:
    """Return the names of all services that have a version."""
    with unit.read() as transaction:
        return transaction.versions.services()


def list_decisions(
    unit: UnitOfWork,
    service: str | None = None,
    *,
    kind: str | None = None,
    version: int | None = None,
    after: int = 0,
    limit: int = PAGE,
) -> list[StoredDecision]:
    """Return decisions in the order they were taken, those numbered above `after`."""
    with unit.read() as transaction:
        return transaction.decisions.page(service, kind=kind, version=version, after=after, limit=limit)


def check_service(unit: UnitOfWork, service: str | None) -> None:
    """Pass if a service that is named is registered: of a misspelt one, nothing found is no answer.

    Raises:
        NotFound: `service` is named and has no version at all.
    """
    if service is not None:
        with unit.read() as transaction:
            if transaction.versions.latest(service) is None:
                raise _no_service(service, transaction.versions.services())


def _no_service(service: str, known: list[str]) -> NotFound:
    listed = ", ".join(known[:10]) + (" …" if len(known) > 10 else "")
    return NotFound(
        f"No version of a service {service!r} is registered.",
        hint=f"Registered services: {listed}." if known else "Nothing is registered yet.",
        service=service,
    )
