"""`tidegate restart`."""

from __future__ import annotations

from pathlib import Path

import click

from tidegate.cli.option import home_option, open_local


@click.command(
    short_help="Replace the workers one by one, without refusing anybody.",
    epilog="\b\nExamples:\n  tidegate restart\n  tidegate restart --home /srv/tidegate --wait 300",
)
@click.option(
    "--wait", "wait_s", type=click.FloatRange(1), default=120.0, help="Seconds to wait for the end."
)
@home_option
def restart(*, wait_s: float, home: Path | None) -> None:
    """Replace every worker by a new process, for example after an upgrade or to read a new certificate.

    A worker goes when its successor serves: both accept on the same socket, so that no connection is
    refused and no request fails. Where a successor does not come up, the workers before it go on.
    The control plane starts anew as well, and is away for a moment; runners of Python models stay.
    """
    from tidegate.bootstrap.restart import restart_server

    local = open_local(home, must_exist=True)
    done = restart_server(local.home, clock=local.clock, within_s=wait_s)
    click.echo(f"Restarted: {done.replaced} workers were replaced.")
