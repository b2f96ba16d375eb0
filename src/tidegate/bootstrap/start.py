"""Getting a home ready to serve a service's folder or a model file, and running the server."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import msgspec

from tidegate.bootstrap.declared import infer_from_model, read_source, write_source
from tidegate.bootstrap.feature import STORE_VARIABLE
from tidegate.bootstrap.folder import SERVICE_FILE, load_services, model_files
from tidegate.bootstrap.local import Local
from tidegate.bootstrap.process import ServerSettings, command
from tidegate.bootstrap.publish import Origin, publish
from tidegate.bootstrap.tls import tls_context
from tidegate.contract.schema import Contract
from tidegate.core.digest import digest_file
from tidegate.core.error import Corrupt, InvalidSetting, NotFound
from tidegate.core.home import DEFAULT_HOME, Home
from tidegate.operation.release import deploy_first
from tidegate.operation.version import list_services, list_versions
from tidegate.registry.store import StoreUnavailable
from tidegate.registry.version import Version
from tidegate.route.route import ServiceRoute

CONTRACT_SUFFIX = ".contract.py"


class Prepared(msgspec.Struct, frozen=True):
    """What a home serves when its server starts.

    Attributes:
        services: Name -> version with traffic.
        notes: What a person should know.
    """

    services: dict[str, int]
    notes: list[str]


def prepare_folder(
    local: Local, folder: Path, *, tell: Callable[[str], None] = lambda line: None
) -> Prepared:
    """See to it that every service of a folder has a route.

    A folder without a service.py is a collection of model files, each a service of its own.

    Raises:
        NotFound: One has no version yet.
        TidegateError: The folder cannot be loaded, or the registry cannot be reached.
    """
    if not (folder / SERVICE_FILE).exists() and (files := model_files(folder)):
        from tidegate.bootstrap.collection import publish_all  # nobody else needs what it imports

        return _routed(local, publish_all(local, files, name_of=service_name, tell=tell))
    known, routed = list_services(local.unit), local.routes.read().services
    notes: list[str] = []
    for service in load_services(folder):
        if service.name not in known:
            raise NotFound(
                f"No version of service {service.name!r} is registered in {local.home.root}.",
                hint=f"Train one first: tidegate train {folder}{_home_flag(local, folder)}",
                service=service.name,
            )
        _deploy(local, service.name, notes, routed.get(service.name))
    return _routed(local, notes)


def _home_flag(local: Local, folder: Path) -> str:
    """Return how a command is told of a home that is not beside the service."""
    root = local.home.root
    return "" if root == (folder / DEFAULT_HOME).absolute() else f" --home {root}"


def prepare_model(local: Local, path: Path, *, name: str | None = None) -> Prepared:
    """See to it that a model file is registered and its service has a route.

    Its contract is read from beside it, or inferred and written there. A file that changed since
    becomes a new version, which gets no traffic by itself.

    Raises:
        TidegateError: The model cannot be used, or the registry cannot be reached.
    """
    service = name or service_name(path)
    contract, notes = _contract_beside(path)
    versions = list_versions(local.unit, service) if service in list_services(local.unit) else []
    same = _same(versions, path, contract)
    if same is None:
        published = publish(
            local,
            service,
            path,
            contract=contract,
            origin=Origin(source=None, changelog=f"model file {path.name}"),
        )
        notes += published.notes
        if versions:
            number = published.version.number
            notes.append(
                f"{path.name} or its contract has changed: it is registered as version {number}, without "
                f"traffic. Move it there with: tidegate switch {service} {number}"
            )
    _deploy(local, service, notes, local.routes.read().services.get(service))
    return _routed(local, notes)


def prepare_home(local: Local) -> Prepared:
    """Take what the home has: its routes, and the first version of every service that has none.

    A service whose version cannot be read is left out, and the notes name it.

    Raises:
        NotFound: Nothing is registered.
        InvalidSetting: None of what is registered can be read.
        StoreUnavailable: The database cannot be reached, and there is no route to go by.
    """
    notes: list[str] = []
    routed = local.routes.read().services
    try:
        known = list_services(local.unit)
    except StoreUnavailable as error:
        if not routed:
            raise
        known = []
        notes.append(f"What else is registered is not known: {error.message}")
    if not known and not routed:
        raise NotFound(
            f"Nothing is registered in {local.home.root}.",
            hint="Name a service's folder or a model file: tidegate up FOLDER",
        )
    unread = []
    for service in known:
        try:
            _deploy(local, service, notes, routed.get(service))
        except (Corrupt, InvalidSetting, NotFound) as error:
            unread.append(f"{service} is not served, since its version cannot be read. {error.message}")
    prepared = _routed(local, notes + unread)
    if unread and not prepared.services:
        raise InvalidSetting(
            f"Nothing in {local.home.root} can be served. {' '.join(unread)}",
            hint="Register the model anew: tidegate register NAME MODEL",
        )
    return prepared


def service_name(path: Path) -> str:
    """Return the name of the service that a model file becomes, unless told otherwise."""
    name = re.sub(r"[^a-z0-9_-]+", "-", path.name.removesuffix(path.suffix).lower()).strip("-_")
    return name[:63] or "model"


def check_open(host: str, *, is_open: bool) -> None:
    """Pass if a port on `host` may be opened.

    Raises:
        InvalidSetting: Others could reach it, and nobody said that they may.
    """
    try:
        is_loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_loopback = host == "localhost"
    if not is_loopback and not is_open:
        raise InvalidSetting(
            f"The address {host} can be reached from other machines, and nothing here asks for a token.",
            hint="Say --open if everybody who reaches it may use it; else put a proxy before it.",
            host=host,
        )


def check_server(server: ServerSettings) -> None:
    """Pass if what the server needs beside its services is there: its certificate, a library for its tables.

    Raises:
        InvalidSetting: The certificate cannot be used.
        MissingExtra: Records are to be copied, and the library for it is not installed.
    """
    tls_context(server)
    if server.records_delta:
        from tidegate.bootstrap.delta import check_delta  # nobody else needs what it imports

        check_delta(server.records_delta)


def check_alone(home: Home) -> None:
    """Pass if no server runs on a home.

    The supervisor makes sure of it once more; this is told before anything is registered, moved or printed.

    Raises:
        ServerRunning: One does.
    """
    from tidegate.bootstrap.supervisor import ServerRunning, read_record  # nobody else needs what it imports

    if read_record(home) is not None:
        raise ServerRunning.of(home)


def open_standard_streams() -> None:
    """Open the null device for what a shell has closed (`>&-`): else a file of ours takes its place."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest that is free: this one


