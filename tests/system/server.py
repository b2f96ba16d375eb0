"""A real server in a home of its own, started as a person starts it, and a client that cannot hang."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import psutil  # type: ignore[import-untyped]  # no stubs

from tidegate.bootstrap.local import Local
from tidegate.bootstrap.setting import Settings
from tidegate.core.error import NotFound
from tidegate.core.home import Home
from tidegate.journal.ledger import Ledger
from tidegate.journal.tally import Tally, merge
from tidegate.operation.journal import JournalView, Record, Wanted
from tidegate.route.status import StatusBoard, WorkerStatus

HOST = "127.0.0.1"
START_S = 90.0
"""Bounds what a test waits for, on a machine that does much else; nothing is measured against it."""
ANSWER_S = 30.0
STOP_S = 40.0

_HEAD_END = b"\r\n\r\n"
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind((HOST, 0))
        return [int(each.getsockname()[1]) for each in sockets]


def can_connect(port: int) -> bool:
    """Tell whether something listens on a port of this machine."""
    try:
        socket.create_connection((HOST, port), timeout=1).close()
    except OSError:
        return False
    return True


def wait_until(test: Callable[[], Any], *, within_s: float = START_S, what: str = "") -> Any:
    """Return what `test` gives as soon as it is true."""
    give_up_s = time.monotonic() + within_s
    while not (found := test()):
        assert time.monotonic() < give_up_s, f"not within {within_s:g} s: {what or test}"
        time.sleep(0.02)
    return found


class Response(NamedTuple):
    """An answer: its status, its head as sent, its body."""

    status: int
    head: bytes
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """Code of the error, "" if it is none."""
        error = self.json().get("error", {})
        return str(error.get("code", "")) if isinstance(error, dict) else ""

    @property
    def message(self) -> str:
        """The error's message."""
        return str(self.json()["error"]["message"])


