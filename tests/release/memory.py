"""A metadata database in memory that keeps its promises, and breaks off where it is told to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tidegate.core.decision import Decision
from tidegate.core.digest import Digest
from tidegate.core.error import Conflict, NotFound
from tidegate.governance.audit import AuditEntry, AuditEvent, Head, extend
from tidegate.operation.mutation import StoredMutation
from tidegate.registry.store import CommitUnknown, StoredDecision, StoreUnavailable
from tidegate.registry.version import Version
from tidegate.release.book import StoredRelease
from tidegate.release.lease import Lease

GENESIS = Head(0, Digest("sha256:" + "0" * 64))


class Tables:
    """Everything that is kept."""

    def __init__(self) -> None:
        self.versions: dict[tuple[str, int], Version] = {}
        self.decisions: list[StoredDecision] = []
        self.entries: list[AuditEntry] = []
        self.mutations: dict[str, StoredMutation] = {}
        self.releases: dict[str, StoredRelease] = {}
        self.leases: dict[str, Lease] = {}

    def copy(self) -> Tables:
        copied = Tables()
        for name, value in vars(self).items():
            setattr(copied, name, value.copy())
        return copied


class MemoryTransaction:
    """All stores of one transaction."""

    def __init__(self, tables: Tables) -> None:
        self.tables = tables
        self.records: dict[str, Digest] = {}
        self.versions = self.decisions = self.audit = self.mutations = self.releases = self.leases = self

    # audit
    def lock(self) -> Head:
        return self.head()

    def head(self) -> Head:
        if not self.tables.entries:
            return GENESIS
        return Head(self.tables.entries[-1].sequence, self.tables.entries[-1].hash)

    # decisions and audit share a name; what is appended tells them apart
    def append(self, item: Decision | AuditEvent) -> StoredDecision | AuditEntry:
        if isinstance(item, AuditEvent):
            entry = extend(self.head(), item)
            self.tables.entries.append(entry)
            return entry
        stored = StoredDecision(len(self.tables.decisions) + 1, item)
        self.tables.decisions.append(stored)
        return stored

    # mutations and leases
    def find(self, key: str) -> StoredMutation | Lease | None:
        return self.tables.mutations.get(key) or self.tables.leases.get(key)

    def replace(self, old: Lease | None, new: Lease) -> bool:
        if self.tables.leases.get(new.name) != old:
            return False
        self.tables.leases[new.name] = new
        return True

    # mutations and releases
    def add(self, item: StoredMutation | StoredRelease) -> None:
        if isinstance(item, StoredMutation):
            self.tables.mutations[item.key] = item
            return
        if item.is_open and self.find_open(item.service) is not None:
            raise Conflict(f"A release of service {item.service!r} is under way.")
        self.tables.releases[item.id] = item

    def save(self, release: StoredRelease, *, revision: int) -> None:
        present = self.tables.releases.get(release.id)
        if present is None or present.revision != revision:
            raise Conflict("The release was changed by someone else meanwhile.")
        self.tables.releases[release.id] = release

    # versions and releases
    def get(self, name: str, number: int | None = None) -> Version | StoredRelease:
        try:
            return self.tables.releases[name] if number is None else self.tables.versions[name, number]
        except KeyError:
            raise NotFound(f"There is no {name} {number}.") from None

    def find_open(self, service: str) -> StoredRelease | None:
        found = [each for each in self.tables.releases.values() if each.service == service and each.is_open]
        return found[0] if found else None

    def page(
        self, service: str | None = None, *, open_only: bool = False, limit: int = 100
    ) -> list[StoredRelease]:
        found = [
            each
            for each in self.tables.releases.values()
            if service in (None, each.service) and (each.is_open or not open_only)
        ]
        return found[::-1][:limit]


class MemoryUnit:
    """Gives transactions one at a time; `pause` is called wherever a process may die or wait.

    Attributes:
        is_down: Nobody reaches it.
        tables: What is committed.
    """

    def __init__(self, pause: Callable[[], None] = lambda: None) -> None:
        self.tables = Tables()
        self.is_down = False
        self.pause = pause
        self._writing = False

    def _check(self) -> None:
        if self.is_down:
            raise StoreUnavailable("The database is down.")

    @contextmanager
    def read(self) -> Iterator[MemoryTransaction]:
        self.pause()
        self._check()
        yield MemoryTransaction(self.tables.copy())

    @contextmanager
    def write(self) -> Iterator[MemoryTransaction]:
        self.pause()
        self._check()
        if self._writing:  # another process holds the database, stopped in the middle: it gives up
            raise StoreUnavailable("The database is held by another.")
        self._writing = True
        try:
            draft = self.tables.copy()
            yield MemoryTransaction(draft)
            self.pause()
            self._check()
            self.tables = draft
        finally:
            self._writing = False
        self.pause()
        if self.is_down:
            raise CommitUnknown("The database was lost during the commit.")
