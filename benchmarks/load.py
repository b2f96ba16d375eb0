"""Driving a server: builds and runs the load generator, or runs wrk where there is no C compiler."""

from __future__ import annotations

import hashlib
import json
import os
import re
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import msgspec

from benchmarks.model import CACHE

SOURCES = Path(__file__).parent / "generator"
HOST = "127.0.0.1"
END_LIMIT_S = 60.0  # beyond its time, for setting up, draining and a starved machine
MAX_CONNECTIONS = 1024  # bounds what an open loop has outstanding; far more than fits in the deadline


class LoadError(Exception):
    """The load could not be made; the message says why."""


class Latency(msgspec.Struct, frozen=True):
    """Latencies of one kind of answer, microseconds, from the moment the request was due."""

    count: int = 0
    mean: float = 0.0
    p50: float = 0.0
    p90: float = 0.0
    p95: float = 0.0
    p99: float = 0.0
    p999: float = 0.0
    max: float = 0.0


class Load(msgspec.Struct, frozen=True):
    """What one load saw.

    Attributes:
        rate_per_s: Answers of any status within the window, a second.
        ok_per_s: Answers with a status of 2xx within the window, a second.
        goodput_per_s: Requests due in the window and answered with 2xx within the deadline, a second.
        within_deadline: The same as a count.
        answered: All answers, those after the window included; what CPU time is divided by.
        unsent: Requests that found every connection busy (open loop only). Misses.
        broken, malformed, unanswered: Connections lost with a request in flight; answers that are not
            HTTP; requests without an answer when the drain ended.
        latency_us: Of 2xx answers.
        refusal_us: Of all others.
        send_lag_us: From due to sent: how far the generator itself fell behind.
        due_in, good_in: Of an open loop, by tenths of a second in which they were due: requests, and
            those of them that were answered with 2xx within the deadline.
        cpu_user_s, cpu_system_s: The generator's own CPU time.
    """

    mode: str
    connections: int
    duration_s: float
    answered: int
    ok: int
    rate_per_s: float
    ok_per_s: float
    latency_us: Latency
    cpu_user_s: float
    cpu_system_s: float
    statuses: dict[str, int] = {}
    goodput_per_s: float = 0.0
    within_deadline: int = 0
    offered_per_s: float = 0.0
    sent: int = 0
    unsent: int = 0
    broken: int = 0
    malformed: int = 0
    unanswered: int = 0
    failed_connects: int = 0
    refusal_us: Latency = Latency()
    send_lag_us: Latency = Latency()
    first_other_answer: str = ""
    due_in: tuple[int, ...] = ()
    good_in: tuple[int, ...] = ()

    @property
    def cpu_us_per_request(self) -> float:
        """The generator's own CPU time for one answer."""
        return (self.cpu_user_s + self.cpu_system_s) / max(self.answered, 1) * 1e6

    def require_clean(self) -> Load:
        """Return itself if every request was answered with 2xx.

        Raises:
            LoadError: It was not, so that the figures would compare different things.
        """
        if self.ok == self.answered and not (self.broken or self.malformed or self.unanswered):
            return self
        raise LoadError(
            f"Not every answer was a 2xx: statuses {self.statuses}, {self.broken} broken, {self.malformed} "
            f"malformed, {self.unanswered} unanswered. First other answer: {self.first_other_answer!r}"
        )


class Target(msgspec.Struct, frozen=True):
    """Where requests go and what they are.

    Attributes:
        port: On this machine.
        path: Request target.
        bodies: Sent in rotation.
        headers: Beside the usual ones.
    """

    port: int
    path: str
    bodies: tuple[bytes, ...]
    headers: Mapping[str, str] = {}


def has_compiler() -> bool:
    """Tell whether the generator can be built here."""
    return _compiler() is not None


def describe() -> str:
    """Return which generator will be used, in words."""
    if has_compiler():
        return "benchmarks/generator/load.c, built here"
    if shutil.which("wrk"):
        return "wrk, as there is no C compiler; overload needs our own and is left out"
    return "none: there is neither a C compiler nor wrk"


def _compiler() -> str | None:
    return next(filter(None, map(shutil.which, (os.environ.get("CC", "cc"), "gcc", "clang"))), None)


