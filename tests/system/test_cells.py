"""Two cells of one home, a server each: a release goes through one before the other begins."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import msgspec
import pytest

from tests.system.model import BOUNDED, add_version, write_sum
from tests.system.server import Client, Crowd, Server, wait_until
from tidegate.bootstrap.local import Local
from tidegate.operation.rollout import find_release
from tidegate.release.plan import Guardrail, Plan, PlanStep
from tidegate.route.status import StatusBoard, WorkerStatus

pytestmark = pytest.mark.slow

SERVICE = "sum"
PLAN = Plan(
    shadow=None,
    steps=(PlanStep(0.5, 0.5),),
    guardrails=(Guardrail("errors", allowance=0.2), Guardrail("contract", allowance=0.2)),
    waves=(("east",), ("west",)),
    mature_s=0.0,
)


class CellServer(Server):
    """`tidegate up --cell` on the same home as others."""

    def __init__(self, folder: Path, cell: str) -> None:
        super().__init__(folder, n_workers=1)
        self.cell = cell
        self.log = folder / f"{cell}.log"

    def local(self) -> Local:
        local = super().local()
        return Local(msgspec.structs.replace(local.settings, cell=self.cell))

    def workers(self) -> list[WorkerStatus]:
        return StatusBoard(self.home.workers(self.cell)).live()


@pytest.fixture(scope="module")
def cells(tmp_path_factory) -> Iterator[dict[str, CellServer]]:
    folder = tmp_path_factory.mktemp("cells")
    found = {cell: CellServer(folder, cell) for cell in ("east", "west")}
    add_version(found["east"], SERVICE, write_sum(folder / "0.onnx", 0.0), BOUNDED)
    with ExitStack() as stack:
        for cell, server in found.items():
            stack.callback(server.sweep)
            server.start("--cell", cell, ready=False)
        for server in found.values():
            server.wait_ready()
        for constant in (1.0, 1000.0):  # the second breaks its contract
            add_version(found["east"], SERVICE, write_sum(folder / f"{constant}.onnx", constant), BOUNDED)
        yield found


class Callers(Crowd):
    """Ask in every cell, and count who answers."""

    def __init__(self, cells: dict[str, CellServer]) -> None:
        self.statuses: Counter[int] = Counter()
        self.versions: dict[str, Counter[int]] = {cell: Counter() for cell in cells}
        super().__init__(*(partial(self._ask, cell, server.port) for cell, server in cells.items()))

    def _ask(self, cell: str, port: int) -> None:
        with Client(port) as client:
            while not self._stopping.wait(0.004):
                answer = client.post(f"/services/{SERVICE}/predict", {"rows": [{"a": 1.0, "b": 2.0}]})
                self.statuses[answer.status] += 1
                if answer.status == 200:
                    self.versions[cell][int(answer.json()["version"])] += 1


def share_of(server: CellServer, version: int) -> float:
    route = server.local().routes.read().services[SERVICE]
    return sum(arm.share for arm in route.arms if arm.version == version)


def release(cells: dict[str, CellServer], version: int) -> tuple[object, list[tuple[float, float]]]:
    """Release a version over both cells; return how it ended, and the shares at each look."""
    server = cells["east"]
    path = server.folder / "plan.json"
    path.write_bytes(msgspec.json.encode(PLAN))
    done = server.command("release", "start", SERVICE, version, "--plan", path, "--override", "a test")
    assert done.returncode == 0, done.stderr
    seen = []
    give_up_s = time.monotonic() + 60
    with server.local() as local:
        while (state := find_release(local.unit, SERVICE)).is_open and time.monotonic() < give_up_s:
            # west first: what it has, east has had before
            west = share_of(cells["west"], version)
            seen.append((share_of(cells["east"], version), west))
            time.sleep(0.05)
    return state, seen


def test_the_second_cell_begins_when_the_first_is_through(cells):
    with Callers(cells) as callers:
        ended, seen = release(cells, 2)

    assert ended.ending == "promoted", ended
    assert {0.5, 1.0} <= {east for east, _ in seen}
    assert any(0 < west < 1 for _, west in seen)
    assert all(east == 1.0 for east, west in seen if west)
    assert [share_of(server, 2) for server in cells.values()] == [1.0, 1.0]
    assert set(callers.statuses) == {200}


def test_what_regresses_in_the_first_cell_never_comes_to_the_second(cells):
    with Callers(cells) as callers:
        ended, _ = release(cells, 3)

    assert ended.ending == "rolled-back", ended
    assert "more errors" in ended.reason
    assert callers.versions["west"][3] == 0
    assert [share_of(server, 3) for server in cells.values()] == [0.0, 0.0]
    assert set(callers.statuses) == {200}


def test_a_rollback_without_a_name_takes_back_every_cell(cells):
    said = cells["west"].command("rollback", "--to", "1", "--reason", "both of them")

    gone = "Version 2 was taken away and is latched."
    assert (said.returncode, said.stderr) == (0, "")
    assert sorted(said.stdout.splitlines()) == [
        f"Version 1 of {SERVICE} has all the traffic again in cell {cell}. {gone}"
        for cell in ("east", "west")
    ]
    assert [share_of(server, 1) for server in cells.values()] == [1.0, 1.0]


def test_another_server_goes_on_counting_when_the_one_that_did_ends(cells):
    west = cells["west"]
    cells["east"].stop()
    n_before = west.tally(SERVICE).requests
    with Callers({"west": west}):
        wait_until(lambda: west.tally(SERVICE).requests > n_before + 100, what="west counts")
