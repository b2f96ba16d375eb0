"""The Open Inference Protocol beside inference: health, metadata, configuration, statistics, index."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from tidegate.contract.protocol import TensorMetadata
from tidegate.contract.violation import MalformedBody
from tidegate.serving.dataplane import DataPlane
from tidegate.serving.endpoint import Endpoint, LoadedVersion
from tidegate.serving.http.exchange import Exchange, Handler, Unsupported
from tidegate.serving.http.inference import InferHandler, ProtocolFace
from tidegate.serving.http.signature import Signature
from tidegate.serving.http.statistic import Version, model_statistics

EXTENSIONS = ("binary_tensor_data", "model_configuration", "parameters", "schedule_policy", "statistics")
"""Names of the protocol's extensions that are served, as Triton calls them."""

SERVER_VERSION = "0.1.0"
"""The package's version: reading it from its metadata would cost each worker a megabyte of imports."""

_encode = msgspec.json.Encoder().encode

Resources = dict[bytes, Mapping[bytes, Handler]]


class ModelMetadata(msgspec.Struct):
    """A model's tensors."""

    name: str
    versions: list[str]
    platform: str
    inputs: tuple[TensorMetadata, ...]
    outputs: tuple[TensorMetadata, ...]


class IndexRequest(msgspec.Struct):
    """What a repository index is asked for.

    Attributes:
        ready: Whether only versions that are ready are wanted.
    """

    ready: bool = False


class IndexEntry(msgspec.Struct):
    """A version in the repository index."""

    name: str
    version: str
    state: str
    reason: str


_decode_index = msgspec.json.Decoder(IndexRequest).decode


def resources(plane: DataPlane, *, metrics: Path) -> Resources:
    """Return path -> method -> handler of what the protocol has beside the services.

    Args:
        plane: The data plane.
        metrics: Folder of the workers' metric pages.
    """
    server = {"name": "tidegate", "version": SERVER_VERSION, "extensions": EXTENSIONS}
    return {
        b"/v2": _get(plane, lambda: (200, server)),
        b"/v2/health/live": _get(plane, lambda: (200, {"live": True})),
        b"/v2/health/ready": _get(plane, lambda: _readiness(plane)),
        b"/v2/models/stats": _get(plane, lambda: (200, model_statistics(metrics, _every(plane)))),
        b"/v2/repository/index": {b"POST": _IndexHandler(plane)},
    }


def _every(plane: DataPlane) -> list[Version]:
    return [
        (name, number) for name, endpoint in plane.endpoints.items() for number in sorted(endpoint.pinnable)
    ]


def service_resources(plane: DataPlane, name: str, *, metrics: Path) -> Resources:
    """Return path -> method -> handler of one service."""
    endpoint = plane.endpoints[name]
    stable = endpoint.stable if endpoint.arms else None
    named = {*endpoint.pinnable.values(), *([stable] if stable is not None else [])}
    signatures = {version: Signature(version) for version in named}
    base = f"/v2/models/{name}".encode()
    numbers = sorted(endpoint.pinnable)
    every = [(name, number) for number in numbers]
    refusal = {b"POST": _UnsupportedHandler(plane, name)}
    found: Resources = {
        f"/v2/repository/models/{name}/load".encode(): refusal,
        f"/v2/repository/models/{name}/unload".encode(): refusal,
        base + b"/infer": {b"POST": InferHandler(plane, endpoint, signatures)},
        base + b"/ready": _get(plane, lambda: _model_readiness(plane, endpoint), name),
        base + b"/stats": _get(plane, lambda: (200, model_statistics(metrics, every)), name),
        **_description(plane, base, endpoint, signatures, stable),
    }
    for number in numbers:
        version = endpoint.pinnable[number]
        pinned = base + f"/versions/{number}".encode()
        found[pinned + b"/infer"] = {b"POST": InferHandler(plane, endpoint, signatures, version=version)}
        found[pinned + b"/ready"] = _get(plane, lambda: (200, {"name": name, "ready": True}), name)
        found[pinned + b"/stats"] = _get(plane, _statistics_of(metrics, (name, number)), name)
        found.update(_description(plane, pinned, endpoint, signatures, version))
    for number in sorted(endpoint.awaited):
        found.update(_awaited(plane, endpoint, number, metrics=metrics))
    return found


def _awaited(plane: DataPlane, endpoint: Endpoint, number: int, *, metrics: Path) -> Resources:
    """Return the resources of a version that the route names and that is not loaded."""
    name = endpoint.service
    base = f"/v2/models/{name}/versions/{number}".encode()
    unready = {"name": name, "ready": False, "error": endpoint.not_loaded(number).message}
    refusal = _AwaitedHandler(plane, endpoint, number)
    return {
        base: {b"GET": refusal},
        base + b"/config": {b"GET": refusal},
        base + b"/infer": {b"POST": refusal},
        base + b"/ready": _get(plane, lambda: (400, unready), name),
        base + b"/stats": _get(plane, _statistics_of(metrics, (name, number)), name),
    }


def _description(
    plane: DataPlane,
    base: bytes,
    endpoint: Endpoint,
    signatures: Mapping[LoadedVersion, Signature],
    version: LoadedVersion | None,
) -> Resources:
    """Return the resources that say what a version takes and gives."""
    name = endpoint.service
    if version is None:

        def refuse() -> tuple[int, Any]:
            _ = endpoint.stable  # says what is missing
            return 200, {}

        return {base: _get(plane, refuse, name), base + b"/config": _get(plane, refuse, name)}
    signature = signatures[version]
    numbers = [str(number) for number in sorted(endpoint.pinnable)]
    metadata = ModelMetadata(name, numbers, signature.platform, signature.inputs, signature.outputs)
    config = model_config(name, signature)
    return {
        base: _get(plane, lambda: (200, metadata), name),
        base + b"/config": _get(plane, lambda: (200, config), name),
    }


