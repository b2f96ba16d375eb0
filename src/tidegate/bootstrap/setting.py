"""The settings of a Tidegate on this machine, and where they come from."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import Meta

from tidegate.core.home import DEFAULT_HOME
from tidegate.core.setting import MASK, Layer, Resolved, environment_layer, file_layer, resolve

if TYPE_CHECKING:
    from tidegate.bootstrap.process import ServerSettings

PREFIX = "TIDEGATE_"
FILE_VARIABLE = "TIDEGATE_CONFIG"
FILE = Path("tidegate.toml")
"""Read from the current folder if it is there; `TIDEGATE_CONFIG` names another."""

SECRET = frozenset({"alert_urls", "database_url", "online_store"})

Port = Annotated[int, Meta(ge=1, le=65_535, description="A port is 1 to 65535.")]
Days = Annotated[int, Meta(ge=0, le=36_500, description="Days are 0 to 36500; 0 deletes nothing.")]
Megabytes = Annotated[int, Meta(ge=0, le=1 << 30, description="Megabytes are 0 or more; 0 leaves it open.")]

_STORE = r"^$|^rediss?://[^/\s]|^unix://[^\s]"
_WEB = r"^$|^https?://[^/\s]"
_ALERT = r"\s*(https?://[^/,\s][^,]*|(?!https?:)[A-Za-z][\w+.-]*://[^,]*)?"


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that can be set, with its default.

    Attributes:
        home: Folder that holds everything this Tidegate knows.
        database_url: Metadata database, `postgresql://USER@HOST/DATABASE`; empty for the embedded
            SQLite in the home. May hold a password: give it by environment.
        online_store: Online store of features, `redis://HOST`, `rediss://` or `unix://`; empty for the
            embedded SQLite in the home. May hold a password: give it by environment.
        online_store_ms: Milliseconds that the features of a request may take to be read, and no more than
            half of the time that it has left; what comes later is unread. A store in the same network
            answers in one or two.
        cell: Name of the set of servers that follow one route.
        host: Address of the data port. Loopback, since there are no tokens yet.
        port: Data port.
        control_host: Address of the control port. Loopback as well.
        control_port: Control port.
        tls_certificate: File with the certificate chain (PEM). With it both ports speak TLS, and
            nothing else. `tidegate restart` reads a renewed one.
        tls_key: File with the certificate's private key (PEM), if it is not in the same file.
        workers: Data-plane workers. Two: one can be replaced while the other serves, and a small
            machine has two cores.
        memory_mb: What the workers may take together, in megabytes. Services that are loaded on demand
            are closed again to stay within it. 0: half of what the machine has, since it does more
            than this.
        on_demand_above: So many services are all kept loaded; of more, those that declare nothing else
            are loaded when they are asked for. 64 small models load in a second and take 100 MB.
        records_keep_days: Days after which the Parquet files of predictions are deleted. 0: never, since
            only their owner knows how long they must, or must not, be kept.
        records_delta: Folder or address (`s3://BUCKET/PREFIX`) where predictions are kept as Delta Lake
            tables as well, one a service. Empty: nowhere. Needs the extra `delta`; credentials are those
            of the environment.
        journal_keep_days: Days after which a segment of the journal is deleted, if it is counted, its
            records are in Parquet files, and outcomes of its predictions have had their time. 0: never.
        journal_max_mb: Size of the journal, megabytes, above which the oldest such segments are deleted
            earlier. 0: no limit.
        alert_urls: Who is told of signals, separated by commas: `https://...` is a webhook, all else an
            address of apprise (`mailto://`, `slack://` ...). May hold a token: give it by environment.
        trace_url: Where traces of requests go, by OTLP over HTTP: `http://HOST:4318`. Empty: nowhere, and
            at no cost. `OTEL_EXPORTER_OTLP_HEADERS` in the environment may hold a token.
        trace_share: Part of the requests that are traced although their callers send no `traceparent`,
            in [0, 1]. A hundredth: examples enough, of the slow ones too, and no second journal.
    """

    home: str = str(DEFAULT_HOME)
    database_url: str = ""
    online_store: Annotated[
        str, Meta(pattern=_STORE, description="Write redis://HOST, rediss://HOST or unix://PATH.")
    ] = ""
    online_store_ms: Annotated[int, Meta(ge=1, le=60_000, description="Milliseconds, from 1 to 60000.")] = 50
    cell: str = "local"
    host: str = "127.0.0.1"
    port: Port = 8080
    control_host: str = "127.0.0.1"
    control_port: Port = 8081
    tls_certificate: str = ""
    tls_key: str = ""
    workers: Annotated[int, Meta(ge=1, le=256, description="1 to 256 workers.")] = 2
    memory_mb: Megabytes = 0
    on_demand_above: Annotated[int, Meta(ge=0, description="A number of services, 0 or more.")] = 64
    records_keep_days: Days = 0
    records_delta: str = ""
    journal_keep_days: Days = 0
    journal_max_mb: Megabytes = 0
    alert_urls: Annotated[
        str,
        Meta(
            pattern=f"^{_ALERT}(,{_ALERT})*$",
            description="Each is https://HOST/..., or an address of apprise such as mailto://...",
        ),
    ] = ""
    trace_url: Annotated[str, Meta(pattern=_WEB, description="Write http://HOST:4318.")] = ""
    trace_share: Annotated[float, Meta(ge=0, le=1, description="A part is 0 to 1.")] = 0.01

    @property
    def server(self) -> ServerSettings:
        """What the processes of a server are told; the stores' URLs go by environment only."""
        from tidegate.bootstrap.process import ServerSettings

        return ServerSettings(
            home=str(Path(self.home).absolute()),
            cell=self.cell,
            host=self.host,
            port=self.port,
            control_host=self.control_host,
            control_port=self.control_port,
            online_store_ms=self.online_store_ms,
            n_workers=self.workers,
            tls_certificate=_absolute(self.tls_certificate),
            tls_key=_absolute(self.tls_key),
            memory_mb=self.memory_mb,
            on_demand_above=self.on_demand_above,
            records_keep_days=self.records_keep_days,
            trace_url=self.trace_url,
            trace_share=self.trace_share,
            records_delta=_address(self.records_delta),
            journal_keep_days=self.journal_keep_days,
            journal_max_mb=self.journal_max_mb,
        )


def _address(place: str) -> str:
    return place if "://" in place else _absolute(place)


def _absolute(path: str) -> str:
    return str(Path(path).absolute()) if path else ""


def read_settings(
    flags: Mapping[str, Any] | None = None, *, environment: Mapping[str, str] | None = None
) -> Resolved[Settings]:
    """Read the settings: default < file < environment < flag.

    Args:
        flags: Name -> value, None where a flag was not given.
        environment: Environment variables; this process's if None.

    Raises:
        InvalidSetting: A name is unknown, a value has the wrong type or lies outside its bounds, or the file
            cannot be read.
    """
    variables = dict(os.environ if environment is None else environment)
    named = variables.pop(FILE_VARIABLE, None)
    layers = []
    if named is not None or FILE.exists():
        layers.append(file_layer(Path(named) if named is not None else FILE))
    layers.append(environment_layer(variables, prefix=PREFIX))
    layers.append(Layer("flag", flags or {}, "--"))
    return resolve(Settings, *layers, secret=SECRET)


def masked(name: str, value: Any) -> Any:
    """Return a setting's value as it may be shown."""
    return MASK if name in SECRET and value else value
