"""Monitors over one home: its records, its outcomes, its signals."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tidegate.adapter.parquet.history import StoredHistory
from tidegate.adapter.sqlite.profile import SqliteProfileStore
from tidegate.bootstrap.local import Local
from tidegate.monitoring.run import Result
from tidegate.monitoring.subject import Subject
from tidegate.operation.monitor import Span, examine, watched_manifest, watched_subject
from tidegate.operation.profile import ProfileBook
from tidegate.operation.signal import keep_signals


def watched_history(local: Local, service: str) -> tuple[Subject, StoredHistory]:
    """Return how a service is watched, and its records with what became of them.

    Raises:
        NotFound: No version of the service is registered.
    """
    subject, outcome = watched_subject(local.unit, local.artifacts, service)
    kpis = [kpi.name for kpi in subject.monitoring.kpis]
    return subject, StoredHistory(local.home.records, local.home.ledger, service, outcome=outcome, kpis=kpis)


def examined(
    local: Local,
    service: str,
    *,
    over: Span | None = None,
    reference: Span | None = None,
    keep: bool = False,
) -> Result:
    """Let the monitors look at a period of a service; see `tidegate.operation.monitor.examine`.

    Args:
        local: The home.
        service: Whose records.
        over: First and last day.
        reference: First and last day of what it is compared with.
        keep: Store the signals.
    """
    subject, history = watched_history(local, service)
    result = examine(history, subject, over=over, reference=reference)
    if keep:
        keep_signals(local.unit, result.signals, principal=local.principal, clock=local.clock)
    return result


@contextmanager
def profiles(local: Local, service: str, *, reference: Span | None = None) -> Iterator[ProfileBook]:
    """Open a service's profiles; what is counted is kept beside the records.

    Raises:
        NotFound: No version of the service is registered, or it has no records.
        InvalidSetting: There is no record in the reference.
        ProfilesUnavailable: They cannot be kept.
    """
    subject, history = watched_history(local, service)
    slicing = watched_manifest(local.unit, local.artifacts, service).slicing
    store = SqliteProfileStore(local.home.profiles)
    try:
        yield ProfileBook(history, subject, slicing, store, reference=reference)
    finally:
        store.close()
