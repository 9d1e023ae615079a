"""A guest whose disk is a replicated volume, through the loss of one host, then another."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.cluster import DevCluster, dev_cluster, run, wait_until
from tests.guest.guest import FILES_WRITTEN, VERIFY_AGAIN, boot_guest

VOLUME = "guest"
VOLUME_BYTES = 512 << 20
WRITTEN_BEFORE_KILL = 8 << 20
BOOT_S = 240

pytestmark = [pytest.mark.guest, pytest.mark.timeout(600)]


@pytest.fixture
def cluster() -> Iterator[DevCluster]:
    with dev_cluster() as cluster:
        yield cluster


def test_guest_keeps_its_files_while_hosts_are_lost(cluster: DevCluster) -> None:
    volume = cluster.create(VOLUME, VOLUME_BYTES)
    attachment = cluster.attach(VOLUME, "paris-1")

    def written() -> int:
        return cluster.attachment("paris-1", volume.id).counters["write_bytes"]

    # A replica is killed while the guest writes: it must not notice.
    with ThreadPoolExecutor(max_workers=1) as pool:
        guest = pool.submit(boot_guest, attachment.nbd_uris[0])
        wait_until(lambda: written() > WRITTEN_BEFORE_KILL, BOOT_S, "the guest writes", poll=0.05)
        cluster.kill("marseille-1")
        assert not guest.done(), "the guest was done before the kill"
        first = guest.result()
    assert first.status == 0, first.output
    assert first.files_verified == FILES_WRITTEN

    # The replica catches up; then the host that served the guest goes, and another takes over.
    cluster.start("marseille-1")
    cluster.wait_in_sync(VOLUME, replicas=3)
    cluster.kill("paris-1")
    attachment = cluster.attach(VOLUME, "marseille-1")
    second = boot_guest(attachment.nbd_uris[0], VERIFY_AGAIN)
    assert second.status == 0, second.output
    assert second.files_verified == FILES_WRITTEN


def test_a_clone_of_a_guests_disk_is_a_sound_file_system(
    cluster: DevCluster, tmp_path: Path
) -> None:
    """Taken while the guest writes: what a power loss would leave, and nothing worse."""
    volume = cluster.create(VOLUME, VOLUME_BYTES)
    uri = cluster.attach(VOLUME, "paris-1").nbd_uris[0]

    def written() -> int:
        return cluster.attachment("paris-1", volume.id).counters["write_bytes"]

    with ThreadPoolExecutor(max_workers=1) as pool:
        guest = pool.submit(boot_guest, uri)
        for number in range(1, 4):
            wait_until(
                lambda number=number: written() > number * (4 << 20), BOOT_S, "writes", poll=0.05
            )
            assert not guest.done(), "the guest was done before the snapshot"
            cluster.ctl("volume", "snapshot", "create", VOLUME, f"s{number}")
        result = guest.result()
    assert result.status == 0, result.output
    for number in range(1, 4):
        copy = f"clone{number}"
        cluster.ctl("volume", "clone", VOLUME, copy, "--snapshot", f"s{number}")
        shown = cluster.attach(copy, "lyon-1").nbd_uris[0]
        image = str(tmp_path / copy)
        run(["nbdcopy", shown, image])
        for options, allowed in (("-p", (0, 1)), ("-fn", (0,))):  # the journal; then all of it
            done = run(["/sbin/e2fsck", options, image], check=False)
            assert done.returncode in allowed, done.stdout + done.stderr
    cluster.ctl("volume", "snapshot", "create", VOLUME, "end")
    cluster.ctl("volume", "clone", VOLUME, "whole", "--snapshot", "end", "--size", "768MiB")
    shown = cluster.attach("whole", "marseille-1").nbd_uris[0]
    again = boot_guest(shown, VERIFY_AGAIN)
    assert (again.status, again.files_verified) == (0, FILES_WRITTEN), again.output
