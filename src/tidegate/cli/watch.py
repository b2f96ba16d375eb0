"""`tidegate watch`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tidegate.cli.option import home_option, json_option, open_local
from tidegate.cli.screen import console, moment, print_json

if TYPE_CHECKING:
    from rich.console import Group

    from tidegate.bootstrap.now import Now

_BARS = " ▁▂▃▄▅▆▇█"
_STYLES = {"critical": "bold red", "warning": "yellow", "notice": "cyan"}


@click.command(
    short_help="Watch services live: traffic, errors, latency, signals.",
    epilog="\b\nExamples:\n  tidegate watch\n  tidegate watch --once --json",
)
@click.option("--minutes", type=click.IntRange(2, 360), default=30, show_default=True, help="How far back.")
@click.option(
    "--every", type=click.FloatRange(0.2), default=2.0, show_default=True, help="Seconds between looks."
)
@click.option("--once", is_flag=True, help="Look once and end.")
@home_option
@json_option
def watch(*, minutes: int, every: float, once: bool, home: Path | None, as_json: bool) -> None:
    """Show what is going on, until Ctrl-C."""
    from rich.live import Live

    from tidegate.bootstrap.now import look

    local = open_local(home, must_exist=True)
    if as_json:
        print_json(look(local, minutes=minutes))
        return
    if once:
        console().print(_drawn(look(local, minutes=minutes)))
        return
    with Live(
        _drawn(look(local, minutes=minutes)), console=console(), screen=False, auto_refresh=False
    ) as live:
        try:
            while True:
                time.sleep(every)
                live.update(_drawn(look(local, minutes=minutes)), refresh=True)
        except KeyboardInterrupt:
            pass


def _drawn(now: Now) -> Group:
    from rich.box import SIMPLE_HEAD
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    services = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in ("service", "requests by minute"):
        services.add_column(name)
    for name in ("per s", "errors", "fallback", "p50 ms", "p99 ms", "outcomes"):
        services.add_column(name, justify="right")
    for each in now.services:
        services.add_row(
            each.service,
            _bars(each.requests),
            f"{each.per_s:.1f}",
            Text(f"{each.failed:.2%}", style="bold red" if each.failed > 0.01 else ""),
            f"{each.fallback:.2%}",
            f"{each.p50_us / 1000:.2f}",
            f"{each.p99_us / 1000:.2f}",
            f"{each.n_outcomes:,}",
        )
    behind = "no ledger yet" if now.behind_bytes is None else f"{now.behind_bytes:,} bytes not counted yet"
    parts: list[Table | Text] = [Text(f"{moment(now.at_us)}   journal: {behind}", style="dim")]
    parts.append(services if now.services else Text("No requests in these minutes."))
    if now.signals is None:
        parts.append(Text("The database cannot be reached: signals are not known.", style="bold red"))
    elif not now.signals:
        parts.append(Text("No signals.", style="green"))
    else:
        signals = Table(box=SIMPLE_HEAD, pad_edge=False)
        for name in ("signal", "service", "since", "what", "what to do"):
            signals.add_column(name)
        for signal in now.signals[:10]:
            what = Text(signal.title, style=_STYLES[signal.severity.value])
            signals.add_row(signal.id[:6], signal.service, f"{signal.first_on}", what, signal.remedy)
        parts.append(signals)
    return Group(*parts)


def _bars(counts: list[int]) -> str:
    most = max(counts, default=0) or 1
    return "".join(_BARS[round(count / most * (len(_BARS) - 1))] for count in counts)
