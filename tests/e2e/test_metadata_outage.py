"""All of the metadata service dies: attached volumes go on; afterwards management recovers."""

from pathlib import Path

import pytest

from blockd.model.errors import MetadataUnreachable
from tests.cluster import DevCluster, wait_until
from tests.e2e.history import History, read_back, record

BLOCKS = 4096
METAS = ("meta-paris", "meta-lyon", "meta-marseille")

pytestmark = pytest.mark.timeout(300)


def test_attached_volumes_outlive_the_metadata_service(
    cluster: DevCluster, name: str, tmp_path: Path
) -> None:
    cluster.create(name, BLOCKS * 4096)
    uri = cluster.attach(name, "paris-1").nbd_uris[0]
    recording = record(uri, tmp_path / "log", BLOCKS, seconds=15, flush=0.5)
    wait_until(lambda: recording.acknowledged() > 200, 20, "writes are acknowledged")
    cluster.kill(*METAS)
    states = {name: process["state"] for name, process in cluster.status().items()}
    assert {states[f"etcd-{meta.removeprefix('meta-')}"] for meta in METAS} == {"dead"}
    with pytest.raises(MetadataUnreachable):
        cluster.volume(name)
    at = recording.acknowledged()
    assert recording.finish() == 0
    assert recording.acknowledged() > at + 200
    History.read(tmp_path / "log").check(read_back(uri, BLOCKS))

    cluster.start(*METAS)
    wait_until(lambda: len(cluster.hosts_up()) == 3, 30, "all hosts are registered again")
    assert cluster.volume(name).attachment.host_name == "paris-1"
    cluster.detach(name)
    uri = cluster.attach(name, "lyon-1").nbd_uris[0]
    History.read(tmp_path / "log").check(read_back(uri, BLOCKS))
    cluster.detach(name)
    cluster.delete(name)


def test_one_metadata_instance_is_enough_to_ask_and_two_to_decide(
    cluster: DevCluster, name: str
) -> None:
    cluster.kill("meta-paris")
    cluster.create(name, 16 << 20)
    cluster.attach(name, "lyon-1")
    cluster.start("meta-paris")
    wait_until(lambda: len(cluster.hosts_up()) == 3, 30, "all hosts are up")
    cluster.detach(name)
    cluster.delete(name)


def test_an_etcd_member_that_dies_is_started_again(cluster: DevCluster) -> None:
    before = cluster.status()["etcd-lyon"]["pid"]
    cluster.kill("etcd-lyon")

    def is_new() -> bool:
        member = cluster.status()["etcd-lyon"]
        return member["state"] == "running" and member["pid"] != before

    wait_until(is_new, 30, "meta-lyon runs a new etcd", poll=0.5)
