"""A development cluster for tests: real processes, started and broken with `blockd dev` itself.

The commands under test are run as a user runs them; what tests must read exactly (counters, in-sync
sets) is asked over gRPC. Everything a cluster starts is stopped by its own state file, never by
name.
"""

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from blockd.model.errors import BlockdError
from blockd.rpc.channel import HostClient, MetaClient
from blockd.rpc.gen import host_pb2, meta_pb2, types_pb2

COMMAND_S = 120
NETS = range(20, 250)
ADDRESS_IN_USE = 7  # exit code of errors.def

Answer = TypeVar("Answer")


def run(argv: Sequence[str], *, check: bool = True, timeout: float = COMMAND_S) -> Any:
    """Run a command and capture its output as text; with check, a failure shows it."""
    done = subprocess.run(argv, capture_output=True, text=True, timeout=timeout, check=False)
    if check and done.returncode != 0:
        raise AssertionError(
            f"{' '.join(argv)}: exit {done.returncode}\n{done.stdout}{done.stderr}"
        )
    return done


def blockd(*arguments: str, check: bool = True) -> Any:
    """The `blockd` command."""
    return run([sys.executable, "-m", "blockd.cli.blockd", *arguments], check=check)


def blockctl(*arguments: str, check: bool = True) -> Any:
    """The `blockctl` command."""
    return run([sys.executable, "-m", "blockd.cli.blockctl", *arguments], check=check)


class DevCluster:
    """One running cluster; `net` are its addresses 127.NET.S.H."""

    def __init__(self, directory: Path, net: int) -> None:
        self.directory = directory
        self.net = net
        state = json.loads((directory / "cluster.json").read_text())
        self.metas: list[str] = state["meta"]

    # Processes.

    def dev(self, *arguments: str, check: bool = True) -> Any:
        """`blockd dev ...` on this cluster."""
        return blockd("dev", *arguments, "--dir", str(self.directory), check=check)

    def ctl(self, *arguments: str, check: bool = True) -> Any:
        """`blockctl ...` on this cluster."""
        return blockctl("--dir", str(self.directory), *arguments, check=check)

    def kill(self, *names: str) -> None:
        self.dev("kill", *names)

    def start(self, *names: str) -> None:
        self.dev("start", *names)

    def status(self) -> dict[str, dict[str, Any]]:
        """Processes by name, as `blockd dev status -o json` lists them."""
        listed = json.loads(self.dev("status", "-o", "json").stdout)
        return {process["name"]: process for process in listed["processes"]}

    def log(self, name: str) -> str:
        """What a daemon has said so far."""
        return (self.directory / "logs" / f"{name}.log").read_text(errors="replace")

    # Management.

    def meta(self, ask: Callable[[MetaClient], Awaitable[Answer]]) -> Answer:
        """One conversation with the metadata service."""

        async def talk() -> Answer:
            async with MetaClient(self.metas) as client:
                return await ask(client)

        return asyncio.run(talk())

    def create(self, name: str, size_bytes: int, replicas: int = 3) -> types_pb2.Volume:
        request = meta_pb2.CreateVolumeRequest(
            name=name, size_bytes=size_bytes, policy=types_pb2.Policy(replicas=replicas)
        )
        return self.meta(lambda m: m.call(lambda s: s.CreateVolume, request, timeout=30))

    def attach(
        self, name: str, host: str, *, force: bool = False, standbys: Sequence[str] = ()
    ) -> types_pb2.Attachment:
        request = meta_pb2.AttachVolumeRequest(
            name_or_id=name, host=host, force=force, standbys=standbys
        )
        return self.meta(lambda m: m.call(lambda s: s.AttachVolume, request, timeout=60))

    def detach(self, name: str) -> None:
        request = meta_pb2.DetachVolumeRequest(name_or_id=name)
        self.meta(lambda m: m.call(lambda s: s.DetachVolume, request, timeout=30))

    def delete(self, name: str) -> None:
        self.delete_branches(name)
        request = meta_pb2.DeleteVolumeRequest(name_or_id=name)
        self.meta(lambda m: m.call(lambda s: s.DeleteVolume, request, timeout=30))

    def branches(self, name: str) -> list[types_pb2.Volume]:
        """What resyncs have kept of the volume, or are keeping."""
        answer = self.meta(lambda m: m.call(lambda s: s.ListVolumes, meta_pb2.ListVolumesRequest()))
        return [one for one in answer.volumes if one.branch.volume_name == name]

    def delete_branches(self, name: str) -> None:
        """Of a volume that is detached: its branches are soon filled."""
        wait_until(
            lambda: all(one.branch.sealed for one in self.branches(name)),
            60,
            f"the branches of {name} are sealed",
        )
        for one in self.branches(name):
            request = meta_pb2.DeleteVolumeRequest(name_or_id=one.id)
            self.meta(lambda m, r=request: m.call(lambda s: s.DeleteVolume, r, timeout=30))

    def volume(self, name: str) -> types_pb2.Volume:
        request = meta_pb2.GetVolumeRequest(name_or_id=name)
        return self.meta(lambda m: m.call(lambda s: s.GetVolume, request, idempotent=True))

    def hosts_up(self) -> set[str]:
        request = meta_pb2.ListHostsRequest()
        answer = self.meta(lambda m: m.call(lambda s: s.ListHosts, request, idempotent=True))
        return {host.name for host in answer.hosts if host.state == types_pb2.HOST_STATE_UP}

    # Hosts.

    def host_endpoint(self, host: str) -> str:
        state = json.loads((self.directory / "cluster.json").read_text())
        (process,) = (process for process in state["processes"] if process["name"] == host)
        return str(process["endpoints"]["grpc"])

    def attachment(self, host: str, volume_id: str) -> host_pb2.AttachmentStatus:
        """What the holder says of a volume's engine."""

        async def ask() -> host_pb2.AttachmentStatus:
            client = HostClient()
            try:
                return await client.call(
                    self.host_endpoint(host),
                    lambda stub: stub.GetAttachment,
                    host_pb2.GetAttachmentRequest(volume_id=volume_id),
                    timeout=5,
                )
            finally:
                await client.close()

        return asyncio.run(ask())

    def stored_bytes(self, host: str) -> int:
        """Bytes in chunks of a host's stores, as its daemon counts them now."""

        async def ask() -> host_pb2.HostStatus:
            client = HostClient()
            try:
                return await client.call(
                    self.host_endpoint(host),
                    lambda stub: stub.GetStatus,
                    host_pb2.GetStatusRequest(),
                    timeout=5,
                )
            finally:
                await client.close()

        return sum(store.allocated_bytes for store in asyncio.run(ask()).host.stores)

    # Waiting.

    def wait_in_sync(self, name: str, replicas: int = 3, seconds: float = 60) -> None:
        """Until every segment has that many members in sync."""
        wait_until(
            lambda: all(
                sum(member.in_sync for member in segment.members) == replicas
                for segment in self.volume(name).segments
            ),
            seconds,
            f"{name} has {replicas} replicas in sync",
        )


