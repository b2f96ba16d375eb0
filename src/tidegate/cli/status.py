"""`tidegate status`."""

from __future__ import annotations

from pathlib import Path

import click

from tidegate.cli.option import home_option, json_option, open_local
from tidegate.cli.screen import print_json, print_table


@click.command(
    short_help="Show who answers requests, and whether the workers follow.",
    epilog="\b\nExamples:\n  tidegate status\n  tidegate status flight-delay --json",
)
@click.argument("service", required=False)
@home_option
@json_option
def status(service: str | None, home: Path | None, as_json: bool) -> None:
    """Show the server, the route of one SERVICE or of all, and what each worker follows.

    Reads local files only, so that it answers with the database or the server down.
    """
    from tidegate.bootstrap.overview import overview

    local = open_local(home, must_exist=True)
    seen = overview(local, service=service)
    if as_json:
        print_json(seen)
        return
    if seen.server is None:
        click.echo(f"No server runs on {local.home.root}.")
    else:
        click.echo(
            f"Server {seen.server.pid} on {local.home.root}: data port {seen.server.data}, "
            f"control port {seen.server.control}"
        )
    for condition in seen.conditions:
        click.echo(f"{condition.subject} ({condition.state}): {condition.words}")
    if not seen.services:
        click.echo("No service has a route yet.")
        return
    rows = []
    for each in seen.services:
        arms = ", ".join(f"{arm.name}: version {arm.version} ({arm.share:.0%})" for arm in each.arms)
        rows.append(
            (
                each.service,
                each.generation,
                "fallback only (safe mode)" if each.safe_mode else arms,
                ", ".join(map(str, each.standby)) or "-",
                ", ".join(map(str, each.latched)) or "-",
                f"{each.n_following} of {len(seen.workers)}",
            )
        )
    print_table(("service", "#generation", "answered by", "standby", "latched", "workers that follow"), rows)
    for worker in seen.workers:
        for name, failures in worker.failed.items():
            for number, why in failures.items():
                click.echo(f"Worker {worker.slot} cannot serve {name} version {number}: {why}")
