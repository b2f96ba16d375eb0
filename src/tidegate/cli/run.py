"""`tidegate runs`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from tidegate.cli.option import home_option, json_option, open_local
from tidegate.cli.screen import moment, print_json, print_table, short

if TYPE_CHECKING:
    from tidegate.operation.run import ListedRun
    from tidegate.training.baseline import Comparison


@click.group(short_help="List and show what trainings were given and gave.")
def runs() -> None:
    """List and show what trainings were given and gave."""


@runs.command("list", epilog="\b\nExamples:\n  tidegate runs list\n  tidegate runs list flight-delay --json")
@click.argument("service", required=False)
@home_option
@json_option
def list_(service: str | None, home: Path | None, as_json: bool) -> None:
    """List the runs, of one SERVICE or of all, oldest first."""
    from tidegate.operation.run import list_runs
    from tidegate.operation.version import check_service

    local = open_local(home, must_exist=True)
    found = list_runs(local.unit, local.artifacts, service)
    if not found:
        check_service(local.unit, service)
    if as_json:
        print_json(found)
        return
    if not found:
        click.echo(f"Nothing was trained {f'of {service}' if service else 'here'} yet.")
        return
    print_table(
        (
            "run",
            "service",
            "#version",
            "started",
            "by",
            "#fit s",
            "#rows",
            "#rows/s",
            "code",
            "data",
            "metrics",
        ),
        [_row(listed) for listed in found],
    )


def _row(listed: ListedRun) -> tuple[object, ...]:
    run = listed.run
    return (
        short(listed.digest),
        run.service,
        "-" if listed.version is None else listed.version,
        moment(run.started_at_us),
        run.who,
        f"{run.fit_s:.2f}",
        "-" if run.data.n_rows is None else f"{run.data.n_rows:,}",
        "-" if run.rows_per_s is None else f"{run.rows_per_s:,.0f}",
        short(run.source.digest),
        short(run.data.trained_on or run.data.digest or "-"),
        ", ".join(f"{name} {value:.4g}" for name, value in run.metrics.items() if value is not None),
    )


@runs.command(
    epilog="\b\nExamples:\n  tidegate runs show 4f1c09ab23de\n  tidegate runs show flight-delay@2 --json"
)
@click.argument("run")
@home_option
@json_option
def show(run: str, home: Path | None, as_json: bool) -> None:
    """Show one RUN: the first digits of its name, or the version that came of it."""
    from tidegate.operation.run import find_run

    local = open_local(home, must_exist=True)
    listed = find_run(local.unit, local.artifacts, run)
    if as_json:
        print_json(listed)
        return
    click.echo(f"Run {listed.digest}")
    print_table(("what", "value"), _lines(listed))
    show_comparison(listed.run.comparison)


def show_comparison(found: Comparison | None) -> None:
    """Print by how much a candidate beats its baselines."""
    if found is None:
        click.echo("No baselines: the trainer returned no tg.Trial.")
        return
    units = "rows" if found.n_groups is None else f"{found.n_groups} groups"
    click.echo(
        f"On {found.n_test:,} rows that nobody was fitted on, {found.measure} {found.loss:.5f}; "
        f"fitted on {found.n_train:,} rows. Intervals: 95%, paired bootstrap over {units}."
    )
    print_table(
        ("baseline", f"#{found.measure}", "#the model is better by", "#from", "#to", "beaten"),
        [
            (
                f"{each.name} by {', '.join(each.by)}" if each.by else each.name,
                f"{each.loss:.5f}",
                "-" if each.gain.value is None else f"{each.gain.value:.5f}",
                "-" if each.gain.low is None else f"{each.gain.low:.5f}",
                "-" if each.gain.high is None else f"{each.gain.high:.5f}",
                "yes" if each.beaten else "NO",
            )
            for each in found.baselines
        ],
    )


def _lines(listed: ListedRun) -> list[tuple[str, object]]:
    run = listed.run
    version = "-" if listed.version is None else f"{run.service}@{listed.version}"
    commit = "no repository"
    if run.revision is not None:
        commit = run.revision + (" and changes beyond it" if run.revision_changed else "")
    lines: list[tuple[str, object]] = [
        ("version", version),
        ("started", f"{moment(run.started_at_us)} by {run.who}"),
        ("data file", run.data.path or "the trainer loads its own"),
        ("data file's digest", run.data.digest or "-"),
        ("snapshot", f"{run.data.label} {run.data.snapshot}".strip() if run.data.snapshot else "-"),
        ("rows' digest, as the trainer says", run.data.trained_on or "-"),
        ("rows", "-" if run.data.n_rows is None else f"{run.data.n_rows:,}"),
        ("source", f"{run.source.folder}: {len(run.source.files)} files, {run.source.digest}"),
        ("commit", commit),
        ("seed", run.seed),
        *((f"given {name}", value) for name, value in run.given.items()),
        *((f"used {name}", value) for name, value in run.used.items()),
        (
            "environment",
            f"Python {run.packages.python}, {len(run.packages.packages)} packages, {run.packages.digest}",
        ),
        (
            "machine",
            f"{run.machine.name}: {run.machine.n_cpus} x {run.machine.processor or run.packages.system}",
        ),
        ("memory", f"{run.machine.memory_bytes / 2**30:.1f} GiB"),
        ("fit", f"{run.fit_s:.3f} s" + (f", {run.rows_per_s:,.0f} rows/s" if run.rows_per_s else "")),
        ("total", f"{run.total_s:.3f} s"),
    ]
    lines += [
        (f"metric {name}", "undefined" if value is None else f"{value:.6g}")
        for name, value in run.metrics.items()
    ]
    return lines + [(f"artifact {name}", digest) for name, digest in run.artifacts.items()]