def wait_until(
    condition: Callable[[], object], seconds: float, what: str, poll: float = 0.1
) -> None:
    """Wait for a condition; while the services it asks fail it does not hold."""
    deadline = time.monotonic() + seconds
    last: BlockdError | None = None
    while True:
        try:
            if condition():
                return
        except BlockdError as error:
            last = error
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what} (last error: {last})")
        time.sleep(poll)


@contextlib.contextmanager
def dev_cluster(*options: str, store_size: str = "2GiB") -> Iterator[DevCluster]:
    """A cluster of its own, on addresses that nobody uses; gone afterwards.

    Its directory is short, for the sake of unix sockets. With BLOCKD_KEEP_LOGS set in the
    environment, the logs of a cluster are copied there before they go.
    """
    directory = Path(tempfile.mkdtemp(prefix="blockd-"))
    try:
        net = bring_up(directory, "--store-size", store_size, *options)
        yield DevCluster(directory, net)
    finally:
        keep_logs(directory)
        if (directory / "cluster.json").exists():
            blockd("dev", "down", "--wipe", "--dir", str(directory))
        with contextlib.suppress(OSError):
            directory.rmdir()


def bring_up(directory: Path, *options: str) -> int:
    """`blockd dev up` on the first addresses that are free; returns their NET."""
    first = os.getpid() % len(NETS)
    for step in range(len(NETS)):
        net = NETS[(first + step) % len(NETS)]
        arguments = ["dev", "up", "--detach", "--dir", str(directory), "--net", str(net), *options]
        done = blockd(*arguments, check=False)
        if done.returncode == 0:
            return net
        if "port in use" not in done.stderr:
            raise AssertionError(f"blockd dev up: exit {done.returncode}\n{done.stderr}")
    raise AssertionError("no free addresses")


def keep_logs(directory: Path) -> None:
    """For finding out afterwards what a failed test saw."""
    wanted = os.environ.get("BLOCKD_KEEP_LOGS")
    if wanted and (directory / "logs").exists():
        target = Path(wanted) / directory.name
        target.mkdir(parents=True, exist_ok=True)
        for log in (directory / "logs").iterdir():
            (target / log.name).write_bytes(log.read_bytes())
