"""A server under test: its process tree, what the tree costs, and when it first answered rightly."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from benchmarks.load import HOST, Target, build

TICK_S = 1 / os.sysconf("SC_CLK_TCK")
START_LIMIT_S = 60.0
STOP_LIMIT_S = 10.0
POLL_S = 0.002
LOG_TAIL_BYTES = 2000
_LISTENING = "0A"  # a socket's state in /proc/net/tcp


class ServerFailed(Exception):
    """A server ended, or never gave a right answer; the message holds the end of its log."""


class Memory(msgspec.Struct, frozen=True):
    """Memory of one process, MB of 10^6 bytes.

    Attributes:
        pss_mb: Proportional set size: pages shared by n processes count 1/n in each.
        private_mb: Pages of this process only: what one more of it would cost.
        rss_mb: All its resident pages.
    """

    pid: int
    command: str
    pss_mb: float
    private_mb: float
    rss_mb: float


def free_port() -> int:
    """Return a port that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def program(name: str) -> str:
    """Return the path of a console script of the running interpreter's environment."""
    return str(Path(sys.executable).parent / name)


def run_once(command: Sequence[str], environment: Mapping[str, str]) -> None:
    """Run a command to its end.

    Raises:
        ServerFailed: It failed; the message holds what it wrote.
    """
    done = subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise ServerFailed(f"{list(command)} failed: {done.stdout}{done.stderr}")


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat from the third on (state, parent, ...), [] if it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return []
    return text[text.rindex(")") + 2 :].split()


def tree(root: int) -> list[int]:
    """Return `root` and all its living descendants."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))):
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    found = [root]
    for pid in found:
        found.extend(children.get(pid, ()))
    return found


def cpu_s(pids: Sequence[int]) -> float:
    """Return CPU seconds, user and system, of the processes and of their children that have ended."""
    ticks = 0
    for pid in pids:
        if fields := _stat(pid):
            ticks += sum(map(int, fields[11:15]))  # utime, stime, cutime, cstime; see proc_pid_stat(5)
    return ticks * TICK_S


def memory(pid: int) -> Memory | None:
    """Return a process's memory, None if it is gone or may not be read."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
        command = (
            Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        )
    except OSError:
        return None
    kb = {line.split(":")[0]: int(line.split()[1]) for line in lines}
    to_mb = 1024 / 1e6
    return Memory(
        pid=pid,
        command=command,
        pss_mb=kb["Pss"] * to_mb,
        private_mb=(kb["Private_Clean"] + kb["Private_Dirty"]) * to_mb,
        rss_mb=kb["Rss"] * to_mb,
    )


def listens(pid: int, port: int) -> bool:
    """Tell whether a process holds a socket that listens on a port of this machine."""
    sockets = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == _LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
                sockets.add(f"socket:[{fields[9]}]")
    try:
        return any(str(entry.readlink()) in sockets for entry in Path(f"/proc/{pid}/fd").iterdir())
    except OSError:  # it ended, or closed a file while we looked
        return False


def ask(target: Target, body: bytes, *, timeout_s: float = 5.0) -> tuple[int, bytes]:
    """Send one request on a connection of its own.

    Raises:
        OSError, http.client.HTTPException: There was no answer.
    """
    connection = http.client.HTTPConnection(HOST, target.port, timeout=timeout_s)
    try:
        connection.request("POST", target.path, body, {"Content-Type": "application/json", **target.headers})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


class Server:
    """A server as a process tree of its own session, started by `with`."""

    def __init__(
        self, command: Sequence[str], *, log: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        self.command = list(command)
        self._environment = {**os.environ, **(environment or {})}
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None
        self.started_at_s = 0.0

    def __enter__(self) -> Self:
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("wb") as log:
            self.started_at_s = time.monotonic()
            self._process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment,
                start_new_session=True,
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        assert self._process is not None, "the server has not been started"
        return self._process.pid

    def tree(self) -> list[int]:
        """Return the pids of all its processes."""
        return tree(self.pid)

    def cpu_s(self) -> float:
        """Return the CPU seconds its processes have used so far."""
        return cpu_s(self.tree())

    def memory(self) -> list[Memory]:
        """Return the memory of each of its processes."""
        return [found for pid in self.tree() if (found := memory(pid)) is not None]

    def wait_right(self, target: Target, is_right: Callable[[bytes, bytes], bool]) -> float:
        """Wait for the first right answer to the first body.

        Args:
            target: What to ask.
            is_right: Tells from the request body and the answer's body.

        Returns:
            Seconds since the process was started.

        Raises:
            ServerFailed: It ended, or the limit passed.
        """
        limit_s = self.started_at_s + START_LIMIT_S
        last = "no answer"
        while time.monotonic() < limit_s:
            try:
                status, answer = ask(target, target.bodies[0], timeout_s=2.0)
            except (OSError, http.client.HTTPException):
                time.sleep(POLL_S)
            else:
                if status == 200 and is_right(target.bodies[0], answer):
                    return time.monotonic() - self.started_at_s
                last = f"status {status}: {answer[:300]!r}"
                time.sleep(POLL_S)
            if self._process is None or self._process.poll() is not None:
                raise ServerFailed(f"{self.command} ended. {self.log_tail()}")
        raise ServerFailed(
            f"{self.command} gave no right answer in {START_LIMIT_S:.0f} s: {last}. {self.log_tail()}"
        )

    def log_tail(self) -> str:
        """Return the end of what it wrote."""
        return "Its log ends: " + self._log.read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace")

    def stop(self) -> None:
        """Ask it to end, then make every process of its tree end."""
        if self._process is None:
            return
        pids = self.tree()
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            pids = self.tree()
            self._process.kill()
            self._process.wait()
        for pid in pids[1:]:
            fields = _stat(pid)
            if fields and int(fields[3]) == self._process.pid:  # still of our session, so still ours
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self._process = None


class Absorber:
    """`generator/absorb.c`: gives every request the same answer at next to no cost. Started by `with`."""

    def __init__(self, status: int) -> None:
        self._command = [str(build("absorb")), str(status)]
        self._process: subprocess.Popen[str] | None = None
        self.port = 0

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.communicate()

    def cpu_s(self) -> float:
        """Return the CPU seconds it has used so far."""
        assert self._process is not None
        return cpu_s([self._process.pid])