def build(name: str) -> Path:
    """Return the program built from `generator/NAME.c`, compiled if its source has changed.

    Raises:
        LoadError: There is no C compiler, or it failed.
    """
    compiler = _compiler()
    if compiler is None:
        raise LoadError(
            "No C compiler (cc, gcc or clang) is installed, so the load generator cannot be built."
        )
    source = SOURCES / f"{name}.c"
    digest = hashlib.sha256(source.read_bytes() + compiler.encode()).hexdigest()[:16]
    program = CACHE / f"{name}-{digest}"
    if not program.exists():
        CACHE.mkdir(exist_ok=True)
        draft = program.with_name(f"{program.name}.{os.getpid()}")
        command = [compiler, "-O2", "-pthread", "-o", str(draft), str(source), "-lm"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise LoadError(f"Building {source.name} failed:\n{done.stderr}")
        draft.rename(program)
    return program


def _encode(target: Target) -> bytes:
    extra = "".join(f"{name}: {value}\r\n" for name, value in target.headers.items())
    requests = []
    for body in target.bodies:
        head = (
            f"POST {target.path} HTTP/1.1\r\nHost: {HOST}:{target.port}\r\nContent-Type: application/json\r\n"
            f"{extra}Content-Length: {len(body)}\r\n\r\n"
        )
        request = head.encode() + body
        requests.append(len(request).to_bytes(4, "little") + request)
    return b"".join(requests)


class RunningLoad:
    """A load under way."""

    def __init__(self, process: subprocess.Popen[str], limit_s: float) -> None:
        self._process = process
        self._limit_s = limit_s

    def result(self) -> Load:
        """Wait for its end.

        Raises:
            LoadError: It measured nothing.
        """
        try:
            output, errors = self._process.communicate(timeout=self._limit_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
            raise LoadError(f"The load generator did not end within {self._limit_s:.0f} s.") from None
        if not output:
            raise LoadError(f"The load generator failed: {errors.strip()}")
        return msgspec.json.decode(output, type=Load)


class Arrivals(msgspec.Struct, frozen=True):
    """How requests come.

    Attributes:
        target: Where to.
        seconds: For how long.
        connections: Of a closed loop all there are; of an open one those it begins with.
        rate_per_s: 0 for a closed loop, in which a connection sends its next request when it has its
            answer; above, Poisson arrivals at that rate whatever the server does.
        max_connections: Bound of an open loop's outstanding requests.
        deadline_ms: After which an answer is of no use; 0 for none.
        tick_us: How long an open loop may wait to send what is due together, and from 500 on to read what
            was answered together. Latencies include it.
        seed: Of the arrival times.
    """

    target: Target
    seconds: float
    connections: int = 64
    rate_per_s: float = 0.0
    max_connections: int = MAX_CONNECTIONS
    deadline_ms: float = 0.0
    tick_us: float = 50.0
    seed: int = 1


@contextmanager
def start(arrivals: Arrivals) -> Iterator[RunningLoad]:
    """Start a load with our generator.

    Raises:
        LoadError: The generator cannot be built.
    """
    program = build("load")
    with tempfile.NamedTemporaryFile(prefix="tidegate-load-") as file:
        file.write(_encode(arrivals.target))
        file.flush()
        command = [str(program), HOST, str(arrivals.target.port), file.name]
        command += ["--duration", f"{arrivals.seconds:g}", "--connections", str(arrivals.connections)]
        command += ["--seed", str(arrivals.seed), "--deadline-ms", f"{arrivals.deadline_ms:g}"]
        if arrivals.rate_per_s:
            command += ["--rate", f"{arrivals.rate_per_s:.3f}", "--tick-us", f"{arrivals.tick_us:g}"]
            command += ["--max-connections", str(arrivals.max_connections)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            yield RunningLoad(process, limit_s=arrivals.seconds + END_LIMIT_S)
        finally:
            if process.poll() is None:
                process.kill()
                process.communicate()


def closed(target: Target, *, seconds: float, connections: int) -> Load:
    """Run a closed loop with our generator, or with wrk where there is no C compiler.

    Raises:
        LoadError: Neither a C compiler nor wrk is there, or nothing was measured.
    """
    if has_compiler():
        with start(Arrivals(target, seconds, connections)) as load:
            return load.result()
    if shutil.which("wrk"):
        return _run_wrk(target, seconds=seconds, connections=connections)
    raise LoadError(
        "There is neither a C compiler (cc) to build our load generator nor wrk. Install one of them, "
        "for example with: apt-get install gcc libc6-dev"
    )


_SCRIPT = """
local bodies = {BODIES}
local requests, at = {}, 0
init = function()
  for i, body in ipairs(bodies) do
    requests[i] = wrk.format("POST", "PATH", HEADERS, body)
  end
end
request = function()
  at = at % #requests + 1
  return requests[at]
end
done = function(summary, latency)
  local errors = summary.errors
  local broken = errors.connect + errors.read + errors.write + errors.timeout
  io.write(string.format("RESULT %d %d %d %d %d", summary.requests, summary.duration, errors.status, broken,
    latency.max))
  for _, p in ipairs({50, 90, 95, 99, 99.9}) do io.write(" ", latency:percentile(p)) end
  io.write(" ", latency.mean, "\\n")
end
"""


def _run_wrk(target: Target, *, seconds: float, connections: int) -> Load:
    headers = {"Content-Type": "application/json", **target.headers}
    lines = ",".join(f"[{json.dumps(name)}]={json.dumps(value)}" for name, value in headers.items())
    script = (
        _SCRIPT.replace("BODIES", ",".join(json.dumps(body.decode()) for body in target.bodies))
        .replace("PATH", target.path)
        .replace("HEADERS", "{" + lines + "}")
    )
    with tempfile.NamedTemporaryFile("w", prefix="tidegate-load-", suffix=".lua") as file:
        file.write(script)
        file.flush()
        command = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "-s", file.name]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            [*command, f"http://{HOST}:{target.port}{target.path}"],
            capture_output=True,
            text=True,
            check=False,
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    found = re.search(r"^RESULT (.*)$", done.stdout, re.MULTILINE)
    if found is None:
        raise LoadError(f"wrk failed: {done.stdout}{done.stderr}")
    answered, duration_us, refused, broken, slowest, p50, p90, p95, p99, p999, mean = map(
        float, found[1].split()
    )
    duration_s = duration_us / 1e6
    return Load(
        mode="closed (wrk)",
        connections=connections,
        duration_s=duration_s,
        answered=int(answered),
        ok=int(answered - refused),
        broken=int(broken),
        rate_per_s=answered / duration_s,
        ok_per_s=(answered - refused) / duration_s,
        latency_us=Latency(int(answered), mean, p50, p90, p95, p99, p999, slowest),
        cpu_user_s=after.ru_utime - before.ru_utime,
        cpu_system_s=after.ru_stime - before.ru_stime,
    )
