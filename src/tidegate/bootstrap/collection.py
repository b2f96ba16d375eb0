"""A folder of model files: each is a service, and there may be thousands."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tidegate.adapter.files.artifact import LocalArtifactStore
from tidegate.bootstrap.local import Local
from tidegate.bootstrap.publish import Origin, publish
from tidegate.core.digest import Digest, digest_file
from tidegate.core.error import Conflict, InvalidSetting, TidegateError
from tidegate.operation.bulk import First, OneTransaction, deploy_all
from tidegate.operation.version import list_services, list_versions
from tidegate.registry.version import Version

_AT_ONCE = 200
"""Models of one transaction: the database's other writers wait for it, two seconds at most."""
_TOLD = 10


def publish_all(
    local: Local,
    files: Sequence[Path],
    *,
    name_of: Callable[[Path], str],
    tell: Callable[[str], None] = lambda line: None,
) -> list[str]:
    """Register and deploy model files, each as a service of its own; what is there already is left.

    A file that cannot be used is noted and left out. A file that has changed becomes a new version,
    which gets no traffic by itself.

    Args:
        local: The home.
        files: The files.
        name_of: Gives the name of a file's service.
        tell: Told how far it has come.

    Returns:
        What a person should know.

    Raises:
        InvalidSetting: Two files would be one service.
        TidegateError: The registry or the route cannot be written.
    """
    names: dict[str, Path] = {}
    for path in files:
        name = name_of(path)
        if name in names:
            raise InvalidSetting(
                f"{names[name].name} and {path.name} would both be service {name!r}.", hint="Rename one."
            )
        names[name] = path
    known = _known(local, names)
    notes: list[str] = []
    n_new = 0
    for chunk in _chunks(list(names.items())):
        n_new += _publish_chunk(local, chunk, known, notes)
        if len(names) > _AT_ONCE:
            tell(f"{n_new} of {len(names)} models are registered.")
    n_deployed = _deploy(local, names, known)
    if n_deployed:
        notes.append(f"First deployment of {n_deployed} services.")
    return [*notes[:_TOLD], *([f"... and {len(notes) - _TOLD} notes more."] if len(notes) > _TOLD else [])]


def _known(local: Local, names: dict[str, Path]) -> dict[str, list[Version]]:
    """Return the versions of the services that are registered already."""
    return {name: list_versions(local.unit, name) for name in list_services(local.unit) if name in names}


def _publish_chunk(
    local: Local, chunk: Sequence[tuple[str, Path]], known: dict[str, list[Version]], notes: list[str]
) -> int:
    artifacts = LocalArtifactStore(local.home.artifacts, syncs=False)
    made: dict[str, Version] = {}
    with local.unit.write() as transaction:
        # a home whose stores are those of this one transaction, so that publishing needs to know nothing
        together = Local(local.settings, principal=local.principal)
        vars(together).update(unit=OneTransaction(transaction), artifacts=artifacts)
        for name, path in chunk:
            versions = known.get(name, [])
            if any(digest_file(path) in version.artifacts for version in versions):
                continue
            try:
                origin = Origin(changelog=f"model file {path.name}")
                made[name] = publish(together, name, path, origin=origin).version
            except TidegateError as error:
                notes.append(f"{path.name} is left out: {error.message}")
                continue
            if versions:
                number = made[name].number
                notes.append(f"{path.name} has changed: version {number}, without traffic.")
        artifacts.flush()  # before the commit tells anybody that they are there
    for name, version in made.items():
        known.setdefault(name, []).append(version)
    return len(made)


def _deploy(local: Local, names: dict[str, Path], known: dict[str, list[Version]]) -> int:
    routed = local.routes.read().services
    firsts = {
        name: First(known[name][-1].number, Digest(known[name][-1].manifest))
        for name in names
        if name in known and not (name in routed and routed[name].arms)
    }
    try:
        return deploy_all(local.unit, local.cell, firsts, principal=local.principal, clock=local.clock)
    except Conflict as error:
        raise Conflict(
            f"Somebody else deployed one of these services just now. {error.message}", hint="Try again."
        ) from error


def _chunks(items: list[tuple[str, Path]]) -> Iterator[list[tuple[str, Path]]]:
    for at in range(0, len(items), _AT_ONCE):
        yield items[at : at + _AT_ONCE]
