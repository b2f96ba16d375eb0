"""What a version came from, read off the machine it was trained on."""

from __future__ import annotations

import os
import platform
import socket
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from tidegate.core.clock import Clock
from tidegate.core.digest import Digest, digest_file
from tidegate.core.error import NotFound
from tidegate.core.principal import Principal
from tidegate.registry.artifact import FileEntry, FolderManifest
from tidegate.registry.version import Environment, Lineage

PACKAGES = (
    "lightgbm",
    "numpy",
    "onnx",
    "onnxmltools",
    "onnxruntime",
    "pandas",
    "polars",
    "scikit-learn",
    "scipy",
    "skl2onnx",
    "skops",
    "tidegate",
    "torch",
    "xgboost",
)
"""Packages that can change what a model is or answers."""

_GIT_TIMEOUT_S = 10.0
"""`git status` of a large working tree on a cold disk takes seconds; a hung file system takes for ever."""
_SKIPPED = frozenset({"__pycache__", "node_modules", "site-packages"})


class Revision(NamedTuple):
    """What a repository says about a folder: its commit, and whether the folder holds changes beyond it."""

    commit: str
    changed: bool


def collect_lineage(
    *,
    clock: Clock,
    principal: Principal,
    source: Path | None = None,
    data_digest: Digest | None = None,
    parameters: Mapping[str, Any] | None = None,
    metrics: Mapping[str, Any] | None = None,
    packages: Iterable[str] = PACKAGES,
) -> Lineage:
    """Describe a training that has just ended here.

    Args:
        clock: Says when.
        principal: Who ran it.
        source: The training code: a file, or a folder of which the Python files count. None where
            there is none, as in a notebook.
        data_digest: Digest of the training data.
        parameters: What the trainer was told. Numbers and arrays of numpy become plain values.
        metrics: What was measured.
        packages: Names of distributions whose installed version matters.

    Raises:
        NotFound: `source` does not exist.
    """
    revision = git_revision(source) if source is not None else None
    return Lineage(
        code_revision=revision.commit if revision else None,
        code_changed=revision.changed if revision else None,
        code_digest=source_digest(source) if source is not None else None,
        data_digest=data_digest,
        parameters={name: _plain(value) for name, value in (parameters or {}).items()},
        environment=environment(packages),
        metrics={name: _plain(value) for name, value in (metrics or {}).items()},
        machine=socket.gethostname(),
        who=principal.name,
        when_us=clock.wall_us(),
    )


def environment(packages: Iterable[str] = PACKAGES) -> Environment:
    """Describe this interpreter, this machine's system, and the installed ones of `packages`."""
    return _environment(tuple(packages))


@cache  # reading the packages' metadata takes as long as everything else about a small version
def _environment(packages: tuple[str, ...]) -> Environment:
    installed: dict[str, str] = {}
    for name in sorted(packages):
        try:
            installed[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return Environment(python=platform.python_version(), platform=platform.platform(), packages=installed)


def git_revision(source: Path) -> Revision | None:
    """Return the commit that `source` is at; None without git, a repository or a commit."""
    folder = source if source.is_dir() else source.parent
    commit = _git(folder, "rev-parse", "--verify", "HEAD")
    if commit is None:
        return None
    status = _git(folder, "status", "--porcelain", "--untracked-files=normal", "--", str(source.absolute()))
    # A status that cannot be read must not pass for a clean one.
    return Revision(commit=commit.strip(), changed=status is None or bool(status.strip()))


def _git(folder: Path, *arguments: str) -> str | None:
    # A repository's own configuration may name a program to run as its file-system monitor.
    command = ("git", "-c", "core.fsmonitor=false", "-C", str(folder), *arguments)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(  # no shell, and git takes these arguments as paths
            command,
            env=kept | {"GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_GIT_TIMEOUT_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode(errors="replace")


def source_digest(source: Path) -> Digest:
    """Return the digest of a source file, or of all Python files in a folder and below.

    Raises:
        NotFound: `source` does not exist.
    """
    if source.is_file():
        return digest_file(source)
    if not source.is_dir():
        raise NotFound(f"There is no source file or folder {source}.", path=str(source))
    entries = [
        FileEntry(
            path=path.relative_to(source).as_posix(), digest=digest_file(path), size_bytes=path.stat().st_size
        )
        for path in _python_files(source)
    ]
    return FolderManifest.of(entries).digest


def _python_files(folder: Path) -> Iterator[Path]:
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name not in _SKIPPED and not name.startswith(".")]
        yield from (Path(place, name) for name in names if name.endswith(".py"))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, str) or type(value) in (bool, int, float):
        return value
    to_list = getattr(value, "tolist", None)  # numbers and arrays of numpy
    if callable(to_list):
        return to_list()
    shown = repr(value)
    # An address differs at each run, and with it the request that a caller repeats.
    return _type_name(value) if " at 0x" in shown else shown


def _type_name(value: Any) -> str:
    named = value if hasattr(value, "__qualname__") else type(value)
    return f"{named.__module__}.{named.__qualname__}"
