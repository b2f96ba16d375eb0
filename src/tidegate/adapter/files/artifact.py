"""Artifacts in a local folder: written once, whole or not at all, checked at every load.

    files/ab/<64 digits>              a file, read-only
    folders/ab/<64 digits>/           manifest.json and content/
    drafts/                           what is being written, or was when a process died

Data-plane workers open artifacts through this module, so it needs the standard library and the
core only.

Source: for write, sync, rename, sync of the folder: Pillai et al., "All File Systems Are Not
Created Equal", OSDI 2014.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedWriter, FileIO
from pathlib import Path

import msgspec

from tidegate.core.digest import Digest, digest_bytes
from tidegate.core.error import Corrupt, NotFound
from tidegate.registry.artifact import (
    ArtifactLimits,
    ArtifactRefused,
    FileEntry,
    FolderManifest,
    check_digest,
    check_relative_path,
)

_CHUNK_BYTES = 1 << 20
_STALE_DRAFT_S = 86_400
"""A draft this much older than a new one belongs to no living writer: no copy takes a day."""


class LocalArtifactStore:
    """A folder of artifacts; several threads and processes may use it at once."""

    def __init__(self, root: Path, *, limits: ArtifactLimits | None = None, syncs: bool = True) -> None:
        """Take a folder.

        Args:
            root: The folder.
            limits: Bounds of what is put there.
            syncs: Whether what is put there is on the disk when the call returns. Who puts thousands
                of files there syncs once, by `flush`, before anybody is told of them.
        """
        self.root = root.absolute()
        self.limits = limits or ArtifactLimits()
        self._syncs = syncs
        self._swept = False

    # --- writing

    def put_bytes(self, data: bytes) -> Digest:
        self._check_size(len(data), "The data", self.limits.file_size_bytes)
        draft = self._new_draft()
        with _removing(draft), _create(draft) as file:
            file.write(data)
            self._sync(file)
            return self._publish_file(draft, digest_bytes(data))

    def put_file(self, path: Path) -> Digest:
        draft = self._new_draft()
        with _removing(draft), _open_regular(path, follow=True) as source:
            digest, _ = self._copy(source, draft, str(path))
            return self._publish_file(draft, digest)

    def put_folder(self, path: Path) -> Digest:
        if not path.is_dir():
            raise NotFound(f"There is no folder {path}.", path=str(path))
        draft = self._new_draft()
        with _removing(draft):
            content = draft / "content"
            content.mkdir(parents=True)
            entries: list[FileEntry] = []
            total_bytes = 0
            for source, relative in _walk(path, depth=self.limits.depth):
                target = content / relative
                target.parent.mkdir(parents=True, exist_ok=True)
                with _open_regular(source) as file:
                    digest, size_bytes = self._copy(file, target, str(source))
                entries.append(FileEntry(path=relative, digest=digest, size_bytes=size_bytes))
                total_bytes += size_bytes
                self._check_size(total_bytes, f"The folder {path}", self.limits.folder_size_bytes)
                if len(entries) > self.limits.n_files:
                    raise ArtifactRefused(
                        f"The folder {path} holds more than {self.limits.n_files} files.",
                        hint="Point to the folder of the model alone.",
                        path=str(path),
                    )
            manifest = FolderManifest.of(entries)
            with _create(draft / "manifest.json") as file:
                file.write(manifest.to_json())
                self._sync(file)
            for folder, _, _ in os.walk(draft):
                self._sync_folder(Path(folder))
            return self._publish_folder(draft, manifest.digest)

    def _copy(self, source: FileIO, target: Path, name: str) -> tuple[Digest, int]:
        state = hashlib.sha256()
        size_bytes = 0
        with _create(target) as file:
            while chunk := source.read(_CHUNK_BYTES):
                size_bytes += len(chunk)
                self._check_size(size_bytes, f"The file {name}", self.limits.file_size_bytes)
                state.update(chunk)
                file.write(chunk)
            self._sync(file)
        return Digest(f"sha256:{state.hexdigest()}"), size_bytes

    def flush(self) -> None:
        """Wait until everything that was put here is on the disk."""
        os.sync()

    def _sync(self, file: BufferedWriter) -> None:
        if self._syncs:
            _sync(file)
        else:
            file.flush()

    def _sync_folder(self, path: Path) -> None:
        if self._syncs:
            _sync_folder(path)

    def _check_size(self, size_bytes: int, name: str, limit_bytes: int) -> None:
        if size_bytes > limit_bytes:
            raise ArtifactRefused(
                f"{name} has more than the {limit_bytes} bytes that an artifact may have.",
                hint="Raise the limit if this is meant.",
                limit_bytes=limit_bytes,
            )

    def _publish_file(self, draft: Path, digest: Digest) -> Digest:
        target = self._file(digest)
        with suppress(NotFound, Corrupt):  # a damaged copy is replaced by this good one
            _verify_file(target, digest, digest)
            return digest
        target.parent.mkdir(parents=True, exist_ok=True)
        draft.replace(target)
        self._sync_folder(target.parent)
        self._sync_folder(target.parent.parent)
        return digest

    def _publish_folder(self, draft: Path, digest: Digest) -> Digest:
        target = self._folder(digest)
        target.parent.mkdir(parents=True, exist_ok=True)
        while True:
            try:
                self._verify_folder(target, digest)
            except NotFound:
                pass
            except Corrupt:  # a damaged copy is replaced by this good one
                damaged = self._new_draft()
                with suppress(FileNotFoundError), _removing(damaged):
                    target.rename(damaged)
            else:
                return digest
            try:
                draft.rename(target)
            except OSError as error:  # another writer of the same folder was first: look again
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                continue
            self._sync_folder(target.parent)
            self._sync_folder(target.parent.parent)
            return digest

    def _new_draft(self) -> Path:
        drafts = self.root / "drafts"
        drafts.mkdir(parents=True, exist_ok=True)
        if not self._swept:
            self._swept = True
            _sweep(drafts)
        return drafts / secrets.token_hex(16)

    # --- reading

    def exists(self, digest: Digest) -> bool:
        return self._folder(digest).is_dir() or self._file(digest).is_file()

    def open(self, digest: Digest) -> Path:
        folder = self._folder(digest)
        if folder.is_dir():
            return self._verify_folder(folder, digest)
        path = self._file(digest)
        _verify_file(path, digest, digest)
        return path

    def read_bytes(self, digest: Digest) -> bytes:
        path = self._file(digest)
        with _open_stored(path, digest) as file:
            data = file.read()
        if digest_bytes(data) != digest:
            raise _corrupt(digest, path, "its bytes have another digest")
        return data

    def _verify_folder(self, folder: Path, digest: Digest) -> Path:
        listing = folder / "manifest.json"
        with _open_stored(listing, digest) as file:
            data = file.read()
        if digest_bytes(data) != digest:
            raise _corrupt(digest, listing, "its bytes have another digest")
        try:
            manifest = msgspec.json.decode(data, type=FolderManifest)
            expected = {check_relative_path(entry.path): entry.digest for entry in manifest.files}
            content = folder / "content"
            # Depth is not limited here: what was accepted under a wider limit still opens.
            found = {relative: source for source, relative in _walk(content, depth=_ANY_DEPTH)}
        except (msgspec.MsgspecError, ArtifactRefused, FileNotFoundError, NotADirectoryError) as error:
            raise _corrupt(digest, folder, str(error)) from error
        for relative in sorted(expected.keys() ^ found.keys()):
            fault = "the file is missing" if relative in expected else "the file was added"
            raise _corrupt(digest, content / relative, fault)
        for relative, file_digest in expected.items():
            _verify_file(found[relative], file_digest, digest)
        return content

    def _file(self, digest: Digest) -> Path:
        return self._place("files", digest)

    def _folder(self, digest: Digest) -> Path:
        return self._place("folders", digest)

    def _place(self, kind: str, digest: Digest) -> Path:
        name = check_digest(digest).removeprefix("sha256:")
        return self.root / kind / name[:2] / name


_ANY_DEPTH = 1024
"""No path of 1024 bytes is deeper."""


def _corrupt(digest: Digest, path: Path, fault: str) -> Corrupt:
    return Corrupt(
        f"The artifact {digest} at {path} is damaged: {fault}.",
        hint="Store the same content again, or restore the file from a copy; it is not loaded as it is.",
        digest=digest,
        path=str(path),
    )


def _verify_file(path: Path, expected: Digest, artifact: Digest) -> None:
    with _open_stored(path, artifact) as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if f"sha256:{found}" != expected:
        raise _corrupt(artifact, path, f"its bytes have the digest sha256:{found}, expected {expected}")


@contextmanager
def _open_stored(path: Path, artifact: Digest) -> Iterator[FileIO]:
    try:
        opened = _open_descriptor(path, follow=False)
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound(
            f"No artifact {artifact} is stored at {path}.", digest=artifact, path=str(path)
        ) from None
    except ArtifactRefused as error:
        raise _corrupt(artifact, path, "it is not a regular file") from error
    with os.fdopen(opened, "rb", buffering=0) as file:
        yield file


@contextmanager
def _open_regular(path: Path, *, follow: bool = False) -> Iterator[FileIO]:
    try:
        opened = _open_descriptor(path, follow=follow)
    except FileNotFoundError:
        raise NotFound(f"There is no file {path}.", path=str(path)) from None
    with os.fdopen(opened, "rb", buffering=0) as file:
        yield file


def _open_descriptor(path: Path, *, follow: bool) -> int:
    # O_NONBLOCK: opening a pipe that nobody writes to would otherwise wait for ever.
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | (0 if follow else os.O_NOFOLLOW)
    try:
        descriptor = os.open(path, flags)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):  # a link, or a socket
            raise _not_regular(path) from error
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _not_regular(path)
    return descriptor


def _not_regular(path: Path) -> ArtifactRefused:
    return ArtifactRefused(
        f"{path} is not a regular file.",
        hint="Artifacts hold plain files: replace links by copies, leave out devices, pipes and sockets.",
        path=str(path),
    )


def _walk(root: Path, *, depth: int) -> Iterator[tuple[Path, str]]:
    """Yield every file under `root` and its relative path; refuse what is neither file nor folder."""
    pending: list[tuple[Path, str, int]] = [(root, "", 0)]
    while pending:
        folder, prefix, level = pending.pop()
        if level > depth:
            raise ArtifactRefused(
                f"{folder} lies more than {depth} folders deep.", hint="Flatten the folder.", path=str(folder)
            )
        with os.scandir(folder) as found:
            for item in sorted(found, key=lambda entry: entry.name):
                relative = check_relative_path(f"{prefix}{item.name}")
                if item.is_dir(follow_symlinks=False):
                    pending.append((folder / item.name, f"{relative}/", level + 1))
                elif item.is_file(follow_symlinks=False):
                    yield folder / item.name, relative
                else:
                    raise _not_regular(folder / item.name)


def _create(path: Path) -> BufferedWriter:
    # Read-only from the start: the descriptor that creates it may write, nobody after.
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444), "wb")


def _sync(file: BufferedWriter) -> None:
    file.flush()
    os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _removing(draft: Path) -> Iterator[None]:
    """Remove the draft at the end, unless it was renamed into its place."""
    try:
        yield
    finally:
        _discard(draft)


def _discard(draft: Path) -> None:
    if draft.is_dir():
        shutil.rmtree(draft, ignore_errors=True)
    else:
        draft.unlink(missing_ok=True)


def _sweep(drafts: Path) -> None:
    """Remove drafts that processes left behind when they died.

    Ages are differences of the file system's own times, so no clock of this process matters.
    """
    marker = drafts / f"now-{secrets.token_hex(8)}"
    _create(marker).close()
    try:
        now_s = marker.stat().st_mtime
        for draft in drafts.iterdir():
            with suppress(FileNotFoundError):
                if now_s - draft.stat().st_mtime > _STALE_DRAFT_S:
                    _discard(draft)
    finally:
        marker.unlink(missing_ok=True)
