"""What traffic did while the database was down, or while the process that moved it died: local files.

A move of traffic is noted here before it is made, and its decision as soon as there is one. The note
goes when the database has the decision; until then the next operation that finds the database up
puts it there. A rollback's note stays for a while even then: repeated under the same key it must be
known without asking a database.
"""

from __future__ import annotations

import hashlib
import logging
import os
import secrets
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from tidegate.core.clock import Clock
from tidegate.core.decision import Decision, Evidence, Verdict
from tidegate.core.digest import canonical_json
from tidegate.core.error import Conflict, InvalidSetting, TidegateError
from tidegate.core.principal import Principal
from tidegate.route.file import Files, LocalFiles
from tidegate.route.status import process_start
from tidegate.route.store import RouteStore

if TYPE_CHECKING:
    from tidegate.operation.mutation import UnitOfWork

_log = logging.getLogger("tidegate.pending")

INTERRUPTED = "interrupted"

_REMEMBERED_US = 24 * 3600 * 1_000_000
"""How long a rollback's key is known locally: longer than anybody repeats a request."""


class Move(msgspec.Struct, frozen=True):
    """A change of traffic that someone began.

    Attributes:
        key: Its idempotency key.
        kind: Kind of the decision that it will be.
        service: Name of the service.
        principal: Who.
        at_us: When it began, microseconds UTC.
        generation: Of the service's route at that time.
        pid: The process that makes it.
        started: Start time of that process.
        version: Where traffic is to go, if that was said.
        decision: What was decided; None until it is.
        number: Under which the database keeps the decision; None until it does.
    """

    key: str
    kind: str
    service: str
    principal: Principal
    at_us: int
    generation: int
    pid: int
    started: str
    version: int | None = None
    decision: Decision | None = None
    number: int | None = None

    @property
    def is_under_way(self) -> bool:
        """Whether the process that makes it still lives."""
        return self.decision is None and process_start(self.pid) == self.started


class PendingMoves:
    """The notes of one cell.

    Args:
        folder: Where they are; made at the first note.
        files: File operations; the local file system if None.
    """

    def __init__(self, folder: Path, *, files: Files | None = None) -> None:
        self._folder = folder
        self._files = files or LocalFiles()

    def find(self, key: str) -> Move | None:
        """Return the note of that key, or None.

        Raises:
            OSError: It cannot be read.
        """
        return self._load(self._path(key))

    def all(self) -> list[Move]:
        """Return every note, in the order the moves began.

        Raises:
            OSError: They cannot be read.
        """
        paths = [self._folder / name for name in self._files.names(self._folder) if name.endswith(".json")]
        found = [move for move in map(self._load, paths) if move is not None]
        return sorted(found, key=lambda move: (move.at_us, move.key))

    def begin(self, move: Move) -> None:
        """Note a move before it is made; takes the place of one that a dead process left.

        Raises:
            Conflict: A living process is making a move under this key.
            OSError: It cannot be noted.
        """
        self._files.make_folder(self._folder)
        path, draft = self._path(move.key), self._draft(move.key)
        self._files.write(draft, canonical_json(move), durable=True)
        try:
            self._files.link(draft, path)
        except FileExistsError:
            other = self._load(path)
            if other is not None and other.is_under_way:
                raise Conflict(
                    f"A {other.kind} of service {other.service!r} is being made under the key {move.key!r} "
                    f"by process {other.pid}.",
                    hint="Wait until it ends, then ask again with the same key.",
                    key=move.key,
                ) from None
            self._files.link(draft, copy := self._draft(move.key))
            self._files.rename(copy, path)
        finally:
            self._files.remove(draft)
        self._files.sync_folder(self._folder)

    def replace(self, move: Move) -> None:
        """Note how a move ended.

        Raises:
            OSError: It cannot be noted.
        """
        self._files.make_folder(self._folder)
        draft = self._draft(move.key)
        self._files.write(draft, canonical_json(move), durable=True)
        self._files.rename(draft, self._path(move.key))
        self._files.sync_folder(self._folder)

    def drop(self, key: str) -> None:
        """Forget a move.

        Raises:
            OSError: Its note cannot be removed.
        """
        self._files.remove(self._path(key))

    def set_aside(self, key: str) -> Path:
        """Take a move out of the notes, and keep its file for a person under another name.

        Returns:
            Where it is now.

        Raises:
            OSError: Its note cannot be renamed.
        """
        path = self._path(key)
        aside = path.with_suffix(".bad")
        self._files.rename(path, aside)
        self._files.sync_folder(self._folder)
        return aside

    def _path(self, key: str) -> Path:
        return self._folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"

    def _draft(self, key: str) -> Path:
        return self._path(key).with_suffix(f".{os.getpid()}.{secrets.token_hex(4)}")

    def _load(self, path: Path) -> Move | None:
        try:
            return msgspec.json.decode(self._files.read(path), type=Move)
        except (FileNotFoundError, msgspec.MsgspecError):
            return None


