"""Traces beside the records' files: both take what is counted."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from tidegate.adapter.telemetry.otlp import HEADERS_VARIABLE, SpanExporter, headers_of
from tidegate.bootstrap.setting import Settings
from tidegate.core.error import InvalidSetting
from tidegate.journal.decode import Turns
from tidegate.journal.reader import Frame
from tidegate.journal.tailer import Sink

_log = logging.getLogger("tidegate.controller")


class TracedSink:
    """Implements `Sink`: hands records to the store, if there is one, and to an exporter of spans."""

    def __init__(self, store: Sink | None, exporter: SpanExporter) -> None:
        self._store = store
        self._exporter = exporter

    def take(self, segment: str, turns: Turns, frames: Sequence[Frame]) -> None:
        self._exporter.take(turns)
        if self._store is not None:
            self._store.take(segment, turns, frames)

    def advance(self, positions: Mapping[str, int]) -> None:
        if self._store is not None:
            self._store.advance(positions)

    def forget(self) -> None:
        if self._store is not None:
            self._store.forget()

    def catch_up(self, journal: Path, counted: Mapping[str, int]) -> int:
        return self._store.catch_up(journal, counted) if self._store is not None else 0


def open_exporter(settings: Settings | None) -> SpanExporter | None:
    """Return an exporter that sends, if the settings name an address.

    One that cannot be used is logged: it must not keep a server from counting.
    """
    if settings is None or not settings.trace_url:
        return None
    headers = headers_of(os.environ.get(HEADERS_VARIABLE, ""))
    try:
        exporter = SpanExporter(settings.trace_url, share=settings.trace_share, headers=headers)
    except InvalidSetting as error:
        _log.error("trace.unusable: %s", error)
        return None
    exporter.start()
    return exporter
