"""`tidegate up`."""

from __future__ import annotations

from pathlib import Path

import click

from tidegate.cli.option import FILE, PLACE, home_option, open_local


@click.command(
    short_help="Serve a service folder or a model file.",
    epilog="\b\nExamples:\n  tidegate up model.onnx\n  tidegate up examples/flights --workers 4\n"
    "  tidegate up --home /srv/tidegate --port 9000",
)
@click.argument("target", type=PLACE, required=False)
@click.option("--name", help="Name of the service that a model file becomes; its own name unless given.")
@click.option("--workers", type=click.IntRange(1, 256), help="Data-plane workers.  [default: 2]")
@click.option("--host", help="Address of the data port.  [default: 127.0.0.1]")
@click.option("--port", type=click.IntRange(1, 65535), help="Data port.  [default: 8080]")
@click.option("--control-host", help="Address of the control port.  [default: 127.0.0.1]")
@click.option("--control-port", type=click.IntRange(1, 65535), help="Control port.  [default: 8081]")
@click.option("--tls-certificate", type=FILE, help="Certificate chain (PEM): both ports speak TLS only.")
@click.option("--tls-key", type=FILE, help="Its private key (PEM), if it is in a file of its own.")
@click.option("--cell", help="Name of the set of servers that follow one route.  [default: local]")
@click.option("--open", "is_open", is_flag=True, help="Let other machines in, without any token.")
@home_option
def up(
    target: Path | None,
    *,
    name: str | None,
    workers: int | None,
    host: str | None,
    port: int | None,
    control_host: str | None,
    control_port: int | None,
    tls_certificate: Path | None,
    tls_key: Path | None,
    cell: str | None,
    is_open: bool,
    home: Path | None,
) -> None:
    """Serve TARGET: a service's folder, or a model file (its contract is inferred and written beside it).

    A folder of model files, without a service.py, becomes one service a file.

    Without TARGET it serves what the home has. The first version of a service is deployed at once;
    later ones move by `tidegate switch`. Ctrl-C stops the server after it has answered what it took.
    """
    from tidegate.bootstrap import start
    from tidegate.bootstrap.overview import port_url

    start.open_standard_streams()
    local = open_local(
        home,
        beside=target,
        workers=workers,
        host=host,
        port=port,
        control_host=control_host,
        control_port=control_port,
        tls_certificate=tls_certificate and str(tls_certificate),
        tls_key=tls_key and str(tls_key),
        cell=cell,
    )
    start.check_alone(local.home)
    start.check_server(local.settings.server)
    start.check_open(local.settings.host, is_open=is_open)
    start.check_open(local.settings.control_host, is_open=is_open)
    if target is None:
        prepared = start.prepare_home(local)
    elif target.is_dir():
        prepared = start.prepare_folder(local, target, tell=click.echo)
    else:
        prepared = start.prepare_model(local, target, name=name)
    for note in prepared.notes:
        click.echo(note)
    settings = local.settings
    click.echo(f"Home {local.home.root}")
    scheme = settings.server.scheme
    data_url = port_url(scheme, settings.host, settings.port)
    control_url = port_url(scheme, settings.control_host, settings.control_port)
    click.echo(f"Data port {data_url}  (openapi.json describes it)")
    click.echo(f"Control port {control_url}  (status, metrics)")
    start.serve(local)
