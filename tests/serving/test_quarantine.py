"""Inputs that end a process are found by halves and refused; nobody else is."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.journal.fake import FakeClock
from tidegate.contract.batch import Batch
from tidegate.serving.quarantine import (
    CONVICTED_S,
    MAX_CONVICTED,
    STRIKES,
    Notes,
    Quarantine,
    fingerprints,
)

SECRET = b"s"


def rows_of(*values: float) -> list[bytes]:
    return fingerprints(Batch({"x": np.asarray(values, float)}, len(values)), secret=SECRET)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


class Life:
    """A runner whose process dies on some inputs, and is started again with what was left behind."""

    def __init__(self, folder: Path, poison: set[float], clock: FakeClock, version: int = 1) -> None:
        self.folder, self.poison, self.clock, self.version = folder, poison, clock, version
        self.n_crashes = 0
        self._begin()

    def _begin(self) -> None:
        self.notes = Notes(self.folder / f"{self.version}.notes")
        self.quarantine = Quarantine(self.folder, self.version, clock=self.clock)
        if self.notes.left:
            self.quarantine.crashed(self.notes.left)

    def ask(self, values: list[float]) -> list[str]:
        """Return what became of each row: answered, refused, or lost with the process."""
        rows = rows_of(*values)
        became = ["lost"] * len(rows)
        refused = self.quarantine.refused(rows)
        for position in refused:
            became[position] = "refused"
        rest = [position for position in range(len(rows)) if position not in refused]
        for call in self.quarantine.calls([rows[position] for position in rest]):
            members = [rest[position] for position in call]
            self.notes.begin([rows[position] for position in members])
            if any(values[position] in self.poison for position in members):
                self.n_crashes += 1
                self._begin()
                return became
            self.notes.end()
            self.quarantine.worked([rows[position] for position in members])
            for position in members:
                became[position] = "answered"
        return became


@settings(max_examples=60)
@given(st.integers(1, 64), st.data())
def test_one_poisonous_row_costs_no_more_crashes_than_halving_takes(tmp_path_factory, n_rows, data) -> None:
    poison = data.draw(st.integers(0, n_rows - 1))
    values = [float(value) for value in range(n_rows)]
    life = Life(tmp_path_factory.mktemp("q"), {float(poison)}, FakeClock())

    became: list[str] = []
    for _ in range(2 * n_rows + 4):
        became = life.ask(values)
        if "lost" not in became:
            break

    assert became == ["refused" if value == poison else "answered" for value in range(n_rows)]
    assert life.n_crashes <= 2 + math.ceil(math.log2(n_rows))


def test_several_poisonous_rows_are_all_found(tmp_path: Path, clock: FakeClock) -> None:
    life = Life(tmp_path, {3.0, 17.0, 18.0}, clock)
    values = [float(value) for value in range(32)]

    for _ in range(60):
        became = life.ask(values)

    assert [value for value, what in enumerate(became) if what == "refused"] == [3, 17, 18]
    assert became.count("answered") == 29


def test_a_row_is_asked_again_after_a_while_and_by_a_new_process_until_then_refused(tmp_path, clock) -> None:
    life = Life(tmp_path, {1.0}, clock)
    assert life.ask([1.0]) == ["lost"]
    assert life.ask([1.0]) == ["lost"], "once proves nothing: the process may have been killed"
    life.poison.clear()

    assert Quarantine(tmp_path, 1, clock=clock).refused(rows_of(1.0, 2.0)) == [0]
    assert life.ask([1.0]) == ["refused"]
    clock.forward(CONVICTED_S + 1)
    assert life.ask([1.0]) == ["answered"]


def test_an_input_that_ends_two_versions_is_at_fault_itself(tmp_path: Path, clock: FakeClock) -> None:
    first, second = Life(tmp_path, {1.0}, clock, 1), Life(tmp_path, {1.0, 2.0}, clock, 2)
    for life, value in [(first, 1.0), (second, 1.0), (second, 2.0)]:
        life.ask([value])
        life.ask([value])

    assert second.quarantine.is_shared(rows_of(1.0))
    assert not second.quarantine.is_shared(rows_of(2.0))
    assert not second.quarantine.is_shared(rows_of(1.0, 2.0))


def test_a_row_on_which_the_model_only_raises_is_refused_after_several_times(tmp_path, clock) -> None:
    quarantine = Quarantine(tmp_path, 1, clock=clock)
    (row,) = rows_of(5.0)

    for _ in range(STRIKES - 1):
        quarantine.failed_alone(row)
    assert quarantine.refused([row]) == []
    quarantine.failed_alone(row)
    assert quarantine.refused([row]) == [0]

    (other,) = rows_of(6.0)
    quarantine.failed_alone(other)
    quarantine.worked([other])  # it was not the row
    for _ in range(STRIKES - 1):
        quarantine.failed_alone(other)
    assert quarantine.refused([other]) == []


def test_a_disk_that_cannot_be_written_ends_nothing_and_is_said_once(tmp_path, clock, caplog) -> None:
    folder = tmp_path / "gone"  # every write to it fails, as on a full disk
    quarantine = Quarantine(folder, 1, clock=clock)
    (row,) = rows_of(1.0)

    quarantine.crashed([row])
    quarantine.crashed([row])

    assert quarantine.refused([row]) == [0]
    assert len(caplog.records) == 1
    folder.mkdir()
    quarantine.crashed(rows_of(2.0))
    assert Quarantine(folder, 1, clock=clock).refused([row]) == [0]


def test_what_is_remembered_is_bounded(tmp_path: Path, clock: FakeClock) -> None:
    quarantine = Quarantine(tmp_path, 1, clock=clock)
    rows = [value.to_bytes(8, "big") for value in range(2 * MAX_CONVICTED)]

    quarantine.convict(rows)

    assert len(quarantine.refused(rows)) == MAX_CONVICTED
    assert quarantine.refused(rows[-1:]) == [0]


def test_a_fingerprint_is_that_of_the_row_alone_whatever_its_batch_and_layout() -> None:
    matrix = np.arange(12.0).reshape(4, 3)
    names = ("a", "b", "c")
    block = Batch({name: matrix[:, at] for at, name in enumerate(names)}, 4, blocks=[(names, matrix)])
    text = {"t": np.array(["x", "y", "x", "x"], object), "n": np.array([1, 1, 1, 2])}

    assert fingerprints(block, secret=SECRET)[2:3] == fingerprints(block.rows(2, 3), secret=SECRET)
    assert len(set(fingerprints(block, secret=SECRET))) == 4
    found = fingerprints(Batch(text, 4), secret=SECRET)
    assert found[0] == found[2]
    assert len(set(found)) == 3
    assert fingerprints(Batch(text, 4), secret=b"other") != found
