"""Where the files of snapshots are kept: a port that the artifact store fulfils."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from tidegate.core.digest import Digest


class FileStore(Protocol):
    """Files under their digests; content never changes under one."""

    def put_bytes(self, data: bytes) -> Digest:
        """Store `data` and return its digest. Returns once it survives a loss of power."""
        ...

    def put_file(self, path: Path) -> Digest:
        """Store a copy of the file at `path`."""
        ...

    def open(self, digest: Digest) -> Path:
        """Return the local path of a stored file, after checking every byte of it.

        Raises:
            NotFound: Nothing is stored under `digest`.
            Corrupt: The content is not what was stored.
        """
        ...

    def read_bytes(self, digest: Digest) -> bytes:
        """Return the content of a stored file, checked.

        Raises:
            NotFound: No file is stored under `digest`.
            Corrupt: The content is not what was stored.
        """
        ...
