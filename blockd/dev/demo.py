"""`blockd dev demo`: the cluster, a volume `demo` on it, and a text that says what to try."""

import asyncio
import contextlib
import shutil
import sys
from pathlib import Path

from rich.console import Console

from blockd.dev import cluster as dev
from blockd.dev.layout import Plan, meta_endpoints
from blockd.dev.state import FILE, Cluster
from blockd.model.errors import AlreadyExists
from blockd.rpc.channel import MetaClient
from blockd.rpc.gen import meta_pb2, types_pb2

VOLUME = "demo"
STORE_SLACK = 1.5  # journal, metadata and room for a second volume

TEXT = """
[bold]volume {volume}[/], three replicas, attached at {host}:
  {unix}
  {tcp}

[bold]Try[/]
  qemu-img info '{unix}'
  nbdcopy --progress image.raw '{tcp}'
  qemu-img compare -f raw -F raw image.raw '{tcp}'
  qemu-system-x86_64 -m 1G -nographic -drive 'driver=nbd,server.type=unix,\
server.path={socket},export={volume},if=virtio' -kernel ... -initrd ...
  {blockctl} --dir {dir} volume show {volume}
  {blockctl} --dir {dir} events --follow

[bold]Break it, while something writes[/]
  # one replica is gone, writes go on; started again it copies only what it missed
  {blockd} dev kill {victim} --dir {dir}
  {blockd} dev start {victim} --dir {dir}
  {blockctl} --dir {dir} volume verify {volume} --read
  # the host that serves the volume is gone; another takes over with every acknowledged write
  {blockd} dev kill {host} --dir {dir}
  {blockctl} --dir {dir} volume attach {volume} --host {victim}
"""


def bring_up(
    directory: Path, size_bytes: int, net: int | None, say: dev.Say
) -> tuple[Cluster, list[str]]:
    """Start the cluster and attach the volume; both may be there from an earlier run.

    Returns the cluster and the volume's NBD URIs, the unix socket's first.
    """
    plan = None
    if not (directory / FILE).exists():
        store_bytes = int(size_bytes * STORE_SLACK)
        plan = Plan(store_bytes=store_bytes, net=net or 0)
    cluster = dev.up(directory, plan, say)
    try:
        uris = asyncio.run(attach(cluster, size_bytes, say))
    except BaseException:
        dev.down(directory, say, wipe=False)
        raise
    return cluster, uris


async def attach(cluster: Cluster, size_bytes: int, say: dev.Say) -> list[str]:
    """The volume, created unless it is there, attached at the first host unless it is attached."""
    host = cluster.of_role("host")[0].name
    async with MetaClient(meta_endpoints(cluster.plan)) as meta:
        try:
            await meta.call(
                lambda stub: stub.CreateVolume,
                meta_pb2.CreateVolumeRequest(
                    name=VOLUME, size_bytes=size_bytes, policy=types_pb2.Policy(replicas=3)
                ),
                timeout=60,
            )
            say(f"volume {VOLUME} created")
        except AlreadyExists:
            say(f"volume {VOLUME} is there from before")
        attachment = await meta.call(
            lambda stub: stub.AttachVolume,
            meta_pb2.AttachVolumeRequest(name_or_id=VOLUME, host=host, force=True),
            timeout=60,
        )
        return list(attachment.nbd_uris)


def explain(cluster: Cluster, uris: list[str], shown: Path, console: Console) -> None:
    """Print what to try. shown: the directory as the user named it."""
    host, victim = cluster.of_role("host")[:2]
    socket = Path(host.endpoints["nbd_unix"])
    unix, tcp = uris
    console.print(
        TEXT.format(
            volume=VOLUME,
            host=host.name,
            victim=victim.name,
            unix=unix,
            tcp=tcp,
            socket=socket,
            dir=shown,
            blockd=command("blockd"),
            blockctl=command("blockctl"),
        ),
        soft_wrap=True,
        highlight=False,
    )


def command(name: str) -> str:
    """How the user can call one of our programs: by name, or where this Python has it."""
    beside = Path(sys.executable).parent / name
    if shutil.which(name) is not None or not beside.exists():
        return name
    with contextlib.suppress(ValueError):
        return str(beside.relative_to(Path.cwd()))
    return str(beside)
