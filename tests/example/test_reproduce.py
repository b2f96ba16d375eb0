"""The flights' model is trained twice, by the command line, in processes of their own."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "flights"


def tidegate(*arguments):
    line = [sys.executable, "-m", "tidegate", *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, check=False, timeout=300)


@pytest.mark.slow
def test_the_flights_run_is_reproduced_bit_by_bit_until_a_source_file_changes(tmp_path):
    folder, home = tmp_path / "flights", tmp_path / "home"
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns(".*", "__pycache__"))
    trained = tidegate("train", folder, "--home", home, "--param", "max_iter=20")
    assert trained.returncode == 0, trained.stderr

    same = tidegate("reproduce", "flight-delay@1", "--home", home, "--json")
    (folder / "flight_data.py").write_text((folder / "flight_data.py").read_text() + "# a remark\n")
    changed = tidegate("reproduce", "flight-delay@1", "--home", home, "--json")

    assert same.returncode == 0, same.stdout + same.stderr
    assert all(aspect["same"] for aspect in json.loads(same.stdout)["aspects"])
    assert changed.returncode == 3
    found = {aspect["name"]: aspect for aspect in json.loads(changed.stdout)["aspects"]}
    assert found["source"]["differences"] == ["flight_data.py was changed"]
    assert found["predictions"]["same"] is True
