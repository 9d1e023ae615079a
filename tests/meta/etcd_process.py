"""An etcd of a test's own, on free ports, with its data in a temporary directory."""

import contextlib
import random
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path


def free_ports(count: int) -> list[int]:
    """Below the range from which connections get theirs: a client that keeps trying to reach a
    stopped server there would sooner or later take the port itself."""
    found: list[int] = []
    while len(found) < count:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            found += [port] if port not in found else []
    return found


class EtcdProcess:
    """One member; start() again after kill() keeps the data."""

    def __init__(self, directory: Path, name: str, client: int, peer: int, cluster: str) -> None:
        self.endpoint = f"127.0.0.1:{client}"
        self.process: subprocess.Popen[bytes] | None = None
        self._command = [
            *("/usr/bin/setpriv", "--pdeathsig", "KILL"),  # it ends when the tests do
            "/usr/bin/etcd",
            f"--name={name}",
            f"--data-dir={directory / name}",
            f"--listen-client-urls=http://{self.endpoint}",
            f"--advertise-client-urls=http://{self.endpoint}",
            f"--listen-peer-urls=http://127.0.0.1:{peer}",
            f"--initial-advertise-peer-urls=http://127.0.0.1:{peer}",
            f"--initial-cluster={cluster}",
            "--log-level=error",
        ]

    def start(self) -> None:
        self.process = subprocess.Popen(
            self._command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def wait_healthy(self) -> None:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            if self.process is None or self.process.poll() is not None:
                raise ChildProcessError(f"etcd at {self.endpoint} ended: {self.process}")
            with contextlib.suppress(OSError):
                url = f"http://{self.endpoint}/health"
                with urllib.request.urlopen(url, timeout=1) as answer:
                    if b'"true"' in answer.read():
                        return
            time.sleep(0.05)
        raise TimeoutError(f"etcd at {self.endpoint} does not come up")

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


@contextlib.contextmanager
def running(directory: Path, members: int = 1) -> Iterator[list[EtcdProcess]]:
    ports = free_ports(2 * members)
    names = [f"m{index}" for index in range(members)]
    cluster = ",".join(
        f"{name}=http://127.0.0.1:{port}" for name, port in zip(names, ports[members:], strict=True)
    )
    processes = [
        EtcdProcess(directory, name, ports[index], ports[members + index], cluster)
        for index, name in enumerate(names)
    ]
    try:
        for process in processes:
            process.start()
        for process in processes:
            process.wait_healthy()
        yield processes
    finally:
        for process in processes:
            process.kill()
