"""The main job from end to end, as `make demo-short` runs it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_demo_ends_with_a_record_for_every_answer_and_better_than_the_base_rate(tmp_path):
    line = [
        sys.executable,
        str(ROOT / "examples" / "flights" / "demo.py"),
        "--short",
        "--home",
        str(tmp_path),
    ]

    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)

    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"Journal: 2,841 records, 2,841 answers: each exactly once", done.stdout)
    assert "2,829 accepted, 2,829 joined" in done.stdout
    assert re.search(r"14,205 served values joined again\s+from the tables,\s+0\s+differ", done.stdout)
    model = re.search(r"the model +│ (\S+) │ +(\S+) │", done.stdout)
    own_rate = re.search(r"always the replay's own +│ (\S+) │ +(\S+) │", done.stdout)
    assert 0.7 < float(model[1]) < 0.85  # above it something of the future has leaked in
    assert float(model[2]) < float(own_rate[2])
