"""Two releases in one cluster: it is upgraded daemon by daemon under a load that never stops."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import DevCluster, dev_cluster, wait_until
from tests.faults.recording import Load, build_checker, check

ROOT = Path(__file__).resolve().parents[2]
OLDER = "4829065"  # the last that spoke version 2 of the peer protocol only
MIB = 1 << 20
BLOCKS = 512
WRITES = 200  # that have to get through after each step

pytestmark = pytest.mark.soak


@pytest.fixture(scope="module")
def older(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the older release, built."""
    folder = tmp_path_factory.mktemp("older")
    build = ROOT / "scripts" / "build_older.sh"
    done = subprocess.run(
        [str(build), OLDER, str(folder)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture
def cluster(older: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DevCluster]:
    """Three sites that run the older release; what is started from now on is the newer one."""
    with monkeypatch.context() as there:
        there.chdir(older)
        there.setenv("PYTHONPATH", str(older))
        running = dev_cluster(store_size="1GiB")
        cluster = running.__enter__()
    try:
        yield cluster
    finally:
        running.__exit__(None, None, None)


def package_of(cluster: DevCluster, name: str) -> str:
    """Whose code a daemon runs."""
    pid = cluster.status()[name]["pid"]
    environ = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
    (path,) = (entry for entry in environ if entry.startswith("PYTHONPATH="))
    return path.removeprefix("PYTHONPATH=").split(os.pathsep)[0]


def upgrade(cluster: DevCluster, name: str) -> None:
    cluster.kill(name)
    cluster.start(name)
    assert package_of(cluster, name) == str(ROOT)


def uri_at(cluster: DevCluster, host: str) -> str:
    attachment = cluster.attach("v", host, force=True)
    return next(uri for uri in attachment.nbd_uris if uri.startswith("nbd+unix"))


def test_a_cluster_is_upgraded_under_load(cluster: DevCluster, older: Path, tmp_path: Path) -> None:
    build_checker()
    assert package_of(cluster, "lyon-1") == str(older)
    cluster.create("v", BLOCKS * 4096)
    record = tmp_path / "record"
    with Load.start(record, BLOCKS, seed=1) as load:
        load.attach(uri_at(cluster, "paris-1"))
        load.wait_writes(WRITES)

        for site in ("paris", "lyon", "marseille"):
            upgrade(cluster, f"meta-{site}")
            wait_until(lambda: len(cluster.hosts_up()) == 3, 30, "all hosts are up")
            load.wait_writes(WRITES)

        upgrade(cluster, "lyon-1")  # an older engine, a newer replica
        cluster.wait_in_sync("v")
        load.wait_writes(WRITES)

        load.attach(uri_at(cluster, "lyon-1"))  # a newer engine, two older replicas
        load.wait_writes(WRITES)
        cluster.wait_in_sync("v")

        for host in ("marseille-1", "paris-1"):
            upgrade(cluster, host)
            cluster.wait_in_sync("v")
            load.wait_writes(WRITES)
        upgrade(cluster, "lyon-1")  # the holder comes back as what it was
        load.wait_writes(WRITES, seconds=60)
        cluster.wait_in_sync("v")
        load.stop()
    assert "linearizable" in check(record)
    cluster.ctl("volume", "verify", "v", "--read")
