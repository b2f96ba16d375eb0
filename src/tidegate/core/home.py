"""The home folder: everything one Tidegate knows, so that deleting it is a reset and copying it a move."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from tidegate.core.error import Corrupt
from tidegate.core.identifier import check_name

DEFAULT_HOME = Path(".tidegate")
_KEY_BYTES = 32


class Home:
    """Names the places inside the home folder; creates each on first use."""

    def __init__(self, root: Path, *, cell: str = "local") -> None:
        """Take a folder.

        Args:
            root: The folder.
            cell: Whose server runs; several cells of one home have a server each.
        """
        self.root = root.absolute()
        self._own = () if cell == "local" else ("cells", check_name("cell", cell))

    def _folder(self, *parts: str) -> Path:
        folder = self.root.joinpath(*parts)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @property
    def database_url(self) -> str:
        """SQLAlchemy URL of the embedded metadata database."""
        return f"sqlite:///{self._folder() / 'metadata.db'}"

    @property
    def artifacts(self) -> Path:
        return self._folder("artifacts")

    @property
    def journal(self) -> Path:
        return self._folder("journal")

    @property
    def ledger(self) -> Path:
        """The tailer's database: positions, tallies and joined outcomes."""
        return self._folder() / "ledger.db"

    @property
    def features(self) -> Path:
        """The embedded online store of features."""
        return self._folder() / "features.db"

    @property
    def records(self) -> Path:
        """Predictions as Parquet, by service and day."""
        return self._folder("records")

    @property
    def profiles(self) -> Path:
        """Profiles by hour, counted from the records; may be deleted."""
        return self._folder() / "profiles.db"

    @property
    def metrics(self) -> Path:
        return self._folder(*self._own, "metrics")

    @property
    def run(self) -> Path:
        """Process files of a running server: its lock, its addresses, its sockets' folder."""
        return self._folder(*self._own, "run")

    @property
    def counting(self) -> Path:
        """Locked by the one process that counts the journal, of whichever cell."""
        return self._folder("run") / "counting.lock"

    def route(self, cell: str = "local") -> Path:
        """Return the folder of a cell's route files."""
        return self._folder("route", cell)

    def workers(self, cell: str = "local") -> Path:
        """Return the folder of a cell's worker status files."""
        return self._folder("workers", cell)

    def secret_key(self) -> bytes:
        """Return the key under which identifiers are hashed, made at first use with mode 0600.

        Raises:
            Corrupt: The key file has another length than it was written with.
        """
        path = self._folder() / "secret.key"
        try:
            key = path.read_bytes()
        except FileNotFoundError:
            key = secrets.token_bytes(_KEY_BYTES)
            draft = path.with_name(f"secret.key.{os.getpid()}")
            draft.touch(mode=0o600)
            draft.write_bytes(key)
            try:  # a link, not a rename: of two processes that start at once the first one's key stays
                os.link(draft, path)
            except FileExistsError:
                key = path.read_bytes()
            finally:
                draft.unlink()
        if len(key) != _KEY_BYTES:
            raise Corrupt(
                f"The key file {path} has {len(key)} bytes, expected {_KEY_BYTES}.",
                hint="Restore it from a copy of this home; a new key would hash the same keys differently.",
                path=str(path),
            )
        return key
