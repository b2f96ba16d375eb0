"""The files of a cell's route: one immutable file a change, published by a link that cannot overwrite.

Why no lock and no rename: a writer that is stopped between its last check and its rename would undo
a newer route when it goes on, and one that is stopped inside the lock would block a rollback. Here
a change claims the next number; whoever comes second finds it taken (docs/decisions/0001).

What holds, at every step of any number of writers that may stop or die there:

- The highest number never decreases and names the route in force. Only numbers that lie `KEEP` or
  more below it are ever removed, so a writer that went to sleep before its link finds its number
  taken or far below the highest, where nobody looks.
- A change builds on the file directly below its own number (or on the nearest intact one).
- A service's generation grows with each of its changes and never exceeds the sequence.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import msgspec

from tidegate.core.clock import Clock, SystemClock
from tidegate.core.digest import canonical_json, digest_bytes
from tidegate.core.error import Conflict, Corrupt, InvalidSetting, TidegateError, system_hint
from tidegate.route.file import Files, LocalFiles
from tidegate.route.route import Route, ServiceRoute, check_route

KEEP = 64
"""Files kept, and how far below the highest number a reader looks. Every process of every release
that shares a folder must agree on it: a number may only be removed where nobody looks."""

_LEAST_RESERVE_BYTES = 64 << 10
_RESERVE_BYTES_A_SERVICE = 2048

_ATTEMPTS = 1_000
_FORMAT = 1
_NAME = re.compile(r"route\.(\d{12})\.json\Z")
_DRAFT = re.compile(r"draft\.(\d{12})\.")

Change = Callable[[ServiceRoute | None], ServiceRoute]
"""Maps a service's route to its next one; pure, since it is called again when another came first."""


class Fenced(Conflict):
    """A newer holder of the lease has written since; this writer's time is over."""

    code = "fenced"


class RouteStorageError(TidegateError):
    """The route's folder cannot be read or written."""

    code = "route_storage"


class Damage(msgspec.Struct, frozen=True):
    """A route file that cannot be followed.

    Attributes:
        path: The file.
        reason: What is wrong with it, in words.
    """

    path: str
    reason: str


class Reading(msgspec.Struct, frozen=True):
    """What the folder holds.

    Attributes:
        route: The newest intact route; the empty one where there is no file; None where there are
            files and none is intact.
        highest: Highest number in the folder, intact or not; 0 where there is none.
        damage: Files above `route` that were passed over, newest first.
    """

    route: Route | None
    highest: int
    damage: tuple[Damage, ...] = ()


class _Sealed(msgspec.Struct):
    checksum: str
    route: msgspec.Raw


def seal(route: Route) -> bytes:
    """Return the bytes of a route's file."""
    body = canonical_json(route)
    return b'{"checksum":"%s","route":%s}\n' % (digest_bytes(body).encode(), body)


def unseal(data: bytes) -> Route:
    """Return the route in a file's bytes.

    Raises:
        Corrupt: The bytes are not what was written, or a newer release wrote them.
    """
    try:
        sealed = msgspec.json.decode(data, type=_Sealed)
        body = bytes(sealed.route)
        if digest_bytes(body) != sealed.checksum:
            raise Corrupt("its checksum does not match")
        route = msgspec.json.decode(body, type=Route)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Corrupt(f"it is not a route file: {error}") from error
    if route.format > _FORMAT:
        raise Corrupt(f"it has format {route.format}, this release reads up to {_FORMAT}")
    return route


