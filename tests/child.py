"""What tests have other processes do. Imports nothing of the tests, so that a child starts quickly."""

import multiprocessing
import os
import signal
import sys
from contextlib import closing
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

from sqlalchemy import event

from tidegate.adapter.files.artifact import LocalArtifactStore
from tidegate.adapter.sql.engine import create, parse_url
from tidegate.adapter.sql.migrate import migrate
from tidegate.adapter.sql.unit import SqlUnitOfWork, open_database
from tidegate.core.clock import SystemClock
from tidegate.core.digest import digest_bytes
from tidegate.core.principal import Principal
from tidegate.operation.mutation import Outcome, UnitOfWork
from tidegate.operation.register import register
from tidegate.registry.version import Version

PRINCIPAL = Principal("ana@laptop")

# A server that has the imports behind it forks each child in milliseconds.
context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload([__name__])

_JOIN_S = 60.0


def start(target: Any, *arguments: Any) -> BaseProcess:
    """Start a child process."""
    process = context.Process(target=target, args=arguments)
    process.start()
    return process


def finish(process: BaseProcess) -> int:
    """Wait for a child and return its exit code: negative for the signal that ended it."""
    process.join(_JOIN_S)
    assert process.exitcode is not None, "the child hangs"
    return process.exitcode


def register_one(
    unit: UnitOfWork, store: LocalArtifactStore, service: str, key: str, *, changelog: str = ""
) -> Outcome[Version]:
    """Register a version whose files differ from all others'."""
    artifact = store.put_bytes(f"model {service} {key}".encode())
    return register(
        unit,
        store,
        service=service,
        manifest=f'{{"service":"{service}","key":"{key}"}}'.encode(),
        artifacts=[artifact],
        contract=digest_bytes(b"contract"),
        principal=PRINCIPAL,
        key=key,
        clock=SystemClock(),
        changelog=changelog,
    )


def register_many(url: str, root: Path, service: str, keys: list[str], together: Barrier) -> None:
    """Register a version under each key, beginning when all others begin."""
    with closing(open_database(url)) as unit:
        together.wait()
        for key in keys:
            register_one(unit, LocalArtifactStore(root), service, key)


def add_many(url: str, service: str, n: int, together: Barrier) -> None:
    """Add versions through the store alone, without the audit chain's lock."""
    from tidegate.registry.version import VersionDraft

    digest = digest_bytes(b"")
    with closing(open_database(url)) as unit:
        together.wait()
        for _ in range(n):
            with unit.write() as transaction:
                draft = VersionDraft(service=service, manifest=digest, contract=digest)
                transaction.versions.add(draft, principal=PRINCIPAL, at_us=1)


def open_together(url: str, together: Barrier) -> None:
    """Open a database that may not exist yet."""
    together.wait()
    open_database(url).close()


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class _Countdown:
    """Kills this process when it is called for the n-th time."""

    def __init__(self, n: int) -> None:
        self.left = n

    def __call__(self, *_arguments: object) -> None:
        self.left -= 1
        if self.left == 0:
            _die()


def register_and_die(url: str, root: Path, service: str, key: str, at: int) -> None:
    """Register a version, and die before the `at`-th statement or commit, or behind the commit."""
    engine = create(parse_url(url))
    migrate(engine)
    countdown = _Countdown(at)
    event.listen(engine, "before_cursor_execute", countdown)
    event.listen(engine, "commit", countdown)
    event.listen(engine, "checkin", countdown)  # the connection goes back: the commit is done
    register_one(SqlUnitOfWork(engine), LocalArtifactStore(root), service, key)


def open_and_die(url: str, at: int) -> None:
    """Create a database's schema, and die before the `at`-th statement or commit."""
    engine = create(parse_url(url))
    countdown = _Countdown(at)
    event.listen(engine, "before_cursor_execute", countdown)
    event.listen(engine, "commit", countdown)
    migrate(engine)


def put_and_die(root: Path, source: Path, at: int) -> None:
    """Store a file or folder, and die before the `at`-th thing that is done to the file system."""
    store = LocalArtifactStore(root)
    countdown = _Countdown(at)
    watched = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree")

    def watch(name: str, arguments: tuple[Any, ...]) -> None:
        if name in watched and str(arguments[0]).startswith(str(root)):
            countdown()

    sys.addaudithook(watch)
    if source.is_dir():
        store.put_folder(source)
    else:
        store.put_file(source)


def put_together(root: Path, source: Path, n: int, together: Barrier) -> None:
    """Store the same file or folder again and again, beginning when all others begin."""
    together.wait()
    for _ in range(n):
        store = LocalArtifactStore(root)
        digest = store.put_folder(source) if source.is_dir() else store.put_file(source)
        store.open(digest)
