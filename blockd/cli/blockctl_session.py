"""Which cluster a blockctl command talks to, and how it talks: one event loop a command.

The endpoints come from the first of: --meta, --dir, BLOCKD_META, BLOCKD_DIR, a development cluster
in ./.blockd-dev, 127.0.0.1:7400.
"""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from blockd.config.base import split_list
from blockd.config.endpoints import split_endpoint
from blockd.model.errors import BlockdError, InvalidArgument, NotFound
from blockd.rpc.channel import HostClient, MetaClient
from blockd.rpc.gen import meta_pb2
from blockd.rpc.gen.types_pb2 import Host, Volume
from blockd.rpc.status import hinted

STATE_FILE = "cluster.json"
DEFAULT_DIRECTORY = Path(".blockd-dev")
DEFAULT_ENDPOINT = "127.0.0.1:7400"
COMPLETION_SECONDS = 1.5

Result = TypeVar("Result")


class Format(StrEnum):
    """How results are printed."""

    TABLE = "table"
    JSON = "json"


Output = Annotated[
    Format | None, typer.Option("--output", "-o", help="table, or json with stable keys.")
]


@dataclass
class Session:
    """What the options before the command say."""

    endpoints: tuple[str, ...]
    format: Format = Format.TABLE

    def chosen(self, output: Format | None) -> Format:
        """A command's own -o wins."""
        return output or self.format


@dataclass
class Clients:
    """Open connections of one command."""

    meta: MetaClient
    hosts: HostClient

    async def volume(self, name: str) -> Volume:
        """Whole. Raises NotFound."""
        request = meta_pb2.GetVolumeRequest(name_or_id=name)
        return await self.meta.call(lambda meta: meta.GetVolume, request, idempotent=True)

    async def host(self, name: str) -> Host:
        """Raises NotFound."""
        request = meta_pb2.GetHostRequest(name_or_id=name)
        return await self.meta.call(lambda meta: meta.GetHost, request, idempotent=True)

    async def list_hosts(self) -> dict[str, Host]:
        """By id."""
        answer = await self.meta.call(
            lambda meta: meta.ListHosts, meta_pb2.ListHostsRequest(), idempotent=True
        )
        return {host.id: host for host in answer.hosts}


def session_of(context: typer.Context) -> Session:
    """The session that the program's callback made."""
    session = context.find_root().obj
    assert isinstance(session, Session)
    return session


def run(context: typer.Context, work: Callable[[Clients], Coroutine[Any, Any, Result]]) -> Result:
    """Connect, do the work, disconnect."""

    async def connected() -> Result:
        async with _clients(session_of(context).endpoints) as clients:
            return await work(clients)

    return asyncio.run(connected())


@asynccontextmanager
async def _clients(endpoints: tuple[str, ...]) -> AsyncIterator[Clients]:
    async with MetaClient(endpoints) as meta:
        hosts = HostClient()
        try:
            yield Clients(meta, hosts)
        finally:
            await hosts.close()


def find_endpoints(
    meta: str | None, directory: Path | None, environ: Mapping[str, str] | None = None
) -> tuple[str, ...]:
    """Where the metadata service is. Raises InvalidArgument, NotFound: no cluster there."""
    environ = os.environ if environ is None else environ
    if meta is not None:
        return _parsed(meta, "--meta")
    if directory is not None:
        return _from_directory(directory)
    if environ.get("BLOCKD_META"):
        return _parsed(environ["BLOCKD_META"], "BLOCKD_META")
    if environ.get("BLOCKD_DIR"):
        return _from_directory(Path(environ["BLOCKD_DIR"]))
    if (DEFAULT_DIRECTORY / STATE_FILE).exists():
        return _from_directory(DEFAULT_DIRECTORY)
    return (DEFAULT_ENDPOINT,)


def _parsed(text: str, where: str) -> tuple[str, ...]:
    endpoints = tuple(split_list(text))
    if not endpoints:
        raise InvalidArgument(f"{where}: no endpoint (write HOST:PORT[,HOST:PORT...])")
    for endpoint in endpoints:
        try:
            split_endpoint(endpoint)
        except InvalidArgument as error:
            raise InvalidArgument(f"{where}: {error.message}") from error
    return endpoints


def _from_directory(directory: Path) -> tuple[str, ...]:
    path = directory / STATE_FILE
    try:
        endpoints = json.loads(path.read_text(encoding="utf-8"))["meta"]
    except FileNotFoundError as error:
        raise hinted(
            NotFound(f"no development cluster in {directory}"),
            f"start one with `blockd dev up --dir {directory}`, or name a metadata service with "
            "--meta HOST:PORT",
        ) from error
    except OSError as error:
        raise InvalidArgument(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidArgument(f"{path} is damaged: {error}") from error
    return tuple(endpoints)


# Completion: names from the live cluster; whatever goes wrong, there are simply none.


def _names(
    context: typer.Context, incomplete: str, ask: Callable[[MetaClient], Awaitable[list[str]]]
) -> list[str]:
    async def connected(endpoints: tuple[str, ...]) -> list[str]:
        async with asyncio.timeout(COMPLETION_SECONDS), MetaClient(endpoints) as meta:
            return await ask(meta)

    options = context.find_root().params
    try:
        directory = options.get("directory")
        endpoints = find_endpoints(
            options.get("meta"), Path(directory) if directory is not None else None
        )
        names = asyncio.run(connected(endpoints))
    except (BlockdError, TimeoutError, OSError):
        return []
    return sorted(name for name in names if name.startswith(incomplete))


def complete_volume(ctx: typer.Context, incomplete: str) -> list[str]:
    """Volume names."""

    async def ask(meta: MetaClient) -> list[str]:
        answer = await meta.call(
            lambda stub: stub.ListVolumes, meta_pb2.ListVolumesRequest(), idempotent=True
        )
        return [volume.name for volume in answer.volumes]

    return _names(ctx, incomplete, ask)


def complete_host(ctx: typer.Context, incomplete: str) -> list[str]:
    """Host names."""

    async def ask(meta: MetaClient) -> list[str]:
        answer = await meta.call(
            lambda stub: stub.ListHosts, meta_pb2.ListHostsRequest(), idempotent=True
        )
        return [host.name for host in answer.hosts]

    return _names(ctx, incomplete, ask)


VolumeName = Annotated[
    str,
    typer.Argument(metavar="NAME", help="Name or id of a volume.", autocompletion=complete_volume),
]
HostName = Annotated[
    str,
    typer.Argument(metavar="NAME", help="Name or id of a host.", autocompletion=complete_host),
]