class RouteStore:
    """Reads and changes the route of one cell.

    Any number of processes may have one over the same folder.

    Args:
        folder: `home.route(cell)`.
        cell: Name of the cell; a file of another one counts as damaged.
        files: File operations; the local file system if None.
        clock: Stamps the files; the machine's if None.
        keep: As `KEEP`, which only a simulation changes.
    """

    def __init__(
        self,
        folder: Path,
        *,
        cell: str = "local",
        files: Files | None = None,
        clock: Clock | None = None,
        keep: int = KEEP,
    ) -> None:
        self.folder = folder
        self.cell = cell
        self.files = files or LocalFiles()
        self.keep = keep
        self._clock = clock or SystemClock()

    def path(self, sequence: int) -> Path:
        """Return where the route of that number is, was or will be."""
        return self.folder / f"route.{sequence:012d}.json"

    def highest(self) -> int:
        """Return the highest number in the folder, 0 where there is none.

        Raises:
            RouteStorageError: The folder cannot be listed.
        """
        return max(self._numbers(), default=0)

    def read(self) -> Route:
        """Return the route in force: the newest intact one, or the empty one.

        Raises:
            Corrupt: There are files and none is intact.
            RouteStorageError: The folder cannot be read.
        """
        return self._intact(self.inspect())

    def inspect(self) -> Reading:
        """Return the route in force together with the damage that was passed over to find it.

        Raises:
            RouteStorageError: The folder cannot be read.
        """
        while True:
            numbers = sorted(self._numbers(), reverse=True)
            highest = numbers[0] if numbers else 0
            damage: list[Damage] = []
            # Below this window lies only what a pruner has not removed yet, or what a writer that
            # slept has just published there.
            window = [number for number in numbers if number > highest - self.keep]
            try:
                for number in window:
                    found = self._load(number)
                    if isinstance(found, Route):
                        return Reading(found, highest, tuple(damage))
                    damage.append(found)
            except FileNotFoundError:
                continue  # so many changes were made since the listing that this file was removed
            return Reading(None if numbers else Route(self.cell), highest, tuple(damage))

    def change(
        self,
        service: str,
        change: Change,
        *,
        expected_generation: int | None = None,
        token: int | None = None,
    ) -> Route:
        """Replace the route of one service; compare and swap, retried while only others change.

        Args:
            service: Name of the service.
            change: Gives the service's next route. Its generation is set here. If it gives back
                what it got, nothing is written.
            expected_generation: Generation that the change was thought out for (0: none yet). If
                None, the one found at the first look: even then the change never lands on top of
                another change of this service that it has not seen.
            token: Fencing token of the writer's lease; None for a person, who holds no lease.

        Returns:
            The route in force with the change.

        Raises:
            Conflict: Another change of this service came first.
            Fenced: A writer with a higher token has written.
            InvalidSetting: The changed route cannot be followed.
            Corrupt: No intact file is left to build on.
            RouteStorageError: The folder cannot be read or written. If it fails after the link, the
                change is in force and only its durability is in doubt: read the route.
        """
        expected = expected_generation
        for _ in range(_ATTEMPTS):
            reading = self.inspect()
            base = self._intact(reading)
            self._check_token(base, token)
            old = base.services.get(service)
            generation = old.generation if old else 0
            if expected is None:
                expected = generation
            if generation != expected:
                raise self.conflict(service, expected=expected, found=generation)
            new = change(old)
            if new.service != service:
                raise InvalidSetting(f"A change of service {service!r} gave a route of {new.service!r}.")
            if new == old and not reading.damage:
                return base
            following = self._follow(reading, base, [new], token)
            published = self._publish(following)
            if published or (published is None and self._settle(following, service)):
                return following
        raise self._overrun()

    def change_all(self, changes: Mapping[str, Change], *, token: int | None = None) -> Route:
        """Replace the routes of many services by one new file; all of them or none.

        Args:
            changes: Name of a service -> its change, as `change` takes it.
            token: Fencing token of the writer's lease; None for a person.

        Returns:
            The route in force with the changes.

        Raises:
            TidegateError: As `change`.
        """
        seen: dict[str, int] | None = None
        for _ in range(_ATTEMPTS):
            reading = self.inspect()
            base = self._intact(reading)
            self._check_token(base, token)
            present = {name: base.services[name].generation for name in changes if name in base.services}
            if seen is None:
                seen = present
            elif seen != present:
                name = next(name for name in changes if seen.get(name) != present.get(name))
                raise self.conflict(name, expected=seen.get(name, 0), found=present.get(name, 0))
            new = [change(base.services.get(name)) for name, change in changes.items()]
            following = self._follow(reading, base, new, token)
            published = self._publish(following)
            if published or (published is None and all(self._settle(following, name) for name in changes)):
                return following
        raise self._overrun()

    def fence(self, token: int) -> Route:
        """Record the token of a new lease, so that every earlier holder is refused from now on.

        Returns:
            The route in force.

        Raises:
            Fenced: A writer with a higher token has written.
            Corrupt: No intact file is left to build on.
            RouteStorageError: The folder cannot be read or written.
        """
        for _ in range(_ATTEMPTS):
            reading = self.inspect()
            base = self._intact(reading)
            self._check_token(base, token)
            if token == base.token:
                return base
            self._publish(self._follow(reading, base, (), token))
        raise self._overrun()

    def _follow(self, reading: Reading, base: Route, new: Iterable[ServiceRoute], token: int | None) -> Route:
        sequence = reading.highest + 1
        services = dict(base.services)
        for each in new:
            old = services.get(each.service)
            services[each.service] = msgspec.structs.replace(
                check_route(each), generation=old.generation + 1 if old else 1
            )
        if reading.damage:
            # A damaged file may have been followed before it was damaged. No generation exceeds its
            # sequence, so this number is above any that a worker can have seen in it.
            services = {
                name: msgspec.structs.replace(each, generation=sequence) for name, each in services.items()
            }
        return Route(
            cell=self.cell,
            sequence=sequence,
            token=max(base.token, token or 0),
            services=services,
            written_us=self._clock.wall_us(),
            format=_FORMAT,
        )

    def _publish(self, route: Route) -> bool | None:
        """Publish `route` under its number.

        Returns:
            True if it was published; False if not; None if `keep` changes were made around the
            link, so that either may be the case.
        """
        target = self.path(route.sequence)
        draft = self.folder / f"draft.{route.sequence:012d}.{os.getpid()}.{secrets.token_hex(4)}"
        try:
            self._write(draft, seal(route))
            try:
                self.files.link(draft, target)
            except (FileExistsError, FileNotFoundError):
                return False  # taken; or the draft was removed as hopeless while this process slept
            self.files.sync_folder(self.folder)
            if route.sequence == 1:
                self.files.sync_folder(self.folder.parent)
        except OSError as error:
            raise self._storage_error("written", error) from error
        finally:
            with contextlib.suppress(OSError):
                self.files.remove(draft)
        highest = self.highest()
        self._prune(highest)
        self._hold_reserve(route)
        return True if highest < route.sequence + self.keep else None

    def _write(self, draft: Path, data: bytes) -> None:
        """Write a draft; on a full disk into the room that is held for just that."""
        try:
            self.files.write(draft, data, durable=True)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            self.files.remove(draft)
            self.files.remove(self._reserve)
            self.files.write(draft, data, durable=True)

    @property
    def _reserve(self) -> Path:
        return self.folder / "reserve"

    def _hold_reserve(self, route: Route) -> None:
        """Hold room on the disk, so that traffic can be moved once more when nothing else fits on it."""
        size = max(_LEAST_RESERVE_BYTES, _RESERVE_BYTES_A_SERVICE * len(route.services))
        try:
            if self._reserve.name not in self.files.names(self.folder):
                self.files.write(self._reserve, bytes(size), durable=False)
        except FileExistsError:
            return  # another writer's
        except OSError:  # as much as there was is no reserve
            with contextlib.suppress(OSError):
                self.files.remove(self._reserve)

    def _settle(self, route: Route, service: str) -> bool:
        """Find out whether a change is in force, where publishing could not tell."""
        mine, present = route.services[service], self.read().services.get(service)
        if present == mine:
            return True
        if present is None or present.generation < mine.generation:
            return False
        raise self.conflict(service, expected=mine.generation - 1, found=present.generation)

    def _prune(self, highest: int) -> None:
        """Remove what lies `keep` or more below the highest number; a failure costs only room."""
        with contextlib.suppress(OSError):
            for name in self.files.names(self.folder):
                match = _NAME.match(name) or _DRAFT.match(name)
                if match and int(match[1]) <= highest - self.keep:
                    self.files.remove(self.folder / name)

    def _numbers(self) -> list[int]:
        try:
            names = self.files.names(self.folder)
        except OSError as error:
            raise self._storage_error("listed", error) from error
        return [int(match[1]) for match in map(_NAME.match, names) if match]

    def _load(self, number: int) -> Route | Damage:
        path = self.path(number)
        try:
            route = unseal(self.files.read(path))
            if route.sequence != number:
                raise Corrupt(f"it holds route {route.sequence}")
            if route.cell != self.cell:
                raise Corrupt(f"it belongs to cell {route.cell!r}")
        except FileNotFoundError:
            raise
        except (Corrupt, OSError) as error:
            return Damage(str(path), str(error))
        return route

    def _intact(self, reading: Reading) -> Route:
        if reading.route is None:
            raise Corrupt(
                f"No route file in {self.folder} is intact; the newest: {reading.damage[0].reason}.",
                hint="Restore the folder from a copy of this home; without one, remove its files and "
                "deploy again.",
                path=str(self.folder),
            )
        return reading.route

    def _check_token(self, base: Route, token: int | None) -> None:
        if token is not None and token < base.token:
            raise Fenced(
                f"The route of cell {self.cell!r} has been written with token {base.token}; "
                f"this writer holds {token}.",
                hint="Its lease is lost: take a new one before the next change.",
                token=token,
                recorded=base.token,
            )

    def _overrun(self) -> Conflict:
        return Conflict(
            f"The route of cell {self.cell!r} changed {_ATTEMPTS} times while it was to be changed once.",
            hint="Find out which writer changes it without end.",
            cell=self.cell,
        )

    def _storage_error(self, what: str, error: OSError) -> RouteStorageError:
        return RouteStorageError(
            f"The route folder {self.folder} cannot be {what}: {error.strerror or error}.",
            hint=system_hint(error),
            path=str(self.folder),
        )

    def conflict(self, service: str, *, expected: int, found: int) -> Conflict:
        """Return the error that says that a service's route was changed by someone else."""
        return Conflict(
            f"The route of service {service!r} was changed by someone else: expected generation "
            f"{expected}, found {found}.",
            hint="Look at the service's status and decide again.",
            service=service,
            expected=expected,
            found=found,
        )
