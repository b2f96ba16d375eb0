"""Every resource that a worker offers for the services it serves."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tidegate.contract.openapi import openapi_document
from tidegate.serving.dataplane import DataPlane
from tidegate.serving.http.exchange import Handler
from tidegate.serving.http.native import DocumentHandler, OutcomeHandler, PredictHandler
from tidegate.serving.http.repository import resources as protocol_resources


def resources(plane: DataPlane, *, metrics: Path) -> dict[bytes, Mapping[bytes, Handler]]:
    """Return path -> method -> handler for all services that are routed now.

    Args:
        plane: The data plane.
        metrics: Folder of the workers' metric pages, for the protocol's statistics.
    """
    found: dict[bytes, Mapping[bytes, Handler]] = {}
    for name in plane.endpoints:
        base = f"/services/{name}".encode()
        found[base + b"/predict"] = {b"POST": PredictHandler(plane, name)}
        found[base + b"/outcomes"] = {b"POST": OutcomeHandler(plane, name)}
    found[b"/openapi.json"] = {b"GET": DocumentHandler(lambda: _document(plane))}
    found.update(protocol_resources(plane, metrics=metrics))
    return found


def _document(plane: DataPlane) -> dict[str, Any]:
    contracts = {name: end.stable.contract for name, end in plane.endpoints.items() if end.arms}
    return openapi_document(contracts, title="Tidegate", version="1")
