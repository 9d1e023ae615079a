"""Bad input: one clear line, the right exit code, and nothing is lost by it."""

import contextlib
import socket
import subprocess
import sys
import time
from pathlib import Path
from uuid import uuid4

import pytest

from tests.cluster import DevCluster, blockctl, blockd, run
from tests.e2e.history import PYTHON

pytestmark = pytest.mark.timeout(120)

STORE_BYTES = 256 << 20
Done = subprocess.CompletedProcess[str]
NOT_FOUND, BAD_REQUEST, REFUSED, UNREACHABLE, DAMAGED, CONFIG = 3, 2, 4, 5, 6, 7


def says(done: Done, code: int, *words: str) -> None:
    """The exit code, and exactly one line that names what is wrong."""
    lines = [x for x in done.stderr.splitlines() if x.startswith(("blockd: ", "blockctl: "))]
    assert done.returncode == code, done.stderr
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in lines[0]


def host(cluster: DevCluster, tmp_path: Path, store: Path, *options: str) -> Done:
    """Run one more host of the cluster, until it fails."""
    address = f"127.{cluster.net}.10.99"
    arguments = ["--name", "paris-99", "--site", "paris", "--data-dir", str(tmp_path / "data")]
    arguments += ["--store", str(store), "--meta", ",".join(cluster.metas)]
    arguments += ["--listen", f"{address}:7420", "--peer-listen", f"{address}:7421"]
    arguments += ["--nbd-tcp", f"{address}:10809", "--nbd-unix", str(tmp_path / "nbd.sock")]
    arguments += ["--metrics-listen", f"{address}:9420", "--buffer-size", "64MiB", *options]
    return blockd("host", *arguments, check=False)


def cluster_id(cluster: DevCluster) -> str:
    import json

    return json.loads((cluster.directory / "cluster.json").read_text())["cluster_id"]


def make_store(path: Path, owner: str) -> Path:
    blockd("store", "format", str(path), "--size", str(STORE_BYTES), "--cluster-id", owner)
    return path


def test_a_store_of_another_cluster(cluster: DevCluster, tmp_path: Path) -> None:
    store = make_store(tmp_path / "store", str(uuid4()))
    says(host(cluster, tmp_path, store), CONFIG, str(store), "cluster")


def test_a_device_without_a_store(cluster: DevCluster, tmp_path: Path) -> None:
    store = tmp_path / "store"
    store.write_bytes(b"precious" * (1 << 20))
    says(host(cluster, tmp_path, store), CONFIG, str(store), "no blockd store")
    # --format is for empty devices only.
    says(host(cluster, tmp_path, store, "--format"), CONFIG, str(store))
    assert store.read_bytes() == b"precious" * (1 << 20)


def test_a_damaged_superblock(cluster: DevCluster, tmp_path: Path) -> None:
    store = make_store(tmp_path / "store", cluster_id(cluster))
    head = bytearray(store.read_bytes()[: 64 << 10])
    for page in range(0, len(head), 4096):
        for at in range(page + 16, page + 64):
            head[at] ^= 0x5A
    with store.open("r+b") as file:
        file.write(head)
    says(host(cluster, tmp_path, store), DAMAGED, str(store))


def test_a_disk_that_is_too_small(cluster: DevCluster, tmp_path: Path) -> None:
    owner = cluster_id(cluster)
    path = str(tmp_path / "small")
    done = blockd("store", "format", path, "--size", "1MiB", "--cluster-id", owner, check=False)
    says(done, CONFIG, path, "small")


def test_a_store_that_is_in_use(cluster: DevCluster, tmp_path: Path) -> None:
    store = cluster.directory / "paris-1" / "store.img"
    says(host(cluster, tmp_path, store), CONFIG, str(store))


def test_a_missing_store(cluster: DevCluster, tmp_path: Path) -> None:
    says(host(cluster, tmp_path, tmp_path / "none"), NOT_FOUND, "none", "does not exist")