def reconcile(
    unit: UnitOfWork,
    pending: PendingMoves,
    routes: RouteStore,
    *,
    clock: Clock,
    except_key: str | None = None,
) -> int:
    """Put into the database what is noted and not there yet.

    Safe at any time, by any number of processes at once. A note that the database will never take is set
    aside and logged: it must not stand in the way of the others, nor of the next move.

    Args:
        unit: The metadata database.
        pending: The notes.
        routes: The cell's route: what became of moves whose process died shows there.
        clock: Says when.
        except_key: Key that the caller is about to use itself.

    Returns:
        How many decisions were put there.

    Raises:
        StoreUnavailable: The database cannot be reached.
        TidegateError: As `record_decision` and `RouteStore.read`.
        OSError: The notes cannot be read or removed.
    """
    from tidegate.operation.decide import record_decision
    from tidegate.registry.store import NotStorable

    # what the database says of a decision that it takes neither now nor later
    refused = (NotStorable, InvalidSetting, Conflict)
    n_stored = 0
    for move in pending.all():
        if move.number is not None:
            if clock.wall_us() - move.at_us > _REMEMBERED_US:
                pending.drop(move.key)
        elif move.decision is not None:
            try:
                keep(unit, pending, move, clock=clock)
                n_stored += 1
            except refused as error:
                _set_aside(pending, move, error)
        elif not move.is_under_way and move.key != except_key:
            # Under a key of its own: whoever repeats the move under its key goes on with it.
            key = f"interrupted-{hashlib.sha256(move.key.encode()).hexdigest()[:32]}-{move.at_us}"
            try:
                with suppress(Conflict):  # another process looked at the same time
                    record_decision(unit, _interrupted(move, routes, clock=clock), key=key, clock=clock)
                    n_stored += 1
                pending.drop(move.key)
            except refused as error:
                _set_aside(pending, move, error)
    return n_stored


def _set_aside(pending: PendingMoves, move: Move, error: TidegateError) -> None:
    with suppress(FileNotFoundError):  # another process did it at the same time
        _log.warning(
            "The decision on the %s of service %r by %s cannot be stored: %s Its note is kept in %s.",
            move.kind,
            move.service,
            move.principal.name,
            error.message,
            pending.set_aside(move.key),
        )


def keep(unit: UnitOfWork, pending: PendingMoves | None, move: Move, *, clock: Clock) -> int:
    """Put a move's decision into the database, and settle its note.

    Returns:
        The number under which it is kept.

    Raises:
        StoreUnavailable: The database cannot be reached; the note stays.
        CommitUnknown: It was lost during the commit; the note stays.
        ValueError: The move has no decision.
    """
    from tidegate.operation.decide import record_decision

    if move.decision is None:
        raise ValueError("a move without a decision cannot be kept")
    try:
        stored = record_decision(unit, move.decision, key=move.key, clock=clock)
    except Conflict:
        # Traffic has moved already, so that a key used for something else may not lose its decision.
        key = f"moved-{hashlib.sha256(canonical_json(move.decision)).hexdigest()[:32]}"
        stored = record_decision(unit, move.decision, key=key, clock=clock)
    if pending is not None:
        with suppress(OSError):
            if is_remembered(move.kind):
                pending.replace(msgspec.structs.replace(move, number=stored.result.id))
            else:
                pending.drop(move.key)
    return stored.result.id


def is_remembered(kind: str) -> bool:
    """Tell whether a move of that kind is known locally under its key after it is kept."""
    return kind in {"rollback", "switch-back", "safe-mode-on", "safe-mode-off"}


def _interrupted(move: Move, routes: RouteStore, *, clock: Clock) -> Decision:
    """Return what can be said of a move whose process died: what the route was, and what it is."""
    try:
        present = routes.read().services.get(move.service)
    except TidegateError:
        present = None
    observed = {
        "began_at_us": move.at_us,
        "generation_before": move.generation,
        "generation": present.generation if present else 0,
        "stable": present.stable if present else None,
    }
    reason = f"The process that made this {move.kind} ended before it could say what came of it."
    return Decision(
        kind=move.kind,
        service=move.service,
        version=move.version,
        outcome=INTERRUPTED,
        principal=move.principal,
        at_us=clock.wall_us(),
        reason=reason,
        evidence=[Evidence(rule="route-read", verdict=Verdict.UNDECIDED, reason=reason, observed=observed)],
    )
