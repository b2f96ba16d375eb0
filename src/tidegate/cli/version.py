"""`tidegate versions`."""

from __future__ import annotations

from pathlib import Path

import click

from tidegate.cli.option import home_option, json_option, open_local
from tidegate.cli.screen import moment, print_json, print_table, short


@click.command(
    short_help="List the registered versions.",
    epilog="\b\nExamples:\n  tidegate versions\n  tidegate versions flight-delay --json",
)
@click.argument("service", required=False)
@home_option
@json_option
def versions(service: str | None, home: Path | None, as_json: bool) -> None:
    """List the registered versions, of one SERVICE or of all, with what they came from."""
    from tidegate.operation.version import list_versions

    local = open_local(home, must_exist=True)
    found = list_versions(local.unit, service)
    if as_json:
        print_json(found)
        return
    if not found:
        click.echo(f"Nothing is registered in {local.home.root}.")
        return
    routes = local.routes.read().services
    rows = []
    for version in found:
        route = routes.get(version.service)
        arms = [arm for arm in route.arms if arm.version == version.number] if route else []
        state = ", ".join(f"{arm.name} {arm.share:.0%}" for arm in arms)
        if route and not state:
            state = "latched" if route.latch_of(version.number) else ""
            state = state or ("standby" if version.number in route.standby else "")
        metrics = ", ".join(
            f"{name} {value:.4g}" for name, value in version.lineage.metrics.items() if value is not None
        )
        rows.append(
            (
                version.service,
                version.number,
                state,
                moment(version.created_at_us),
                version.principal.name,
                short(version.contract),
                metrics,
                version.changelog,
            )
        )
    print_table(
        ("service", "#version", "traffic", "registered", "by", "contract", "metrics", "changelog"), rows
    )
