"""`tidegate evaluate`."""

from __future__ import annotations

from pathlib import Path

import click

from tidegate.cli.option import home_option, json_option, key_option, open_local
from tidegate.cli.screen import print_json, short


@click.command(
    short_help="Measure a version on rows whose outcomes are known.",
    epilog="\b\nExamples:\n  tidegate evaluate flight-delay@2\n"
    "  tidegate evaluate flight-delay --data october.parquet --target late --html report.html\n"
    "  tidegate evaluate flight-delay@2 --recent 30d --every 7d",
)
@click.argument("version")
@click.option("--data", metavar="FILE|SNAPSHOT", help="Rows with what came true; else those of its trial.")
@click.option(
    "--recent",
    metavar="DURATION",
    help="Instead: what it answered in the last 30d, say, as far as outcomes are known.",
)
@click.option("--target", help="Column, or name of the outcome, of what came true; else as declared.")
@click.option("--every", metavar="DURATION", help="Length of the stretches of time that are measured apart.")
@click.option("--seed", type=int, default=0, help="Of halves, shuffles and bootstraps.")
@click.option(
    "--html", type=click.Path(path_type=Path, dir_okay=False), help="Write the report as a page, too."
)
@key_option
@home_option
@json_option
def evaluate(
    version: str,
    *,
    data: str | None,
    recent: str | None,
    target: str | None,
    every: str | None,
    seed: int,
    html: Path | None,
    key: str | None,
    home: Path | None,
    as_json: bool,
) -> None:
    """Measure VERSION (service@number, or a service for its latest) in every way that the rows allow.

    Figures with intervals, calibration and what recalibrating would save, slices, groups, value in money,
    robustness, rules, importance, the loss by stretch of time, and how old the rows are. The service declares
    what is measured with tg.Evaluation. The report is kept; it judges nothing.
    """
    from tidegate.bootstrap.evaluate import evaluate_version
    from tidegate.evaluation.report import render, render_html
    from tidegate.service.declare import duration_s

    if data is not None and recent is not None:
        raise click.UsageError("Name --data or --recent, not both.")
    local = open_local(home, must_exist=True)
    found = evaluate_version(
        local,
        version,
        data=data,
        recent_us=None if recent is None else round(duration_s(recent) * 1e6),
        target=target,
        every_us=None if every is None else round(duration_s(every) * 1e6),
        seed=seed,
        key=key,
    )
    label = f"{found.service}@{found.version}"
    if html is not None:
        html.write_text(render_html(found.report, title=f"{label} by {found.source}"), encoding="utf-8")
    if as_json:
        print_json(found)
        return
    click.echo(f"{label} by {found.source}; what came true: {found.target}")
    click.echo(render(found.report), nl=False)
    click.echo(f"\nReport {short(found.digest or '')}.")
