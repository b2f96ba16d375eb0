"""A model file becomes a running server that a person can ask, look into and move, by commands only."""

from __future__ import annotations

import io
import json
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import skl2onnx
from sklearn.linear_model import LogisticRegression

from tests.system.server import can_connect, wait_until
from tidegate.cli.main import main

pytestmark = pytest.mark.slow

START_S = 60


class Said(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


def write_model(path: Path, *, seed: int) -> None:
    rows = np.random.default_rng(seed).normal(size=(200, 3)).astype(np.float32)
    model = LogisticRegression().fit(rows, rows[:, 0] > 0)
    path.write_bytes(skl2onnx.to_onnx(model, rows[:1], options={"zipmap": False}).SerializeToString())


def free_ports(count):
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


class Site:
    """A folder with a model in it, and commands run there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port, self.control_port = free_ports(2)
        self.process = None

    def run(self, *arguments: object) -> Said:
        """Run a command in this process: starting Python for each would take most of the time."""
        out, err = io.StringIO(), io.StringIO()
        line = ["tidegate", *map(str, arguments)]
        with ExitStack() as stack:
            patch = stack.enter_context(pytest.MonkeyPatch.context())
            patch.chdir(self.folder)
            patch.setattr(sys, "argv", line)
            stack.enter_context(redirect_stdout(out))
            stack.enter_context(redirect_stderr(err))
            ended = stack.enter_context(pytest.raises(SystemExit))
            main()
        return Said(ended.value.code or 0, out.getvalue(), err.getvalue())

    def start(self, *arguments: object) -> str:
        """Run `up` until it says it is ready, and return what it said."""
        ports = ["--port", self.port, "--control-port", self.control_port]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tidegate", "up", *map(str, [*arguments, *ports])],
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        said = ""
        for line in self.process.stdout:
            said += line
            if line.startswith("Ready"):
                return said
        raise AssertionError(said)

    def stop(self) -> str:
        """Ask the server to stop and return what else it said."""
        if self.process is None:
            return ""
        self.process.send_signal(signal.SIGTERM)
        rest, _ = self.process.communicate(timeout=START_S)
        code, self.process = self.process.returncode, None
        assert code == 0, rest
        return rest


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    place = Site(tmp_path_factory.mktemp("site"))
    write_model(place.folder / "toy.onnx", seed=0)
    place.said = place.start("toy.onnx")
    yield place
    place.stop()


def test_up_says_what_it_did_and_where_it_is(site):
    assert "The contract was inferred from the model and written to toy.contract.py" in site.said
    assert "First deployment of toy: version 1" in site.said
    assert f"Data port http://127.0.0.1:{site.port}" in site.said
    assert (site.folder / "toy.contract.py").exists()


def test_predict_shows_the_answer_and_its_version(site):
    done = site.run("predict", "toy", '{"X": [2, 0, 0]}', "--json")

    answer = json.loads(done.stdout)
    assert answer["version"] == 1
    assert answer["output"]["label"] == 1
    assert answer["output"]["probabilities"][1] > 0.5


def test_predict_takes_a_file_of_rows(site):
    (site.folder / "rows.jsonl").write_text('{"X": [2, 0, 0]}\n{"X": [-2, 0, 0]}\n')

    done = site.run("predict", "toy", "--file", "rows.jsonl", "--json")

    assert [row["output"]["label"] for row in json.loads(done.stdout)["rows"]] == [1, 0]


def test_predict_shows_a_refusal_in_the_server_s_words(site):
    done = site.run("predict", "toy", '{"X": [2, 0]}')

    as_json = site.run("predict", "toy", '{"X": [2, 0]}', "--json")

    assert done.returncode == as_json.returncode == 1
    assert done.stderr.startswith("Error (contract_violation): Field 'X'")
    assert json.loads(as_json.stderr)["error"]["code"] == "contract_violation"


def test_predict_tells_of_each_wrong_row(site):
    done = site.run("predict", "toy", '[{"X": [2, 0]}, {"Y": 1}]')

    assert [line.split(" must")[0].strip() for line in done.stderr.splitlines()[-3:-1]] == [
        "Field 'X' of row 0",
        "Field 'X' of row 1 is missing. It",
    ]


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://", "no host given"),
        ("http://local host", "control characters"),
        ("localhost", "no address of a server"),
        ("{control}", "There is no page /services/toy/predict"),
    ],
)
def test_predict_says_what_is_wrong_with_an_address(site, url, words):
    # it opens after the data port, so that the first answer waits for nothing
    wait_until(lambda: can_connect(site.control_port), what="the control port")

    done = site.run(
        "predict", "toy", "{}", "--url", url.format(control=f"http://127.0.0.1:{site.control_port}")
    )

    assert done.returncode == 1
    assert words in done.stderr


def test_an_answered_prediction_is_in_the_journal(site):
    answered = json.loads(site.run("predict", "toy", '{"X": [0.5, 0, 0]}', "--json").stdout)

    done = site.run("journal", "show", "--id", answered["prediction_id"], "--json")

    (record,) = map(json.loads, done.stdout.splitlines())
    assert record["kind"] == "prediction"
    assert record["inputs"] == {"X": [0.5, 0.0, 0.0]}
    assert record["outputs"]["label"] == answered["output"]["label"]
    assert site.run("journal", "check").returncode == 0


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--id", "xyz"), 2, "'xyz' is no prediction's id"),
        (("--id", "01a1fb68-cfe4-7738-8a8e-6a3f7ba4a1ef.x"), 2, "is no prediction's id"),
        (("--id", "01a1fb68-cfe4-7738-8a8e-6a3f7ba4a1ef"), 0, "No record of the journal matches."),
        (("nobody",), 1, "No version of a service 'nobody' is registered."),
    ],
)
def test_a_search_of_the_journal_that_finds_nothing_says_so(site, arguments, code, words):
    done = site.run("journal", "show", *arguments)

    assert done.returncode == code
    assert done.stdout == ""
    assert words in done.stderr


def test_the_controller_counts_what_was_answered(site):
    before = -1
    while before != (before := counted(site)):  # what other tests asked for may still be on its way
        time.sleep(1.0)
    site.run("predict", "toy", '{"X": [0, 0, 0]}')

    deadline_s = time.monotonic() + START_S
    while counted(site) == before and time.monotonic() < deadline_s:
        time.sleep(0.1)

    assert counted(site) == before + 1


def counted(site):
    done = site.run("journal", "count", "toy", "--json")
    tallies = json.loads(done.stdout)["tallies"] if done.returncode == 0 else []
    return sum(tally["requests"] for _, tally in tallies)


def test_a_changed_file_is_a_new_version_that_moves_by_switch_and_back_by_rollback(site):
    write_model(site.folder / "toy.onnx", seed=1)

    registered = site.run(
        "register", "toy", "toy.onnx", "--contract", "toy.contract.py", "--changelog", "again"
    )
    assert registered.returncode == 0, registered.stderr
    assert answering(site) == 1

    switched = site.run("switch", "toy", 2, "--reason", "trying it", "--key", "one")
    assert "Version 2 of toy has all the traffic" in switched.stdout, switched.stderr
    assert answering(site) == 2
    repeated = site.run("switch", "toy", 2, "--reason", "trying it", "--key", "one", "--json")
    assert json.loads(repeated.stdout)["decision"]["outcome"] == "committed"

    back = site.run("rollback", "toy", "--reason", "worse")
    assert "Version 1 of toy has all the traffic again" in back.stdout, back.stderr
    assert answering(site) == 1

    latched = site.run("switch", "toy", 2)
    assert latched.returncode == 1
    assert "Error (latched)" in latched.stderr

    kinds = [each["decision"]["kind"] for each in json.loads(site.run("decisions", "toy", "--json").stdout)]
    assert kinds == ["first-deployment", "switch", "rollback"]
    assert site.run("audit", "verify").returncode == 0
    status = json.loads(site.run("status", "--json").stdout)
    assert status["services"][0]["latched"] == [2]
    assert status["services"][0]["n_following"] == 2


def answering(site):
    return json.loads(site.run("predict", "toy", '{"X": [1, 0, 0]}', "--json").stdout)["version"]


def test_a_second_server_on_the_same_home_is_refused(site):
    line = [
        sys.executable,
        "-m",
        "tidegate",
        "up",
        "--port",
        str(site.port),
        "--control-port",
        str(site.port),
    ]

    done = subprocess.run(line, cwd=site.folder, capture_output=True, text=True, check=False, timeout=START_S)

    assert done.returncode == 1
    assert "Error (server_running)" in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("flag", ["--host", "--control-host"])
def test_a_port_that_others_could_reach_needs_open(tidegate, tmp_path, flag):
    write_model(tmp_path / "m.onnx", seed=0)

    said = tidegate("up", "m.onnx", flag, "0.0.0.0")

    assert said.code == 1
    assert "--open" in said.err


def test_a_pickle_is_refused_with_the_way_out(tidegate, tmp_path):
    (tmp_path / "model.pkl").write_bytes(b"\x80\x04.")

    said = tidegate("register", "toy", "model.pkl")

    assert said.code == 1
    assert "is a pickle" in said.err
    assert "tg.register" in said.err
