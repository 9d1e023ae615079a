"""`blockd meta`: run the metadata service. Every option is a setting of MetaSettings."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from blockd.cli.logs import start_logging
from blockd.config.base import split_list
from blockd.config.meta import MetaSettings


def meta(
    config: Annotated[Path | None, typer.Option(help="TOML file of settings.")] = None,
    name: Annotated[str | None, typer.Option(help="This instance's name.")] = None,
    site: Annotated[str | None, typer.Option(help="The site it stands at.")] = None,
    listen: Annotated[str | None, typer.Option(help="gRPC endpoint, HOST:PORT.")] = None,
    advertise: Annotated[str | None, typer.Option(help="Address that others use.")] = None,
    etcd: Annotated[
        str | None, typer.Option(help="Existing etcd cluster: HOST:PORT[,HOST:PORT...].")
    ] = None,
    etcd_dir: Annotated[
        Path | None, typer.Option(help="Start an etcd member with its data here.")
    ] = None,
    etcd_binary: Annotated[Path | None, typer.Option(help="The etcd to start.")] = None,
    etcd_client_url: Annotated[
        str | None, typer.Option(help="Where the member serves clients.")
    ] = None,
    etcd_peer_url: Annotated[
        str | None, typer.Option(help="Where the member talks to others.")
    ] = None,
    etcd_initial_cluster: Annotated[
        str | None, typer.Option(help="All members: NAME=URL[,NAME=URL...].")
    ] = None,
    cluster_id: Annotated[
        str | None, typer.Option(help="Id of a new cluster; refuse any other.")
    ] = None,
    overcommit: Annotated[
        float | None, typer.Option(help="How often the capacity of a store is promised.")
    ] = None,
    allow_plaintext: Annotated[
        bool | None,
        typer.Option("--allow-plaintext", help="Allow unencrypted traffic off this machine."),
    ] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning, error.")] = None,
) -> None:
    """Run an instance of the metadata service, with or without its own etcd member."""
    settings = MetaSettings.load(
        file=config,
        flags={
            "name": name,
            "site": site,
            "listen": listen,
            "advertise": advertise,
            "etcd": split_list(etcd) if etcd is not None else None,
            "etcd_dir": etcd_dir,
            "etcd_binary": etcd_binary,
            "etcd_client_url": etcd_client_url,
            "etcd_peer_url": etcd_peer_url,
            "etcd_initial_cluster": etcd_initial_cluster,
            "cluster_id": cluster_id,
            "overcommit": overcommit,
            "allow_plaintext": allow_plaintext,
            "log_level": log_level,
        },
    )
    start_logging(settings)
    # Imported here: other commands must not load what only the service needs.
    from blockd.meta.main import run

    asyncio.run(run(settings))
