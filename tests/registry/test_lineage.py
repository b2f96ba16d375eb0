import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tidegate.core.error import NotFound
from tidegate.core.principal import Principal
from tidegate.registry.lineage import collect_lineage, environment, git_revision, source_digest

needs_git = pytest.mark.skipif(
    shutil.which("git") is None, reason="git is not installed; lineage goes without"
)


class FixedClock:
    def wall_us(self) -> int:
        return 1_700_000_000_000_000

    def monotonic_s(self) -> float:
        return 0.0


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "service.py").write_text("x = 1\n")
    return folder


@pytest.fixture
def repository(source: Path) -> Path:
    git(source, "init", "-q")
    git(source, "add", ".")
    git(source, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "-m", "first")
    return source


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(folder), *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


@needs_git
def test_revision_of_a_clean_repository_is_its_commit(repository):
    revision = git_revision(repository / "service.py")

    assert revision is not None
    assert revision == (git(repository, "rev-parse", "HEAD"), False)


@needs_git
@pytest.mark.parametrize("name", ["service.py", "new.py"])
def test_revision_tells_of_changed_and_of_new_files(repository, name):
    (repository / name).write_text("x = 2\n")

    revision = git_revision(repository)

    assert revision is not None
    assert revision.changed


@needs_git
def test_revision_ignores_changes_outside_the_source(repository):
    inner = repository / "inner"
    inner.mkdir()
    (repository / "elsewhere.txt").write_text("")

    revision = git_revision(inner)

    assert revision is not None
    assert not revision.changed


@needs_git
def test_revision_runs_no_program_that_the_repository_names(repository, tmp_path):
    trap = tmp_path / "trap"
    trap.write_text(f"#!/bin/sh\ntouch {tmp_path / 'sprung'}\n")
    trap.chmod(0o755)
    git(repository, "config", "core.fsmonitor", str(trap))

    assert git_revision(repository) is not None
    assert not (tmp_path / "sprung").exists()


@needs_git
def test_revision_without_a_repository_or_a_commit_is_none(source):
    assert git_revision(source) is None
    git(source, "init", "-q")
    assert git_revision(source) is None


def test_revision_without_git_is_none(source, monkeypatch):
    monkeypatch.setenv("PATH", str(source))

    assert git_revision(source) is None


def test_source_digest_changes_with_code_and_with_nothing_else(source):
    before = source_digest(source)
    for name in ("notes.txt", ".hidden/x.py", "__pycache__/service.py", "service.pyc"):
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_text("y = 1\n")
    assert source_digest(source) == before

    (source / "part").mkdir()
    (source / "part" / "model.py").write_text("y = 1\n")
    with_part = source_digest(source)
    (source / "service.py").write_text("x = 2\n")

    assert len({before, with_part, source_digest(source)}) == 3


def test_source_digest_of_nothing_is_refused(source):
    with pytest.raises(NotFound):
        source_digest(source / "absent.py")


def test_environment_lists_installed_packages_only():
    found = environment(["numpy", "no-such-package-anywhere"])

    assert found.packages == {"numpy": np.__version__}
    assert found.python.startswith("3.")
    assert found.platform


def test_lineage_keeps_numbers_of_numpy_as_plain_values(source):
    lineage = collect_lineage(
        clock=FixedClock(),
        principal=Principal("ana@laptop"),
        source=source,
        parameters={
            "rate": np.float32(0.5),
            "shape": np.array([1, 2]),
            "kind": FixedClock().wall_us,
            "nested": {"n": np.int64(3)},
        },
        metrics={"auc": np.float64(0.75)},
    )

    assert lineage.parameters["rate"] == 0.5
    assert lineage.parameters["shape"] == [1, 2]
    assert lineage.parameters["nested"] == {"n": 3}
    assert lineage.parameters["kind"].endswith("FixedClock.wall_us")
    assert lineage.metrics == {"auc": 0.75}
    assert type(lineage.metrics["auc"]) is float
    assert (lineage.who, lineage.when_us) == ("ana@laptop", 1_700_000_000_000_000)
    assert lineage.code_digest == source_digest(source)
