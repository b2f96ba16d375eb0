"""What the processes of one `tidegate up` are told at their start."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from pathlib import Path
from typing import TypeVar

import msgspec

from tidegate.core.error import InvalidSetting
from tidegate.core.home import Home

S = TypeVar("S", bound=msgspec.Struct)

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>

RETIRE_S = 40.0
"""How long a version stays loaded after no route names it: longer than a request whose headers came
before may take to send its body, and any answer that is still owed."""

BUSY_SINCE = "tidegate_runner_busy_since_ms"
"""Gauge of a runner: when the present call of the model began, monotonic milliseconds; 0 between calls."""

FRAMES = 2
"""Number of the frames between workers and runners; another one with each change of `serving/frame.py`.
After an upgrade in place both releases run side by side until the server is started again."""
LEAVE = signal.SIGUSR1
"""Asks a worker to leave: its successor accepts on the same socket already."""

RESTART = signal.SIGHUP
"""Asks the supervisor to replace the workers one by one."""

DUE_AT = "tidegate_runner_due_ms"
"""Gauge of a runner: when the last of those who wait for the present call stops waiting, monotonic
milliseconds; 0 if nobody's time bounds it."""

RUNNER_SEEN_AT = "tidegate_runner_seen_ms"
"""Gauge of a runner: when its loop last came round, monotonic milliseconds. It does each second, between
calls."""

SEEN_AT = "tidegate_worker_seen_ms"
"""Gauge of a worker: when its loop last came round, monotonic milliseconds."""


class ServerSettings(msgspec.Struct, frozen=True):
    """What one running server is, the same for all of its processes.

    Attributes:
        home: The home folder, absolute.
        cell: Name of the cell.
        host: Address of the data port.
        port: Data port.
        control_host: Address of the control port.
        control_port: Control port.
        n_workers: Data-plane workers.
        online_store_ms: How long a read of features may take.
        database_url: SQLAlchemy URL; "" for the embedded one.
        tls_certificate: PEM file of the certificate chain; "" without TLS.
        tls_key: PEM file of its private key; "" if it is in the certificate's file.
        memory_mb: What the workers may take together, megabytes of 10^6 bytes; 0: half of what the
            machine has. Services that are loaded on demand are closed to stay within it.
        records_keep_days: Days after which files of records are deleted; 0: never.
        records_delta: Folder or address of Delta Lake tables that records are copied to; "": none.
        journal_keep_days: Days after which segments may be deleted; 0: never.
        journal_max_mb: Megabytes of segments above which the oldest may be deleted earlier; 0: no limit.
        trace_url: Where spans go; "": nowhere.
        trace_share: Part of the requests without a caller's trace that are traced.
        on_demand_above: Services without a declared placement that are all kept loaded; if there are
            more, they are loaded on demand.
        supervisor: Process id of the supervisor: its children end when it is no longer their parent.
    """

    home: str
    cell: str = "local"
    host: str = "127.0.0.1"
    port: int = 8080
    control_host: str = "127.0.0.1"
    control_port: int = 8081
    n_workers: int = 2
    online_store_ms: int = 50
    database_url: str = ""
    tls_certificate: str = ""
    tls_key: str = ""
    supervisor: int = 0
    memory_mb: int = 0
    on_demand_above: int = 64
    records_keep_days: int = 0
    records_delta: str = ""
    journal_keep_days: int = 0
    journal_max_mb: int = 0
    trace_url: str = ""
    trace_share: float = 0.01

    @property
    def feature_read_s(self) -> float:
        """How long a read of features may take, seconds."""
        return self.online_store_ms / 1e3

    @property
    def worker_bytes(self) -> int:
        """What one worker may take, bytes."""
        whole = self.memory_mb * 1_000_000 or memory_bytes() // 2
        return whole // max(1, self.n_workers)

    @property
    def place(self) -> Home:
        return Home(Path(self.home), cell=self.cell)

    @property
    def scheme(self) -> str:
        """Of the addresses of both ports."""
        return "https" if self.tls_certificate else "http"

    @property
    def is_orphaned(self) -> bool:
        """Whether this process, one of the server's, has lost the supervisor that would stop it.

        Asked by id: who remembers the parent that it began with may have begun without one.
        """
        return self.supervisor != 0 and os.getppid() != self.supervisor


