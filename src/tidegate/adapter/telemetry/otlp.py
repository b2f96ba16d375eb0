"""Sends spans by OTLP over HTTP, as JSON: to a collector, Jaeger, Tempo and the like."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Iterable, Mapping
from http.client import HTTPException
from typing import Any
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import msgspec

from tidegate.adapter.telemetry.span import Span, spans_of
from tidegate.core.error import InvalidSetting
from tidegate.journal.decode import Turns
from tidegate.journal.record import RecordKind

_log = logging.getLogger("tidegate.telemetry")

PATH = "/v1/traces"
HEADERS_VARIABLE = "OTEL_EXPORTER_OTLP_HEADERS"
MOST_WAITING = 8192
"""Spans that wait at most: some 4 MB. A trace is an example, and examples may be lost."""
_BATCH = 512
_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 60.0
_TIMEOUT_S = 10.0


class SpanExporter:
    """Takes records as they are counted and sends their spans, from a thread of its own."""

    def __init__(self, url: str, *, share: float, headers: Mapping[str, str] | None = None) -> None:
        """Take an address.

        Args:
            url: `http://HOST:4318`; `/v1/traces` is added unless it is there.
            share: Of requests whose callers send no trace, in [0, 1].
            headers: Sent with each message: a token.

        Raises:
            InvalidSetting: It is no such address, or no share.
        """
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise InvalidSetting(
                "The address of traces is none of OTLP over HTTP.", hint="Write http://HOST:4318."
            )
        if not 0 <= share <= 1:
            raise InvalidSetting(f"A share of traces lies in [0, 1]. Got {share}.")
        self._url = url if parts.path.endswith(PATH) else url.rstrip("/") + PATH
        self._share = share
        self._headers = {"content-type": "application/json", **(headers or {})}
        self._waiting: deque[tuple[str, Span]] = deque(maxlen=MOST_WAITING)
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self.n_sent = 0
        self.n_dropped = 0

    def take(self, turns: Turns) -> None:
        """Take records; the oldest spans make room where too many wait."""
        if turns.stream.kind is not RecordKind.PREDICTION:
            return
        for span in spans_of(turns, share=self._share):
            self.n_dropped += len(self._waiting) == MOST_WAITING
            self._waiting.append((turns.stream.service, span))

    def start(self) -> None:
        """Send what waits, every second, until closed."""
        self._thread = threading.Thread(target=self._run, name="telemetry", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Send what waits once more, and end."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        pause_s = _PAUSE_S
        while not self._stopping.wait(pause_s):
            pause_s = _PAUSE_S if self.flush() else min(2 * pause_s, _LONGEST_PAUSE_S)
        self.flush()

    def flush(self) -> bool:
        """Send all that waits; returns whether nobody refused it. What was refused waits on."""
        while self._waiting:
            batch = [self._waiting.popleft() for _ in range(min(_BATCH, len(self._waiting)))]
            try:
                self._post(encode(batch))
            except (OSError, HTTPException) as error:  # what urllib raises is an OSError
                _log.warning("trace.delayed: %s spans: %s", len(batch), error)
                room = MOST_WAITING - len(self._waiting)
                self.n_dropped += max(0, len(batch) - room)
                self._waiting.extendleft(reversed(batch[max(0, len(batch) - room) :]))
                return False
            self.n_sent += len(batch)
        return True

    def _post(self, body: bytes) -> None:
        request = Request(self._url, data=body, headers=self._headers, method="POST")  # noqa: S310 - see above
        with urlopen(request, timeout=_TIMEOUT_S):  # noqa: S310 - http or https: see `__init__`
            pass


def encode(spans: Iterable[tuple[str, Span]]) -> bytes:
    """Return spans, each with its service, as one message.

    Source: OpenTelemetry Protocol 1.9, JSON Protobuf encoding: ids in hexadecimal, times as texts.
    """
    by_service: dict[str, list[dict[str, Any]]] = {}
    for service, span in spans:
        by_service.setdefault(service, []).append(_plain(span))
    scope = {"name": "tidegate"}
    return msgspec.json.encode(
        {
            "resourceSpans": [
                {
                    "resource": {"attributes": _attributes({"service.name": service})},
                    "scopeSpans": [{"scope": scope, "spans": found}],
                }
                for service, found in by_service.items()
            ]
        }
    )


def _plain(span: Span) -> dict[str, Any]:
    error = {"attributes": _attributes(span.attributes | {"error.type": span.error})} if span.error else {}
    return {
        "traceId": span.trace.hex(),
        "spanId": span.id.hex(),
        **({"parentSpanId": span.parent.hex()} if span.parent else {}),
        "name": span.name,
        "kind": span.kind,
        "startTimeUnixNano": str(1000 * span.start_us),
        "endTimeUnixNano": str(1000 * span.end_us),
        "attributes": _attributes(span.attributes),
        **error,
        **({"status": {"code": 2, "message": span.error}} if span.error else {}),
    }


def _attributes(values: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{"key": name, "value": _value(value)} for name, value in values.items()]


def _value(value: Any) -> dict[str, Any]:
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue": str(value)}
    return {"stringValue": str(value)}


def headers_of(text: str) -> dict[str, str]:
    """Return headers from the form of `OTEL_EXPORTER_OTLP_HEADERS`: `name=value,name=value`."""
    pairs = (each.partition("=") for each in text.split(",") if "=" in each)
    return {name.strip(): value.strip() for name, _, value in pairs}
