"""An etcd member that this process starts, watches over and takes down with itself.

It is killed by the kernel when this process dies in whatever way (PR_SET_PDEATHSIG), so that a
member never runs unknown to anybody; etcd's log makes that as safe as any crash. When it dies by
itself it is started again, after a pause that grows while it keeps dying.
"""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import time
from urllib.parse import urlsplit

from blockd.config.meta import MetaSettings
from blockd.meta.etcd import Etcd
from blockd.model.errors import AddressInUse, BlockdError, MetadataUnreachable, Unsupported
from blockd.rpc.status import hinted

log = logging.getLogger("blockd.meta.etcd")

# By a helper that execs etcd, not by a preexec_fn: that would make Python fork in earnest, and
# gRPC's fork handlers abort a child in which they find their descriptors closed.
_DIE_WITH_PARENT = ("/usr/bin/setpriv", "--pdeathsig", "KILL")
STOP_SECONDS = 5.0
BACKOFF_SECONDS = (0.2, 5.0)  # first and longest pause before a restart
RAN_WELL_SECONDS = 10.0


class EtcdMember:
    """start(), then stop(); in between it runs."""

    def __init__(self, settings: MetaSettings) -> None:
        assert settings.etcd_dir is not None
        self._settings = settings
        self._directory = settings.etcd_dir
        self._process: asyncio.subprocess.Process | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._stopping = False

    @property
    def pid(self) -> int | None:
        """Of the process that runs now."""
        return self._process.pid if self._process is not None else None

    async def start(self, etcd: Etcd) -> None:
        """Spawn the member and wait until the cluster has a leader.

        Raises Unsupported: no etcd here; AddressInUse; MetadataUnreachable: no majority comes up.
        """
        for binary in (self._settings.etcd_binary, _DIE_WITH_PARENT[0]):
            if not os.access(binary, os.X_OK):
                raise hinted(
                    Unsupported(f"{binary} is not there or not executable"),
                    "apt-get install etcd-server util-linux, or set etcd_binary, or use an etcd "
                    "cluster that runs (etcd)",
                )
        for url in (self._settings.etcd_client_url, self._settings.etcd_peer_url):
            _check_free(url)
        self._directory.mkdir(parents=True, exist_ok=True)
        self._process = await self._spawn()
        self._supervisor = asyncio.create_task(self._supervise())
        await self._wait_healthy(etcd)

    async def stop(self) -> None:
        """SIGTERM, and SIGKILL when that does not end it soon."""
        self._stopping = True
        if self._supervisor is not None:
            self._supervisor.cancel()
            await asyncio.gather(self._supervisor, return_exceptions=True)
        process = self._process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
            try:
                await asyncio.wait_for(process.wait(), STOP_SECONDS)
            except TimeoutError:
                process.kill()
                await process.wait()

    async def _wait_healthy(self, etcd: Etcd) -> None:
        """However long it takes: after a blackout the other members may come much later."""
        said_at = time.monotonic()
        while True:
            try:
                await etcd.get("/")
                return
            except MetadataUnreachable as error:
                if time.monotonic() - said_at > 5:
                    said_at = time.monotonic()
                    log.warning(
                        "waiting for a majority of etcd members; start the others of %s (%s)",
                        self._settings.initial_cluster,
                        error.message,
                    )
            await asyncio.sleep(0.1)

    async def _spawn(self) -> asyncio.subprocess.Process:
        settings = self._settings
        command = [
            *_DIE_WITH_PARENT,
            str(settings.etcd_binary),
            f"--name={settings.name}",
            f"--data-dir={self._directory / 'data'}",
            f"--listen-client-urls={settings.etcd_client_url}",
            f"--advertise-client-urls={settings.etcd_client_url}",
            f"--listen-peer-urls={settings.etcd_peer_url}",
            f"--initial-advertise-peer-urls={settings.etcd_peer_url}",
            f"--initial-cluster={settings.initial_cluster}",
            "--initial-cluster-state=new",
            "--initial-cluster-token=blockd",
            "--auto-compaction-mode=periodic",
            "--auto-compaction-retention=1h",
            "--logger=zap",
            "--log-level=warn",
        ]
        process = await asyncio.create_subprocess_exec(  # its log goes where ours goes
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for us: we stop it when we have stopped
        )
        log.info("etcd member %s runs as process %d", settings.name, process.pid)
        return process

    async def _supervise(self) -> None:
        pause = BACKOFF_SECONDS[0]
        while not self._stopping:
            assert self._process is not None
            started = time.monotonic()
            code = await self._process.wait()
            if time.monotonic() - started > RAN_WELL_SECONDS:
                pause = BACKOFF_SECONDS[0]
            log.error("etcd ended with %s; starting it again in %.1f s", _describe(code), pause)
            await asyncio.sleep(pause)
            pause = min(2 * pause, BACKOFF_SECONDS[1])
            try:
                self._process = await self._spawn()
            except OSError as error:
                log.error("etcd does not start: %s", error)


def _describe(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _check_free(url: str) -> None:
    """Raises AddressInUse; etcd itself would only say so in its log."""
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or 0
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise _unusable(url, error) from error


def _unusable(url: str, error: OSError) -> BlockdError:
    return AddressInUse(f"etcd cannot listen on {url}: {error.strerror}")
