"""Settings come from default, file, environment and flag, in that order, and unknown ones fail."""

from __future__ import annotations

import json

import pytest


def test_each_value_is_shown_with_its_source(tidegate, tmp_path, monkeypatch):
    (tmp_path / "tidegate.toml").write_text('port = 9000\nworkers = 3\nhost = "127.0.0.2"\n')
    monkeypatch.setenv("TIDEGATE_WORKERS", "4")
    monkeypatch.setenv("TIDEGATE_HOST", "127.0.0.3")

    said = tidegate("config", "show", "--home", "elsewhere", "--json")

    shown = json.loads(said.out)
    assert shown["port"] == {"value": 9000, "source": "tidegate.toml"}
    assert shown["workers"] == {"value": 4, "source": "environment"}
    assert shown["host"] == {"value": "127.0.0.3", "source": "environment"}
    assert shown["home"] == {"value": "elsewhere", "source": "flag"}
    assert shown["control_port"] == {"value": 8081, "source": "default"}


def test_a_secret_is_masked(tidegate, monkeypatch):
    monkeypatch.setenv("TIDEGATE_DATABASE_URL", "postgresql://me:hunter2@db/tidegate")

    said = tidegate("config", "show")

    assert "hunter2" not in said.out
    assert "********" in said.out


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("prot = 1", "There is no setting 'prot' (tidegate.toml)"),
        ('port = "x"', "'port' (tidegate.toml) cannot be 'x'"),
        ("port = 1.5", "'port' (tidegate.toml) cannot be 1.5"),
        ("port", "cannot be read"),
    ],
)
def test_a_file_that_is_wrong_is_refused_with_its_name(tidegate, tmp_path, text, words):
    (tmp_path / "tidegate.toml").write_text(text)

    said = tidegate("config", "show")

    assert said.code == 1
    assert words in said.err


def test_a_misspelt_variable_is_refused(tidegate, monkeypatch):
    monkeypatch.setenv("TIDEGATE_PROT", "9000")

    said = tidegate("config", "show")

    assert said.code == 1
    assert "There is no setting 'TIDEGATE_PROT' (environment)" in said.err
    assert "TIDEGATE_PORT" in said.err


def test_a_file_can_be_named_by_the_environment(tidegate, tmp_path, monkeypatch):
    (tmp_path / "other.toml").write_text("port = 9001")
    monkeypatch.setenv("TIDEGATE_CONFIG", "other.toml")

    said = tidegate("config", "show", "--json")

    assert json.loads(said.out)["port"] == {"value": 9001, "source": "other.toml"}
