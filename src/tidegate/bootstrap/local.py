"""One home, opened on this machine: the stores, and what commands and notebooks do with them.

What a store needs is imported when it is opened: a rollback moves traffic before it has any use for a
database, and must not wait for the half second that importing one takes.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from tidegate.bootstrap.setting import Settings
from tidegate.core.clock import SystemClock
from tidegate.core.digest import Digest
from tidegate.core.home import Home
from tidegate.core.principal import Principal, local_principal
from tidegate.release.readiness import Cell
from tidegate.route.status import StatusBoard
from tidegate.route.store import RouteStore

if TYPE_CHECKING:
    from tidegate.adapter.files.artifact import LocalArtifactStore
    from tidegate.adapter.sql.unit import SqlUnitOfWork


class Local:
    """The stores of one home, each opened at first use."""

    def __init__(self, settings: Settings, *, principal: Principal | None = None) -> None:
        """Take settings.

        Args:
            settings: Where everything is.
            principal: Who acts; the user of the operating system if None.
        """
        self.settings = settings
        self.home = Home(Path(settings.home), cell=settings.cell)
        self.clock = SystemClock()
        self.principal = principal or local_principal()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the database, if it was opened."""
        unit = vars(self).pop("unit", None)
        if unit is not None:
            unit.close()

    @cached_property
    def unit(self) -> SqlUnitOfWork:
        """The metadata database."""
        from tidegate.adapter.sql.unit import open_database

        return open_database(self.settings.database_url or self.home.database_url)

    @cached_property
    def artifacts(self) -> LocalArtifactStore:
        """Files by their content."""
        from tidegate.adapter.files.artifact import LocalArtifactStore

        return LocalArtifactStore(self.home.artifacts)

    @cached_property
    def routes(self) -> RouteStore:
        return RouteStore(self.home.route(self.settings.cell), cell=self.settings.cell, clock=self.clock)

    @cached_property
    def cell(self) -> Cell:
        """The route and the workers that follow it, for releases."""
        workers = StatusBoard(self.home.workers(self.settings.cell))
        return Cell(routes=self.routes, workers=workers, clock=self.clock, pending=self.home.run / "pending")

    @property
    def cells(self) -> dict[str, Cell]:
        """The cells of this home that have a route, by name; its own if none has."""
        own = self.settings.cell
        folder = self.home.route(own).parent
        names = {each.name for each in folder.iterdir() if any(each.iterdir())} or {own}
        return {name: self.cell if name == own else self._cell(name) for name in sorted(names)}

    def _cell(self, name: str) -> Cell:
        home = Home(self.home.root, cell=name)
        routes = RouteStore(home.route(name), cell=name, clock=self.clock)
        workers = StatusBoard(home.workers(name))
        return Cell(routes=routes, workers=workers, clock=self.clock, pending=home.run / "pending")

    def fallback_of(self, manifest: Digest) -> tuple[str, ...]:
        """Return the names of a version's fallback chain, from its manifest."""
        from tidegate.service.manifest import Manifest

        found = Manifest.from_json(self.artifacts.read_bytes(manifest))
        return tuple(fallback.name for fallback in found.fallback)

    def placement_of(self, manifest: Digest) -> str:
        """Return when workers load a version, as its manifest declares it; "" where it does not."""
        from tidegate.service.manifest import Manifest

        found = Manifest.from_json(self.artifacts.read_bytes(manifest))
        return found.placement.load if found.placement is not None else ""
