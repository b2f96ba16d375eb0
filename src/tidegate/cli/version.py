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
    """List the registered versions, of one SERVICE or of all: where they stand, and what they came from.

    The state follows from the decisions about a version: candidate, gated, rejected, shadow, canary,
    champion, retired, rolled back. A gate that a person overrode stays listed for ever.
    """
    from tidegate.operation.state import list_states

    local = open_local(home, must_exist=True)
    found = list_states(local.unit, service)
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
        traffic = ", ".join(f"{arm.name} {arm.share:.0%}" for arm in arms)
        if route and not traffic:
            traffic = "latched" if route.latch_of(version.number) else ""
            traffic = traffic or ("standby" if version.number in route.standby else "")
        state, waived = version.state.stage.value, version.state.overridden
        if waived:
            state += f", {', '.join(waived)} overridden"
        metrics = ", ".join(
            f"{name} {value:.4g}" for name, value in version.lineage.metrics.items() if value is not None
        )
        rows.append(
            (
                version.service,
                version.number,
                state,
                traffic,
                moment(version.created_at_us),
                version.principal.name,
                short(version.contract),
                metrics,
                version.changelog,
            )
        )
    print_table(
        ("service", "#version", "state", "traffic", "registered", "by", "contract", "metrics", "changelog"),
        rows,
    )
