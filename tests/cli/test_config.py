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
        ("port = 99999", "'port' (tidegate.toml) cannot be 99999."),
        ("control_port = 0", "A port is 1 to 65535."),
        ("records_keep_days = -1", "'records_keep_days' (tidegate.toml) cannot be -1"),
        ("journal_keep_days = -1", "Days are 0 to 36500"),
        ("journal_keep_days = 99999999999", "Days are 0 to 36500"),
        ("journal_max_mb = -1", "'journal_max_mb' (tidegate.toml) cannot be -1"),
        ("workers = 0", "1 to 256 workers"),
        ("memory_mb = -5", "'memory_mb' (tidegate.toml) cannot be -5"),
        ("on_demand_above = -1", "'on_demand_above' (tidegate.toml) cannot be -1"),
        ("online_store_ms = 0", "'online_store_ms' (tidegate.toml) cannot be 0"),
        ("trace_share = 5", "A part is 0 to 1."),
        ("trace_share = nan", "A part is 0 to 1."),
        ('online_store = "redis//x"', "Write redis://HOST"),
        ('online_store = "http://x"', "Write redis://HOST"),
        ('trace_url = "localhost:4318"', "Write http://HOST:4318."),
        ('trace_url = "http:///v1"', "Write http://HOST:4318."),
        ('alert_urls = "example.org/hook"', "Each is https://HOST/..."),
        ('alert_urls = "https://example.org/hook,me@example.org"', "Each is https://HOST/..."),
        ('alert_urls = "https://"', "Each is https://HOST/..."),
    ],
)
def test_a_file_that_is_wrong_is_refused_with_its_name(tidegate, tmp_path, text, words):
    (tmp_path / "tidegate.toml").write_text(text)

    said = tidegate("config", "show")

    assert said.code == 1
    assert words in said.err


def test_a_value_out_of_bounds_is_refused_from_the_environment_too(tidegate, monkeypatch):
    monkeypatch.setenv("TIDEGATE_RECORDS_KEEP_DAYS", "-1")

    said = tidegate("config", "show")

    assert said.code == 1
    assert "'TIDEGATE_RECORDS_KEEP_DAYS' (environment) cannot be '-1'" in said.err


def test_a_secret_that_is_refused_is_not_shown(tidegate, monkeypatch):
    monkeypatch.setenv("TIDEGATE_ONLINE_STORE", "redis//:hunter2@store")

    said = tidegate("config", "show")

    assert said.code == 1
    assert "hunter2" not in said.err


@pytest.mark.parametrize(
    "text",
    [
        'online_store = "rediss://:word@store:6380/1"',
        'online_store = "unix:///run/valkey.sock"',
        'trace_url = "https://traces.example"',
        'alert_urls = "https://example.org/hook, mailto://me:word@example.org,syslog://,"',
        "workers = 256\nport = 65535\ntrace_share = 1\nonline_store_ms = 1",
    ],
)
def test_what_is_within_bounds_is_taken(tidegate, tmp_path, text):
    (tmp_path / "tidegate.toml").write_text(text)

    assert tidegate("config", "show").code == 0


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
