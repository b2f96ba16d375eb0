"""Rounds, summaries, targets and the report: what every case shares."""

from __future__ import annotations

import importlib.metadata
import math
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")
RESULTS = Path(__file__).parent / "result"
PACKAGES = (
    "tidegate",
    "numpy",
    "onnxruntime",
    "msgspec",
    "uvloop",
    "httptools",
    "fastapi",
    "uvicorn",
    "pydantic",
)
PACKAGES_OPTIONAL = ("mosec",)
SETTLE_S = 0.3  # after a load, so that what a server does behind its answers is not charged to the next one


class Options(msgspec.Struct, frozen=True):
    """How long to measure.

    Attributes:
        short: A smoke run: shows that everything works, not what it costs.
        rounds: Interleaved repetitions; figures are medians over them.
        seconds: Length of one load.
        workers: Worker processes of every server.
    """

    short: bool = False
    rounds: int = 5
    seconds: float = 5.0
    workers: int = 2

    def show(self) -> str:
        """Return how the figures were taken."""
        rounds = f"{self.rounds} round{'s' if self.rounds > 1 else ''} of {self.seconds:g} s"
        return f"{rounds}; median (min-max)"


class Summary(msgspec.Struct, frozen=True):
    """A figure over the rounds."""

    median: float
    min: float
    max: float

    def show(self, digits: int = 1) -> str:
        """Return `median (min-max)`."""
        if self.min == self.max:
            return f"{self.median:,.{digits}f}"
        return f"{self.median:,.{digits}f} ({self.min:,.{digits}f}-{self.max:,.{digits}f})"


def summarise(values: Iterable[float]) -> Summary:
    """Return median, least and largest of at least one value."""
    found = list(values)
    return Summary(statistics.median(found), min(found), max(found))


class Goal(msgspec.Struct, frozen=True):
    """A target and whether it is reached.

    Attributes:
        name: What is measured.
        value: What came out (None: it could not be measured; `note` says why).
        limit: What is asked for.
        at_least: True where more is better.
        unit: Of both.
    """

    name: str
    value: float | None
    limit: float
    at_least: bool
    unit: str = ""
    note: str = ""

    @property
    def reached(self) -> bool | None:
        if self.value is None or math.isnan(self.value):
            return None
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    def show(self) -> str:
        """Return one line: verdict, value, target."""
        verdict = {True: "reached", False: "MISSED", None: "not measured"}[self.reached]
        value = (
            "-" if self.value is None else f"{self.value:,.3g}" if self.value < 1000 else f"{self.value:,.0f}"
        )
        limit = f"{'at least' if self.at_least else 'at most'} {self.limit:,g} {self.unit}"
        note = f" ({self.note})" if self.note else ""
        return f"  {verdict:<12} {self.name}: {value} {self.unit}, target {limit}{note}"


class Table(msgspec.Struct, frozen=True):
    """Rows for a person."""

    title: str
    columns: list[str]
    rows: list[list[str]]

    def show(self) -> str:
        lines = [self.columns, *self.rows]
        widths = [max(len(line[i]) for line in lines) for i in range(len(self.columns))]
        text = [
            "  ".join(
                cell.ljust(width) if i == 0 else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(line, widths, strict=True))
            )
            for line in lines
        ]
        return "\n".join([self.title, text[0], "-" * len(text[0]), *text[1:]])


class Report(msgspec.Struct):
    """What one benchmark found."""

    name: str
    tables: list[Table] = []
    goals: list[Goal] = []
    notes: list[str] = []
    raw: dict[str, Any] = {}

    def show(self) -> str:
        parts = [f"== {self.name}", *(table.show() for table in self.tables)]
        if self.goals:
            parts.append("\n".join(["targets", *(goal.show() for goal in self.goals)]))
        parts += [f"note: {note}" for note in self.notes]
        return "\n\n".join(parts) + "\n"


def interleave(
    contenders: dict[str, Callable[[], T]], *, rounds: int, settle_s: float = SETTLE_S
) -> dict[str, list[T]]:
    """Measure A, B, A, B ... so that what drifts on the machine meets all alike.

    Every second round runs the other way round, so that none always follows the same one.
    """
    found: dict[str, list[T]] = {name: [] for name in contenders}
    for number in range(rounds):
        order = list(contenders) if number % 2 == 0 else list(reversed(contenders))
        for name in order:
            found[name].append(contenders[name]())
            time.sleep(settle_s)
    return found


def paired(numerators: Sequence[float], denominators: Sequence[float]) -> Summary:
    """Summarise the ratio within each round, which drift of the machine hardly touches."""
    pairs = zip(numerators, denominators, strict=True)
    return summarise(a / b if b else math.nan for a, b in pairs)


def machine() -> dict[str, Any]:
    """Describe where this runs: what a reader needs to judge the figures."""
    models = [line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    memory_kb = next(
        (int(line.split()[1]) for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), 0
    )
    versions = {}
    for package in (*PACKAGES, *PACKAGES_OPTIONAL):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            if package not in PACKAGES_OPTIONAL:
                versions[package] = "not installed"
    return {
        "cpu": models[0] if models else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(memory_kb * 1024 / 1e9, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_average_before": os.getloadavg()[0],
        "revision": _revision(),
        "packages": versions,
    }


def show_machine(facts: Mapping[str, Any]) -> str:
    """Return `machine` in three lines."""
    packages = ", ".join(f"{name} {version}" for name, version in facts["packages"].items())
    return (
        f"{facts['cpu']}, {facts['cores']} cores, {facts['memory_gb']} GB, Linux {facts['kernel']}, "
        f"Python {facts['python']}; load before: {facts['load_average_before']:.2f}\n{packages}\n"
        f"revision {facts['revision']}"
    )


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def _revision() -> str:
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or "unknown"
