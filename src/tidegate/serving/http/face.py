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
from tidegate.serving.http.repository import service_resources as protocol_service
from tidegate.serving.http.signature import described


def resources(plane: DataPlane, *, metrics: Path) -> dict[bytes, Mapping[bytes, Handler]]:
    """Return path -> method -> handler for all services that are routed now.

    Args:
        plane: The data plane.
        metrics: Folder of the workers' metric pages, for the protocol's statistics.
    """
    found = {}
    for name in plane.endpoints:
        found.update(service_resources(plane, name, metrics=metrics))
    return found | common_resources(plane, metrics=metrics)


def common_resources(plane: DataPlane, *, metrics: Path) -> dict[bytes, Mapping[bytes, Handler]]:
    """Return the resources that belong to no service."""
    return {
        b"/openapi.json": {b"GET": DocumentHandler(lambda: _document(plane))},
        **protocol_resources(plane, metrics=metrics),
    }


def service_resources(plane: DataPlane, name: str, *, metrics: Path) -> dict[bytes, Mapping[bytes, Handler]]:
    """Return the resources of one service, by the generation that is served now."""
    base = f"/services/{name}".encode()
    return {
        base + b"/predict": {b"POST": PredictHandler(plane, name)},
        base + b"/outcomes": {b"POST": OutcomeHandler(plane, name)},
        **protocol_service(plane, name, metrics=metrics),
    }


def _document(plane: DataPlane) -> dict[str, Any]:
    services = {name: described(end.stable) for name, end in plane.endpoints.items() if end.arms}
    return openapi_document(services, title="Tidegate", version="1")
