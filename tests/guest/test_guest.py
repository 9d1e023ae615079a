"""The guest is sound: on reference servers it passes, and it notices a disk that lies."""

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.guest.guest import FILES_WRITTEN, VERIFY_AGAIN, boot_guest
from tests.guest.initramfs import build_initramfs, find_kernel

pytestmark = pytest.mark.guest


@contextmanager
def nbdkit(folder: Path, *arguments: str) -> Iterator[str]:
    """An nbdkit server on a unix socket; gives its URI."""
    socket = folder / "reference.sock"
    with subprocess.Popen(["nbdkit", "--foreground", "--unix", str(socket), *arguments]) as server:
        try:
            while not socket.exists():
                assert server.poll() is None
                time.sleep(0.01)
            yield f"nbd+unix:///?socket={socket}"
        finally:
            server.terminate()
            server.wait()
            socket.unlink(missing_ok=True)


def test_guest_writes_and_verifies_on_reference_server(tmp_path: Path) -> None:
    image = tmp_path / "disk"
    with image.open("wb") as file:
        file.truncate(512 << 20)
    with nbdkit(tmp_path, "file", str(image)) as uri:
        first = boot_guest(uri)
        assert first.status == 0, first.output
        assert first.files_verified == FILES_WRITTEN
        again = boot_guest(uri, VERIFY_AGAIN)
        assert again.status == 0, again.output
        assert again.files_verified == FILES_WRITTEN

    # The same disk, with part of one file overwritten: the guest must notice.
    with nbdkit(tmp_path, "file", str(image)) as uri:
        spoilt = boot_guest(uri, SPOIL_ONE_FILE + VERIFY_AGAIN)
        assert spoilt.status not in (0, None), spoilt.output


SPOIL_ONE_FILE = """
mount -t ext4 /dev/vda /mnt
dd if=/dev/zero of=/mnt/tree/2/large bs=4k seek=1 count=1 conv=notrunc 2>/dev/null
umount /mnt
"""


def test_initramfs_is_reproducible() -> None:
    kernel = find_kernel()
    assert build_initramfs(kernel, "true") == build_initramfs(kernel, "true")
