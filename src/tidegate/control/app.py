"""The control plane's pages: health, metrics, services, versions, status."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import msgspec
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tidegate.bootstrap.overview import Overview
from tidegate.control.feature import FeaturePlane, feature_routes
from tidegate.control.metric import CONTENT_TYPE
from tidegate.control.traffic import TrafficPlane, traffic_routes
from tidegate.core.error import TidegateError
from tidegate.operation.state import ListedVersion
from tidegate.route.route import ServiceRoute

STATUS = {
    "not_found": 404,
    "conflict": 409,
    "latched": 409,
    "nothing_to_roll_back": 409,
    "invalid_setting": 400,
    "invalid_feature_data": 400,
    "feature_rows_mixed": 400,
    "online_store_unavailable": 503,
    "store_unavailable": 503,
    "ledger_unavailable": 503,
    "route_storage": 503,
}
"""HTTP status by error code; what is not listed is 500."""


class Plane(FeaturePlane, TrafficPlane, Protocol):
    """What the control plane shows. Each call may read files or the database."""

    def overview(self) -> Overview:
        """Return what the server is doing. Raises Corrupt, RouteStorageError."""
        ...

    def n_workers(self) -> int:
        """Return how many workers there should be."""
        ...

    def services(self) -> list[str]:
        """Return the names of registered services. Raises StoreUnavailable."""
        ...

    def versions(self, service: str) -> list[ListedVersion]:
        """Return a service's versions and where they stand. Raises NotFound, StoreUnavailable."""
        ...

    def route(self, service: str) -> ServiceRoute:
        """Return a service's route. Raises NotFound."""
        ...

    def metrics(self) -> bytes:
        """Return the metrics in Prometheus's text format."""
        ...


def make_app(plane: Plane) -> Starlette:
    """Return the ASGI application over `plane`."""

    def page(make: Callable[[Request], Any]) -> Callable[[Request], Any]:
        async def endpoint(request: Request) -> Response:
            # reading files and the database blocks: it must not hold up /healthz
            return _json(await run_in_threadpool(make, request))

        return endpoint

    async def healthz(_: Request) -> Response:
        return _json({"live": True})

    async def readyz(_: Request) -> Response:
        missing = await run_in_threadpool(lambda: not_ready(plane.overview(), plane.n_workers()))
        return _json({"ready": not missing, "missing": missing}, status=503 if missing else 200)

    async def metrics(_: Request) -> Response:
        return Response(await run_in_threadpool(plane.metrics), headers={"content-type": CONTENT_TYPE})

    return Starlette(
        routes=[
            *feature_routes(plane),
            *traffic_routes(plane),
            Route("/healthz", healthz),
            Route("/readyz", readyz),
            Route("/metrics", metrics),
            Route("/status", page(lambda _: plane.overview())),
            Route("/services", page(lambda _: {"services": plane.services()})),
            Route(
                "/services/{name}/versions",
                page(lambda request: {"versions": plane.versions(request.path_params["name"])}),
            ),
            Route("/services/{name}/route", page(lambda request: plane.route(request.path_params["name"]))),
        ],
        exception_handlers={TidegateError: _on_error, 404: _on_unknown_page, 405: _on_wrong_method},
    )


def not_ready(seen: Overview, n_workers: int) -> list[str]:
    """Return what is missing, in words, until every worker answers for every routed service."""
    missing = []
    if len(seen.workers) < n_workers:
        missing.append(f"{len(seen.workers)} of {n_workers} workers serve")
    if not seen.services:
        missing.append("no service has a route")
    missing.extend(
        f"{service.n_following} of {n_workers} workers follow generation {service.generation} "
        f"of {service.service}"
        for service in seen.services
        if service.n_following < n_workers
    )
    return missing


def _json(value: Any, *, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status_code=status, media_type="application/json")


def _error(code: str, message: str, hint: str, *, status: int) -> Response:
    return _json({"error": {"code": code, "message": message, "hint": hint}}, status=status)


async def _on_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, TidegateError)
    return _error(error.code, error.message, error.hint, status=STATUS.get(error.code, 500))


async def _on_unknown_page(request: Request, _: Exception) -> Response:
    pages = "/healthz, /readyz, /metrics, /status, /services"
    return _error("not_found", f"There is no page {request.url.path}.", f"Pages: {pages}.", status=404)


async def _on_wrong_method(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    allowed = ", ".join(sorted((error.headers or {})["Allow"].split(", ")))
    message = f"{request.url.path} does not take this method."
    answer = _error("method_not_allowed", message, f"Use {allowed}.", status=405)
    answer.headers["allow"] = allowed
    return answer