def serve(local: Local) -> NoReturn:
    """Become the supervisor of a home's server, until SIGTERM or SIGINT.

    The process is replaced: what registering needed, a database toolkit and more, would otherwise
    stay in memory as long as the server runs.
    """
    if local.settings.database_url:
        # It may hold a password, so it is not on the children's command lines, which everybody can read.
        os.environ["TIDEGATE_DATABASE_URL"] = local.settings.database_url
    if local.settings.online_store:
        os.environ[STORE_VARIABLE] = local.settings.online_store
    if local.settings.alert_urls:
        os.environ["TIDEGATE_ALERT_URLS"] = local.settings.alert_urls
    local.close()
    if sys.stdout is not None:  # it is if its descriptor was closed when Python started
        with contextlib.suppress(OSError):
            sys.stdout.flush()
    line = command("supervisor", local.settings.server)
    os.execv(line[0], line)  # noqa: S606 - our own interpreter, by a list of arguments


def _deploy(local: Local, service: str, notes: list[str], route: ServiceRoute | None) -> None:
    """Give a service its first route, unless the one it has leads somewhere.

    The route is handed in, since to read the routes anew for each of thousands of services takes minutes.
    """
    if route is not None and route.arms:
        return
    others = [cell.routes.read().services.get(service) for cell in local.cells.values()]
    served = {other.stable for other in others if other is not None and other.stable is not None}
    moved = deploy_first(
        local.unit,
        local.cell,
        service,
        version=served.pop() if len(served) == 1 else None,  # a cell that is new begins with what others have
        fallback_of=local.fallback_of,
        placement_of=local.placement_of,
        principal=local.principal,
        clock=local.clock,
    )
    notes.append(
        f"First deployment of {service}: version {moved.decision.version} (decision {moved.number})."
    )


def _routed(local: Local, notes: list[str]) -> Prepared:
    routes = local.routes.read().services
    return Prepared({name: route.stable for name, route in routes.items() if route.stable}, notes)


def _contract_beside(path: Path) -> tuple[Contract, list[str]]:
    inferred = infer_from_model(path)
    place = path.with_name(path.name.removesuffix(path.suffix) + CONTRACT_SUFFIX)
    if place.exists():
        return read_source(place, batched=inferred.batched), [f"The contract is as {place} says."]
    write_source(inferred, place)
    return inferred, [f"The contract was inferred from the model and written to {place}, for you to edit."]


def _same(versions: list[Version], path: Path, contract: Contract) -> Version | None:
    """Return the version that was made of this file under this contract."""
    digest = digest_file(path)
    for version in versions:
        if version.contract == contract.fingerprint and digest in version.artifacts:
            return version
    return None