def model_config(name: str, signature: Signature) -> dict[str, Any]:
    """Return the part of Triton's model configuration that clients read.

    With batching, dimensions are without the rows, and a scalar is [1] reshaped to [].
    """
    contract = signature.contract
    optional = {field.name: field.optional for field in contract.input.fields}
    inputs = [
        {**_config_of(meta, batched=contract.batched), "optional": is_optional}
        for meta, is_optional in zip(signature.inputs, optional.values(), strict=True)
    ]
    return {
        "name": name,
        "platform": signature.platform,
        "backend": "tidegate",
        "max_batch_size": signature.version.limits.max_rows if contract.batched else 0,
        "input": inputs,
        "output": [_config_of(meta, batched=contract.batched) for meta in signature.outputs],
    }


def _config_of(meta: TensorMetadata, *, batched: bool) -> dict[str, Any]:
    kind = "TYPE_STRING" if meta.datatype == "BYTES" else f"TYPE_{meta.datatype}"
    dims = list(meta.shape[1:] if batched else meta.shape)
    config: dict[str, Any] = {"name": meta.name, "data_type": kind, "dims": dims or [1]}
    if not dims:
        config["reshape"] = {"shape": []}
    return config


def _statistics_of(metrics: Path, version: Version) -> Callable[[], tuple[int, Any]]:
    return lambda: (200, model_statistics(metrics, [version]))


def _readiness(plane: DataPlane) -> tuple[int, Any]:
    """Ready is a worker that has services and a stable version of each; not ready is 400.

    A service that is loaded on demand is ready without being loaded.
    """
    kept = plane.endpoints.items()
    ready = bool(plane.endpoints or plane.on_demand) and all(
        end.arms or name in plane.on_demand for name, end in kept
    )
    if ready and plane.unwell and all(_unwell(plane, end) for _, end in kept):
        ready = False  # one service that is unwell is no reason to keep callers from the others
    return 200 if ready else 400, {"ready": ready}


def _unwell(plane: DataPlane, endpoint: Endpoint) -> str:
    if not endpoint.arms:
        return ""
    return plane.unwell.get((endpoint.service, endpoint.stable.number), "")


def _model_readiness(plane: DataPlane, endpoint: Endpoint) -> tuple[int, Any]:
    if endpoint.arms:
        why = _unwell(plane, endpoint)
        if not why:
            return 200, {"name": endpoint.service, "ready": True}
        who = f"Version {endpoint.stable.number} of service {endpoint.service!r}"
        error = f"{who} does not pass its checks: {why}"
        return 400, {"name": endpoint.service, "ready": False, "error": error}
    error = f"Service {endpoint.service!r} has no version ready in this worker."
    return 400, {"name": endpoint.service, "ready": False, "error": error}


def _get(plane: DataPlane, make: Callable[[], tuple[int, Any]], service: str = "") -> Mapping[bytes, Handler]:
    return {b"GET": _DocumentHandler(plane, make, service)}


class _DocumentHandler(ProtocolFace):
    """Answers with a status and a JSON document that are made when they are asked for."""

    def __init__(self, plane: DataPlane, make: Callable[[], tuple[int, Any]], service: str) -> None:
        super().__init__(plane, service)
        self._make = make

    def handle(self, exchange: Exchange, body: bytes) -> None:
        """Send the document."""
        status, document = self._make()
        exchange.respond(status, _encode(document))


class _IndexHandler(ProtocolFace):
    """`POST /v2/repository/index`: what is loaded here."""

    def handle(self, exchange: Exchange, body: bytes) -> None:
        """List the versions of all services."""
        try:
            ready_only = _decode_index(body).ready if body.strip() else False
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
            raise MalformedBody(
                f"This is not an index request: {error}.", hint='Send {"ready": true}, {} or nothing.'
            ) from error
        entries = []
        for name, endpoint in self.plane.endpoints.items():
            entries += [IndexEntry(name, str(number), "READY", "") for number in sorted(endpoint.pinnable)]
            if not endpoint.arms and not ready_only:
                entries.append(IndexEntry(name, "", "UNAVAILABLE", "its stable version is not loaded"))
        exchange.respond(200, _encode(entries))


class _UnsupportedHandler(ProtocolFace):
    """Refuses to load and unload over the data port: versions move by releases alone."""

    def handle(self, exchange: Exchange, body: bytes) -> None:
        """Say who does it."""
        raise Unsupported(
            f"Service {self.service!r} cannot be loaded or unloaded over the data port.",
            hint="Versions move by releases: see `tidegate release` and `tidegate versions`.",
            service=self.service,
        )


class _AwaitedHandler(ProtocolFace):
    """Refuses, on their headers, requests for a version that is not loaded."""

    def __init__(self, plane: DataPlane, endpoint: Endpoint, number: int) -> None:
        super().__init__(plane, endpoint.service)
        self._endpoint = endpoint
        self._number = number

    def admit(self, exchange: Exchange) -> None:
        """Say what is missing."""
        raise self._endpoint.not_loaded(self._number)

    def handle(self, exchange: Exchange, body: bytes) -> None:
        """Answer nothing: no request is let in."""
