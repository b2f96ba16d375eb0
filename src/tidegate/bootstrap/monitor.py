"""Monitors over one home: its records, its outcomes, its signals."""

from __future__ import annotations

from tidegate.adapter.parquet.history import StoredHistory
from tidegate.bootstrap.local import Local
from tidegate.monitoring.run import Result
from tidegate.operation.monitor import Span, examine, watched_subject
from tidegate.operation.signal import keep_signals


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
    subject, outcome = watched_subject(local.unit, local.artifacts, service)
    history = StoredHistory(local.home.records, local.home.ledger, service, outcome=outcome)
    result = examine(history, subject, over=over, reference=reference)
    if keep:
        keep_signals(local.unit, result.signals, principal=local.principal, clock=local.clock)
    return result
