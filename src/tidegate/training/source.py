"""The code a training ran: file by file, so that a later difference can be named."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from tidegate.core.digest import Digest, canonical_json, digest_bytes, digest_file
from tidegate.core.error import NotFound

_SKIPPED = frozenset({"__pycache__", "node_modules", "site-packages"})


class SourceFile(msgspec.Struct, frozen=True):
    """One file of code.

    Attributes:
        path: Relative to the folder, parts joined by `/`.
        digest: Of its bytes.
        size_bytes: Its length.
    """

    path: str
    digest: Digest
    size_bytes: int


class Source(msgspec.Struct, frozen=True, omit_defaults=True):
    """The Python files of a folder.

    Attributes:
        folder: Where they stood, on the machine of the training.
        files: In order of their paths.
    """

    folder: str
    files: tuple[SourceFile, ...] = ()

    @property
    def digest(self) -> Digest:
        """Digest of all files; equal to the code digest of the lineage of a version."""
        return digest_bytes(canonical_json({"kind": "folder", "files": self.files}))

    def differences(self, other: Source) -> list[str]:
        """Return in words which files differ in `other`, by path; where the folders stand is no matter."""
        mine = {file.path: file.digest for file in self.files}
        theirs = {file.path: file.digest for file in other.files}
        found = []
        for path in sorted(mine.keys() | theirs.keys()):
            if path not in theirs:
                found.append(f"{path} is gone")
            elif path not in mine:
                found.append(f"{path} is new")
            elif mine[path] != theirs[path]:
                found.append(f"{path} was changed")
        return found


def read_source(folder: Path) -> Source:
    """Describe the Python files in `folder` and below; caches and hidden folders are left out.

    Raises:
        NotFound: There is no such folder.
    """
    if not folder.is_dir():
        raise NotFound(f"There is no folder {folder}.", path=str(folder))
    files = [
        SourceFile(path.relative_to(folder).as_posix(), digest_file(path), path.stat().st_size)
        for path in _python_files(folder)
    ]
    return Source(str(folder.absolute()), tuple(sorted(files, key=lambda file: file.path)))


def _python_files(folder: Path) -> Iterator[Path]:
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name not in _SKIPPED and not name.startswith(".")]
        yield from (Path(place, name) for name in names if name.endswith(".py"))
