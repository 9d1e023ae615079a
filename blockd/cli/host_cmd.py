"""`blockd host`: run the host daemon. Every option is a setting of HostSettings."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from blockd.cli.logs import start_logging
from blockd.config.base import split_list
from blockd.config.host import HostSettings


def host(
    config: Annotated[Path | None, typer.Option(help="TOML file of settings.")] = None,
    name: Annotated[str | None, typer.Option(help="This host's name.")] = None,
    site: Annotated[str | None, typer.Option(help="The site it stands at.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Keeps the host's identity.")] = None,
    stores: Annotated[
        list[Path] | None,
        typer.Option("--store", "--stores", help="Device or file of a store; repeatable."),
    ] = None,
    meta: Annotated[
        str | None, typer.Option(help="Metadata service: HOST:PORT[,HOST:PORT...].")
    ] = None,
    listen: Annotated[str | None, typer.Option(help="gRPC endpoint, HOST:PORT.")] = None,
    peer_listen: Annotated[str | None, typer.Option(help="Endpoint for other hosts.")] = None,
    nbd_tcp: Annotated[str | None, typer.Option(help='NBD endpoint; "" for none.')] = None,
    nbd_unix: Annotated[Path | None, typer.Option(help="NBD unix socket.")] = None,
    metrics_listen: Annotated[
        str | None, typer.Option(help='Prometheus endpoint; "" for none.')
    ] = None,
    advertise: Annotated[str | None, typer.Option(help="Address that others use.")] = None,
    allow_plaintext: Annotated[
        bool | None,
        typer.Option("--allow-plaintext", help="Allow unencrypted traffic off this machine."),
    ] = None,
    cluster_id: Annotated[str | None, typer.Option(help="Refuse any other cluster.")] = None,
    format_empty: Annotated[
        bool | None, typer.Option("--format", help="Format stores that hold nothing yet.")
    ] = None,
    journal_size: Annotated[str | None, typer.Option(help="Of stores formatted here.")] = None,
    store_warning: Annotated[
        int | None, typer.Option(help="Percent in use at which a store is nearly full.")
    ] = None,
    store_critical: Annotated[
        int | None, typer.Option(help="Percent in use at which it is full.")
    ] = None,
    buffer_size: Annotated[str | None, typer.Option(help="Memory for data in flight.")] = None,
    cpu: Annotated[int | None, typer.Option(help="Pin the reactor to this CPU.")] = None,
    scrub_interval: Annotated[
        str | None, typer.Option(help="Between scrubs of a store, as 7d; 0: only on demand.")
    ] = None,
    scrub_rate: Annotated[str | None, typer.Option(help="Of scrubs, bytes a second.")] = None,
    flatten_rate: Annotated[
        str | None, typer.Option(help="Of flattening a volume, bytes a second.")
    ] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning, error.")] = None,
) -> None:
    """Run the host daemon: stores, replicas, engines and NBD exports of this machine."""
    settings = HostSettings.load(
        file=config,
        flags={
            "name": name,
            "site": site,
            "data_dir": data_dir,
            "stores": stores or None,
            "meta": split_list(meta) if meta is not None else None,
            "listen": listen,
            "peer_listen": peer_listen,
            "nbd_tcp": nbd_tcp,
            "nbd_unix": nbd_unix,
            "metrics_listen": metrics_listen,
            "advertise": advertise,
            "allow_plaintext": allow_plaintext,
            "cluster_id": cluster_id,
            "format": format_empty,
            "journal_size": journal_size,
            "store_warning": store_warning,
            "store_critical": store_critical,
            "buffer_size": buffer_size,
            "cpu": cpu,
            "scrub_interval": scrub_interval,
            "scrub_rate": scrub_rate,
            "flatten_rate": flatten_rate,
            "log_level": log_level,
        },
    )
    start_logging(settings)
    # Imported here: `blockd dev` and `blockd store` must not load what only the daemon needs.
    from blockd.host.daemon import run

    asyncio.run(run(settings))
