"""The command line in this process, in a folder of its own."""

from __future__ import annotations

import sys
from typing import NamedTuple

import pytest

from tidegate.cli.main import main


class Said(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def tidegate(tmp_path, monkeypatch, capsys):
    """Run `tidegate ARGUMENTS` in an empty folder and return exit status and what was printed."""
    monkeypatch.chdir(tmp_path)
    for name in ("TIDEGATE_HOME", "TIDEGATE_CONFIG", "TIDEGATE_DATABASE_URL"):
        monkeypatch.delenv(name, raising=False)

    def run(*arguments: object, asked: bytes | None = None) -> Said:
        monkeypatch.setattr(sys, "argv", ["tidegate", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(asked)
        said = capsys.readouterr()
        return Said(ended.value.code or 0, said.out, said.err)

    return run
