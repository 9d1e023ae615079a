"""blockd as a candidate: a development cluster of three sites with one volume a candidate.

Both candidates share one cluster: there is one control plane in the background, not two.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from bench.candidates import Candidate, CandidateError

BIN = Path(sys.executable).parent
NET = "19"  # addresses 127.19.S.H: beside a demo cluster, and none that tests choose
STORE_OVERHEAD = 4  # a store holds both volumes, what is being overwritten, and the journal


class Cluster:
    """`blockd dev up` in a folder, started by the first user and taken down by the last."""

    def __init__(self) -> None:
        self._folder = Path()
        self._users = 0

    def acquire(self, folder: Path, size_bytes: int) -> None:
        self._users += 1
        if self._users > 1:
            return
        self._folder = folder / "cluster"
        store_size = f"{STORE_OVERHEAD * size_bytes >> 30 or 1}GiB"
        self._run("blockd", "dev", "up", "--detach", "--net", NET, "--store-size", store_size)

    def release(self) -> None:
        self._users -= 1
        if self._users == 0:
            self._run("blockd", "dev", "down")
            shutil.rmtree(self._folder, ignore_errors=True)

    def blockctl(self, *arguments: str) -> Any:
        """What a command prints as JSON."""
        output = self._run("blockctl", *arguments, "-o", "json")
        return json.loads(output) if output.strip() else None

    def pids(self, *, roles: set[str]) -> list[int]:
        document = json.loads((self._folder / "cluster.json").read_text())
        return [process["pid"] for process in document["processes"] if process["role"] in roles]

    def _run(self, program: str, *arguments: str) -> str:
        environment = {**os.environ, "BLOCKD_DIR": str(self._folder)}
        try:
            done = subprocess.run(
                [str(BIN / program), *arguments], capture_output=True, text=True, env=environment
            )
        except FileNotFoundError:
            raise CandidateError(f"{BIN / program} is missing: run `make build`") from None
        if done.returncode != 0:
            raise CandidateError(f"{program} {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout


class Blockd(Candidate):
    """A volume with `replicas` copies, served by the host that holds the first."""

    def __init__(self, cluster: Cluster, replicas: int) -> None:
        self.name = f"blockd-{replicas}"
        self.title = f"blockd, {replicas} cop{'y' if replicas == 1 else 'ies, three sites'}"
        self._cluster = cluster
        self._replicas = replicas
        self._uri = ""

    def start(self, folder: Path, size_bytes: int) -> None:
        self._cluster.acquire(folder, size_bytes)
        count = str(self._replicas)
        size = str(size_bytes)
        self._cluster.blockctl("volume", "create", self.name, "--size", size, "--replicas", count)
        attached = self._cluster.blockctl("volume", "attach", self.name)
        self._uri = next(uri for uri in attached["nbd_uris"] if uri.startswith("nbd+unix"))

    def fio_arguments(self) -> list[str]:
        return ["--ioengine=nbd", f"--uri={self._uri}"]

    def servers(self) -> list[int]:
        return self._cluster.pids(roles={"host"})

    def background(self) -> list[int]:
        return self._cluster.pids(roles={"meta", "etcd"})

    def stop(self) -> None:
        self._cluster.release()