def test_formatting_over_data_needs_force(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(b"x" * STORE_BYTES)
    arguments = ["store", "format", str(path), "--cluster-id", str(uuid4())]
    says(blockd(*arguments, check=False), REFUSED, str(path), "holds data")
    blockd(*arguments, "--force")
    says(blockd(*arguments, check=False), REFUSED, str(path))


def test_store_info_shows_what_was_formatted(tmp_path: Path) -> None:
    import json

    owner = str(uuid4())
    path = str(make_store(tmp_path / "store", owner))
    done = blockd("store", "info", path, "--cluster-id", owner, "-o", "json")
    info = json.loads(done.stdout)
    assert 0 < info["capacity_bytes"] < STORE_BYTES
    assert info["replicas"] == []
    says(blockd("store", "info", path, "--cluster-id", str(uuid4()), check=False), CONFIG, path)


@pytest.mark.parametrize("option", ["--listen", "--peer-listen", "--nbd-tcp", "--metrics-listen"])
def test_a_port_in_use(cluster: DevCluster, tmp_path: Path, option: str) -> None:
    store = make_store(tmp_path / "store", cluster_id(cluster))
    with contextlib.closing(socket.socket()) as taken:
        taken.bind((f"127.{cluster.net}.10.98", 0))
        taken.listen()
        endpoint = "{}:{}".format(*taken.getsockname())
        says(host(cluster, tmp_path, store, option, endpoint), CONFIG, endpoint)


def test_a_second_daemon_on_a_data_directory(cluster: DevCluster, tmp_path: Path) -> None:
    data = cluster.directory / "paris-1" / "data"
    done = host(cluster, tmp_path, tmp_path / "store", "--data-dir", str(data))
    says(done, CONFIG, "another blockd host", str(data))


def test_an_address_that_leaves_the_machine(cluster: DevCluster, tmp_path: Path) -> None:
    done = host(cluster, tmp_path, tmp_path / "store", "--peer-listen", "0.0.0.0:7421")
    says(done, BAD_REQUEST, "peer_listen", "not be encrypted", "allow_plaintext")


def test_settings_that_do_not_exist(tmp_path: Path) -> None:
    file = tmp_path / "host.toml"
    file.write_text('name = "x"\nsite = "paris"\ncolour = "red"\n')
    says(blockd("host", "--config", str(file), check=False), BAD_REQUEST, "colour", str(file))


def test_a_daemon_without_a_metadata_service_keeps_trying(tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "blockd.cli.blockd", "host", "--name", "x", "--site", "paris"]
    argv += ["--data-dir", str(tmp_path / "data"), "--store", str(tmp_path / "store")]
    argv += ["--meta", "127.0.0.1:1"]
    with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True) as daemon:
        assert daemon.stderr is not None
        line = daemon.stderr.readline()
        assert "no metadata service answers at 127.0.0.1:1" in line
        time.sleep(1)
        assert daemon.poll() is None
        daemon.terminate()
        assert daemon.wait(10) == 0


def test_an_unreachable_metadata_service(cluster: DevCluster) -> None:
    done = blockctl("--meta", "127.0.0.1:1", "volume", "list", check=False)
    says(done, UNREACHABLE, "127.0.0.1:1")


def test_an_unknown_volume_or_host(cluster: DevCluster, name: str) -> None:
    says(cluster.ctl("volume", "show", "nothing", check=False), NOT_FOUND, "nothing")
    cluster.create(name, 1 << 20)
    done = cluster.ctl("volume", "attach", name, "--host", "nowhere", check=False)
    says(done, NOT_FOUND, "nowhere")
    done = run(["nbdinfo", f"nbd://127.{cluster.net}.10.11:10809/{name}"], check=False)
    assert done.returncode != 0
    cluster.delete(name)


def test_a_policy_that_cannot_be_met(cluster: DevCluster) -> None:
    done = cluster.ctl("volume", "create", "x", "--size", "1GiB", "--replicas", "5", check=False)
    says(done, REFUSED, "5 sites")
    done = cluster.ctl("volume", "create", "x", "--size", "15TiB", check=False)
    says(done, REFUSED, "free")


TOO_LARGE = """
import sys, nbd
h = nbd.NBD(); h.set_strict_mode(0); h.connect_uri(sys.argv[1])
size = h.get_size()
for attempt in (lambda: h.pread(4096, size), lambda: h.pwrite(bytes(4096), size - 512)):
    try:
        attempt()
    except nbd.Error as error:
        print(error.errno)
assert len(h.pread(4096, 0)) == 4096  # the connection goes on
"""


def test_requests_beyond_the_end(cluster: DevCluster, name: str) -> None:
    cluster.create(name, 1 << 20)
    uri = cluster.attach(name, "paris-1").nbd_uris[0]
    done = run([PYTHON, "-c", TOO_LARGE, uri])
    assert done.stdout.split() in (["EINVAL", "ENOSPC"], ["EINVAL", "EINVAL"])
    cluster.detach(name)
    cluster.delete(name)
