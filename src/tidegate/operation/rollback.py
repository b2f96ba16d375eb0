"""Roll a service back wherever it is meant: the whole of `tidegate rollback`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import msgspec

from tidegate.core.clock import Clock
from tidegate.core.principal import Principal
from tidegate.operation.meant import rollback_meant
from tidegate.operation.release import Moved, roll_back
from tidegate.release.readiness import Cell

if TYPE_CHECKING:
    from tidegate.operation.mutation import UnitOfWork


class MovedBack(msgspec.Struct, frozen=True):
    """What a rollback came to.

    Attributes:
        service: Of which service.
        moved: By cell.
        n_cells: How many cells there are, of which those were meant.
    """

    service: str
    moved: dict[str, Moved]
    n_cells: int

    @property
    def one_or_all(self) -> Moved | list[Moved]:
        """What programs are told: of one cell as it is, of several as a list."""
        made = list(self.moved.values())
        return made[0] if len(made) == 1 else made


def roll_back_meant(
    open_unit: Callable[[], UnitOfWork],
    cells: Mapping[str, Cell],
    service: str | None,
    *,
    own: str,
    principal: Principal,
    clock: Clock,
    to: int | None = None,
    latch: bool = True,
    reason: str = "",
    key: str | None = None,
) -> MovedBack:
    """Undo what moved last, in every cell that is meant.

    Args:
        open_unit: Opens the metadata database, once traffic has moved.
        cells: Every cell, by name.
        service: Its name; None for the one that is on the move, or the only one.
        own: Name of the cell that is asked.
        principal: Who rolls back.
        clock: Says when.
        to: Version to go back to; the best one known if None.
        latch: Keep what is taken away from coming back by itself.
        reason: In the principal's words.
        key: Idempotency key of the decision; of several, each has the cell's name after it.

    Raises:
        NotFound: Nothing is served, or no such service.
        InvalidSetting: Several services could be meant, or `to` has not served before.
        TidegateError: As `release.rollback.switch_back`.
    """
    routes = {name: cell.routes.read() for name, cell in cells.items()}
    service, where = rollback_meant(routes, service, own=own, now_us=clock.wall_us(), to=to)
    moved = {
        name: roll_back(
            open_unit,
            cells[name],
            service,
            principal=principal,
            clock=clock,
            to=to,
            latch=latch,
            reason=reason,
            key=key if key is None or len(where) == 1 else f"{key}.{name}",
        )
        for name in where
    }
    return MovedBack(service, moved, len(cells))