class Client:
    """One connection. Every wait on it is bounded."""

    def __init__(self, port: int, *, timeout_s: float = ANSWER_S) -> None:
        self.socket = socket.create_connection((HOST, port), timeout=timeout_s)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._rest = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def post(self, path: str, body: Any, headers: str = "") -> Response:
        """Send a JSON body, or bytes as they are, and wait for the answer."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send(request(path, data, headers))
        return self.receive()

    def get(self, path: str) -> Response:
        self.send(f"GET {path} HTTP/1.1\r\nhost: {HOST}\r\n\r\n".encode())
        return self.receive()

    def receive(self) -> Response:
        """Return the next answer.

        Raises:
            ConnectionError: The connection ended before it was whole.
            TimeoutError: It did not come in time.
        """
        data = self._rest
        while (end := data.find(_HEAD_END)) < 0:
            data += self._read()
        head, body = data[: end + 2], data[end + 4 :]
        match = _LENGTH.search(head)
        length = int(match[1]) if match else 0
        if len(body) < length:
            pieces, missing = [body], length - len(body)
            while missing > 0:
                pieces.append(self._read())
                missing -= len(pieces[-1])
            body = b"".join(pieces)
        self._rest = body[length:]
        return Response(int(head[9:12]), head, body[:length])

    def is_closed(self) -> bool:
        """Wait for the server to close the connection; False if it sends something else."""
        try:
            return self._rest == b"" and self.socket.recv(1) == b""
        except ConnectionError:
            return True

    def _read(self) -> bytes:
        data = self.socket.recv(1 << 18)
        if not data:
            raise ConnectionError("the server closed the connection")
        return data


def request(path: str, body: bytes, headers: str = "") -> bytes:
    """Return the bytes of a POST."""
    head = f"POST {path} HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: {len(body)}\r\n{headers}\r\n"
    return head.encode("latin-1") + body


class Server:
    """`tidegate up` on a home in `folder`, with free ports."""

    def __init__(self, folder: Path, *, n_workers: int = 2) -> None:
        self.folder = folder
        self.home = Home(folder / "home")
        self.n_workers = n_workers
        self.port, self.control_port = free_ports(2)
        self.log = folder / "server.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._known: list[psutil.Process] = []

    # --- what a person does ---

    def start(
        self,
        *arguments: object,
        ready: bool = True,
        stdout: int | None = None,
        stderr: int | None = None,
        wrapped_by: Sequence[str] = (),
    ) -> None:
        """Run `up` and wait until every worker serves every routed service.

        Args:
            arguments: Of the command.
            ready: Whether to wait.
            stdout: Where it says what it does; the log if None.
            stderr: Where it logs; the log if None.
            wrapped_by: A command that becomes `up`, given its command line.
        """
        line = ["up", *map(str, arguments), "--home", str(self.home.root)]
        line += ["--port", str(self.port), "--control-port", str(self.control_port)]
        line += ["--workers", str(self.n_workers)]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*wrapped_by, sys.executable, "-m", "tidegate", *line],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log if stdout is None else stdout,
                stderr=log if stderr is None else stderr,
            )
        if ready:
            self.wait_ready()

    def wait_ready(self) -> None:
        """Wait until as many workers as there should be serve every routed service."""
        process = self._process
        assert process is not None

        def is_ready() -> bool:
            assert process.poll() is None, "the server ended"
            assert "cannot be served" not in self.said()
            route = self.local().routes.read().services
            live = self.workers()
            return len(live) == self.n_workers and all(
                worker.of(name).generation == each.generation
                for worker in live
                for name, each in route.items()
            )

        try:
            wait_until(is_ready, what=f"{self.n_workers} workers that serve")
        except AssertionError as error:
            raise AssertionError(f"{error}:\n{self.workers()}\n{self.said()}") from None

    def stop(self) -> int:
        """Ask the server to stop, as Ctrl-C does, and return its exit status."""
        process, self._process = self._process, None
        if process is None:
            return 0
        self._remember(process.pid)
        process.send_signal(signal.SIGTERM)
        try:
            return process.wait(STOP_S)
        finally:
            self.sweep()

    def command(self, *arguments: object, within_s: float = 120.0) -> subprocess.CompletedProcess[str]:
        """Run another command on the same home, to its end."""
        return subprocess.run(
            [sys.executable, "-m", "tidegate", *map(str, arguments), "--home", str(self.home.root)],
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=within_s,
            check=False,
        )

    def local(self) -> Local:
        """Return the home's stores, for operations from this process."""
        return Local(
            Settings(
                home=str(self.home.root),
                port=self.port,
                control_port=self.control_port,
                workers=self.n_workers,
            )
        )

    def said(self) -> str:
        """Return what all of its processes have printed."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    # --- its processes ---

    @property
    def pid(self) -> int:
        """The supervisor."""
        assert self._process is not None
        return self._process.pid

    def kill_supervisor(self) -> list[psutil.Process]:
        """End the supervisor by SIGKILL, and return the processes that it leaves behind."""
        process, self._process = self._process, None
        assert process is not None
        left = self._remember(process.pid)
        process.kill()
        process.wait()
        return left

    def workers(self) -> list[WorkerStatus]:
        """Return what its living workers say of themselves."""
        return StatusBoard(self.home.workers()).live()

    def child(self, module: str) -> list[psutil.Process]:
        """Return its living processes that run a module, such as `tidegate.control`."""
        found = []
        for process in self._remember(self.pid):
            with contextlib.suppress(psutil.Error):
                if module in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def _remember(self, pid: int) -> list[psutil.Process]:
        try:
            children: list[psutil.Process] = psutil.Process(pid).children(recursive=True)
        except psutil.NoSuchProcess:
            children = []
        self._known += [each for each in children if each not in self._known]
        return children

    def sweep(self) -> None:
        """End whatever is left, so that no test leaves anything running."""
        process, self._process = self._process, None
        if process is not None:
            self._remember(process.pid)
            process.kill()
            process.wait()
        for each in self._known:
            with contextlib.suppress(psutil.Error):
                each.kill()

    # --- what it wrote ---

    def client(self, *, timeout_s: float = ANSWER_S) -> Client:
        return Client(self.port, timeout_s=timeout_s)

    def client_of_each_worker(self) -> dict[int, Client]:
        """Return one connection to each worker, by process id: the system deals them out at random."""
        found: dict[int, Client] = {}

        def look() -> bool:
            client = self.client()
            pid = self._peer_of(client)
            if pid is None or pid in found:
                client.close()
            else:
                found[pid] = client
            return len(found) == self.n_workers

        wait_until(look, what="a connection to each worker")
        return found

    def _peer_of(self, client: Client) -> int | None:
        """Return the worker that has accepted a connection."""
        ours = client.socket.getsockname()
        client.get("/v2/health/live")  # answered: so it is accepted
        for worker in self.workers():
            with contextlib.suppress(psutil.Error):
                for each in psutil.Process(worker.pid).net_connections("tcp"):
                    if each.raddr == ours:
                        return worker.pid
        return None

    def records(self, **wanted: Any) -> list[Record]:
        """Return the journal's records, by the time they were written; see `Wanted`."""
        view = JournalView(self.home.journal, Wanted(**wanted))
        try:
            return list(view.read())
        finally:
            view.close()

    def ledger(self) -> Ledger:
        return Ledger(self.home.ledger, read_only=True)

    def tally(self, service: str) -> Tally:
        """Return all that the ledger has counted of a service; nothing before there is one."""
        try:
            with contextlib.closing(self.ledger()) as ledger:
                return merge(tally for _, tally in ledger.tallies(service))
        except NotFound:
            return Tally()


class Crowd:
    """Threads that do something again and again while a block runs: until `_stopping` is set."""

    def __init__(self, *tasks: Callable[[], object]) -> None:
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=task, daemon=True) for task in tasks]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join(60.0)
            assert not thread.is_alive(), "a caller hangs"


class Load(Crowd):
    """Threads that each ask again and again over one connection, until told to stop.

    Unless `pause_s` is 0 they leave the machine some time: on two cores what they watch would else take
    minutes.

    Attributes:
        results: What `take` made of each answer, in the order of arrival by thread.
        errors: What went wrong, in words.
    """

    def __init__(
        self,
        port: int,
        data: bytes,
        take: Callable[[Response], Any],
        *,
        n_threads: int = 4,
        pause_s: float = 0.005,
    ) -> None:
        self.results: list[Any] = []
        self.errors: list[str] = []
        self._port, self._data, self._take = port, data, take
        self._pause_s = pause_s
        super().__init__(*[self._run] * n_threads)

    def _run(self) -> None:
        try:
            with Client(self._port) as client:
                while not self._stopping.is_set():
                    client.send(self._data)
                    self.results.append(self._take(client.receive()))
                    self._stopping.wait(self._pause_s)
        except (OSError, AssertionError) as error:
            self.errors.append(f"{type(error).__name__}: {error}")


@contextlib.contextmanager
def running(folder: Path, *, n_workers: int = 2) -> Iterator[Server]:
    """Give a server that is stopped at the end, whatever happens; nothing is started or registered."""
    server = Server(folder, n_workers=n_workers)
    try:
        yield server
        server.stop()
    except BaseException as error:
        error.add_note(f"The server said at last: {server.said()[-3000:]}")
        raise
    finally:
        server.sweep()
