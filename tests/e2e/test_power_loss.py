"""All hosts die at once: every flushed write is there when they are back, under the same holder."""

from pathlib import Path

import pytest

from tests.cluster import DevCluster, wait_until
from tests.e2e.history import History, Recording, read_back, record

BLOCKS = 8192
HOSTS = ("paris-1", "lyon-1", "marseille-1")

pytestmark = pytest.mark.timeout(300)


def test_flushed_writes_survive_the_death_of_all_hosts(
    cluster: DevCluster, name: str, tmp_path: Path
) -> None:
    volume = cluster.create(name, BLOCKS * 4096)
    uri = cluster.attach(name, "paris-1").nbd_uris[0]
    history = History()
    for round_number in range(2):
        log = tmp_path / f"log{round_number}"
        first = history.last_number + 1
        recording = record(uri, log, BLOCKS, seconds=60, flush=0.1, seed=first, first=first)
        wait_for_writes(recording, 1500)
        cluster.kill(*HOSTS)
        assert recording.finish() == 3
        cluster.start(*HOSTS)

        def serves() -> bool:
            return cluster.attachment("paris-1", volume.id).state == "serving"

        wait_until(serves, 40, "the volume is served again")
        history.add(log)
        # More than what was flushed: an acknowledged write is on its devices already, and a process
        # that dies takes nothing back.
        history.check(read_back(uri, BLOCKS))
    assert history.flush_count > 2
    cluster.wait_in_sync(name)
    cluster.detach(name)
    cluster.delete(name)


def wait_for_writes(recording: Recording, count: int) -> None:
    wait_until(lambda: recording.acknowledged() > count, 30, f"{count} writes are acknowledged")
