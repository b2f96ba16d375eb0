"""Artifacts: the files of a predictor, named by what they contain."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from typing import Protocol

import msgspec

from tidegate.core.digest import Digest, canonical_json, digest_bytes, is_digest
from tidegate.core.error import InvalidSetting, TidegateError


class ArtifactRefused(TidegateError):
    """Something cannot become an artifact: a link, an unsafe path, a special file, or too much."""

    code = "artifact_refused"


class ArtifactLimits(msgspec.Struct, frozen=True):
    """How much one artifact may be, so that a mistaken path does not fill the disk.

    Attributes:
        file_size_bytes: Largest single file. 16 GiB holds the weights of an 8-billion-parameter
            model in half precision.
        folder_size_bytes: Largest sum of a folder's files.
        n_files: Most files in a folder.
        depth: Most levels of sub-folders.
    """

    file_size_bytes: int = 16 << 30
    folder_size_bytes: int = 64 << 30
    n_files: int = 10_000
    depth: int = 16


class FileEntry(msgspec.Struct, frozen=True):
    """One file of a folder.

    Attributes:
        path: Relative, parts joined by `/`.
        digest: Of its bytes.
        size_bytes: Its length.
    """

    path: str
    digest: Digest
    size_bytes: int


class FolderManifest(msgspec.Struct, frozen=True, tag="folder", tag_field="kind"):
    """What a folder is: its files by relative path, in order. Modes, times and empty folders are not.

    Its digest is the folder's digest.
    """

    files: tuple[FileEntry, ...]

    @classmethod
    def of(cls, files: list[FileEntry]) -> FolderManifest:
        """Put `files` in their canonical order.

        Raises:
            ArtifactRefused: A path is unsafe or stands twice.
        """
        for entry in files:
            check_relative_path(entry.path)
        ordered = sorted(files, key=lambda entry: entry.path)
        for one, other in pairwise(ordered):
            if one.path == other.path:
                raise ArtifactRefused(f"The path {one.path!r} stands twice in one folder.", path=one.path)
        return cls(files=tuple(ordered))

    def to_json(self) -> bytes:
        """Return the canonical JSON form, UTF-8."""
        return canonical_json(self)

    @property
    def digest(self) -> Digest:
        return digest_bytes(self.to_json())


class ArtifactStore(Protocol):
    """Where artifacts are kept. Content never changes under a digest.

    Safe for use by several threads and processes at once.
    """

    def put_bytes(self, data: bytes) -> Digest:
        """Store `data` and return its digest. Returns once it survives a loss of power."""
        ...

    def put_file(self, path: Path) -> Digest:
        """Store a copy of the file at `path`.

        Raises:
            NotFound: There is no such file.
            ArtifactRefused: It is not a regular file, or too large.
        """
        ...

    def put_folder(self, path: Path) -> Digest:
        """Store a copy of the folder at `path`, whose digest is its manifest's.

        Raises:
            NotFound: There is no such folder.
            ArtifactRefused: It holds a link, a special file, an unsafe name, or too much.
        """
        ...

    def exists(self, digest: Digest) -> bool:
        """Tell whether something is stored under `digest`, without reading it."""
        ...

    def open(self, digest: Digest) -> Path:
        """Return the local path of a file or folder, after checking every byte of it.

        Raises:
            NotFound: Nothing is stored under `digest`.
            Corrupt: The content is not what was stored; names the digest and the path.
        """
        ...

    def read_bytes(self, digest: Digest) -> bytes:
        """Return the content of a stored file, checked.

        Raises:
            NotFound: No file is stored under `digest`.
            Corrupt: The content is not what was stored.
        """
        ...


_PATH_BYTES = 1024
_PART_BYTES = 255
_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f\\:]")  # ':' and '\' mean drives and folders elsewhere


def check_relative_path(path: str) -> str:
    """Return `path` if it stays inside whatever folder it is put in, on any system.

    Raises:
        ArtifactRefused: It is absolute, climbs with `..`, or has a part no file system agrees on.
    """
    parts = path.split("/")
    try:
        sizes = [len(part.encode()) for part in parts]
    except UnicodeEncodeError:
        raise ArtifactRefused(
            f"The path {path!r} inside a folder is not valid UTF-8.", hint="Rename the file.", path=path
        ) from None
    if (
        _FORBIDDEN.search(path)
        or any(part in ("", ".", "..") for part in parts)
        or max(sizes) > _PART_BYTES
        or sum(sizes) + len(parts) > _PATH_BYTES
    ):
        raise ArtifactRefused(
            f"The path {path!r} inside a folder cannot be stored.",
            hint="Use relative paths of plain names: no '..', no empty part, no backslash, colon or control "
            f"character, at most {_PART_BYTES} bytes a part and {_PATH_BYTES} in all.",
            path=path,
        )
    return path


def check_digest(text: str) -> Digest:
    """Return `text` as a digest; nothing else may be turned into a path.

    Raises:
        InvalidSetting: It has another form.
    """
    if not is_digest(text):
        raise InvalidSetting(
            f"{text!r} is not a digest.", hint="A digest is 'sha256:' and 64 hexadecimal digits.", digest=text
        )
    return Digest(text)