class WorkerSettings(msgspec.Struct, frozen=True):
    """What one worker is told.

    Attributes:
        server: The server it belongs to.
        slot: Its number, from 0.
        incarnation: How many processes had this slot before it.
        sockets: Folder of the runners' sockets.
        listener: File descriptor of the socket that it accepts from, bound already.
        is_successor: Whether another worker accepts from that socket until this one serves everything.
    """

    server: ServerSettings
    slot: int
    incarnation: int
    sockets: str
    listener: int
    is_successor: bool = False


class RunnerSettings(msgspec.Struct, frozen=True):
    """What one runner is told.

    Attributes:
        server: The server it belongs to.
        manifest: Digest of the version's manifest.
        version: The version's number.
        sockets: Folder of the runners' sockets.
        notes: File where the rows of the present call are noted, for whoever is started after it.
    """

    server: ServerSettings
    manifest: str
    version: int
    sockets: str
    notes: str


class NurserySettings(msgspec.Struct, frozen=True):
    """What the nursery is told.

    Attributes:
        server: The server it belongs to.
        sockets: Folder of the sockets.
    """

    server: ServerSettings
    sockets: str


class TrialSettings(msgspec.Struct, frozen=True):
    """What one trial of a version is told.

    Attributes:
        server: The server it belongs to.
        manifest: Digest of the version's manifest.
    """

    server: ServerSettings
    manifest: str


def memory_bytes() -> int:
    """Return the memory that this process may hope for: the machine's, or its control group's bound."""
    whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for bound in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):
            whole = min(whole, int(Path(bound).read_text()))
    return whole


def command(module: str, settings: msgspec.Struct) -> list[str]:
    """Return the command line of a process of ours: a module of this package, or one named in full."""
    name = module if "." in module else f"tidegate.bootstrap.{module}"
    return [sys.executable, "-m", name, msgspec.json.encode(settings).decode()]


def told(kind: type[S]) -> S:
    """Return the settings on this process's command line.

    Raises:
        InvalidSetting: They are not there.
    """
    try:
        return msgspec.json.decode(sys.argv[1], type=kind)
    except (IndexError, msgspec.MsgspecError) as error:
        raise InvalidSetting(
            "This process is started by `tidegate up`, with its settings on the command line."
        ) from error


def end_with_supervisor(server: ServerSettings) -> None:
    """Have the system end this process when its supervisor dies, also while a model hangs.

    For processes that run a model and owe nothing to anybody but the server's own.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if server.is_orphaned:
        os._exit(1)


def runner_page(server: ServerSettings, manifest: str) -> Path:
    """Return the metric page of a version's runner."""
    return server.place.metrics / f"runner-{manifest.removeprefix('sha256:')[:20]}.page"


def quarantine_folder(server: ServerSettings, service: str) -> Path:
    """Return the folder where it is kept which inputs the versions of a service do not survive."""
    folder = server.place.run / "quarantine" / service
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def worker_page(server: ServerSettings, slot: int) -> Path:
    """Return the metric page of a worker."""
    return server.place.metrics / f"worker-{slot}.page"


def nursery_socket(sockets: str) -> Path:
    """Return the Unix socket of the process that tries versions which are loaded on demand."""
    return Path(sockets) / "nursery"


def wanted_path(sockets: str, manifest: str, slot: int) -> Path:
    """Return the file by which a worker asks for the runner of a version that is loaded on demand."""
    return Path(f"{socket_path(sockets, manifest)}.{slot}.wanted")


def socket_path(sockets: str, manifest: str) -> str:
    """Return what the files of a version's runner begin with. Short: the system allows about 100 bytes."""
    return f"{sockets}/{manifest.removeprefix('sha256:')[:20]}"


def frames_path(sockets: str, manifest: str) -> str:
    """Return the Unix socket of a version's runner, as of the frames that it understands."""
    return f"{socket_path(sockets, manifest)}-{FRAMES}"


def is_of_another_release(sockets: str, manifest: str) -> bool:
    """Tell whether a version's runner is one that does not understand our frames."""
    ours = Path(frames_path(sockets, manifest))
    stem = Path(socket_path("", manifest)).name
    others = [each.name for each in ours.parent.glob(f"{stem}*") if each.name.count(".") == 0]
    return bool(others) and ours.name not in others
