"""Boots a virtual machine whose disk is an NBD export, and tells what happened in it.

QEMU emulates the processor (TCG), so no /dev/kvm is needed; the disk goes through QEMU's own NBD
driver with the host's cache off, as a hypervisor would attach it.
"""

import re
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from tests.guest.initramfs import build_initramfs, find_kernel

# Makes a filesystem, fills it, and reads it back through a second mount.
WRITE_AND_VERIFY = """
/sbin/mke2fs -q -F -t ext4 /dev/vda
mount -t ext4 -o discard /dev/vda /mnt
mkdir /mnt/tree
for i in 1 2 3 4 5 6 7 8; do
  mkdir /mnt/tree/$i
  dd if=/dev/urandom of=/mnt/tree/$i/large bs=64k count=$((i * 8)) 2>/dev/null
  for j in 1 2 3 4 5 6 7 8 9; do
    dd if=/dev/urandom of=/mnt/tree/$i/small$j bs=777 count=$((i * j)) 2>/dev/null
  done
done
sync
dd if=/dev/urandom of=/mnt/tree/3/large bs=4k seek=5 count=7 conv=notrunc,fsync 2>/dev/null
rm -r /mnt/tree/7
cd /mnt && find tree -type f | sort | xargs sha256sum > sums && cd /
sync
umount /mnt
/sbin/e2fsck -f -n /dev/vda
mount -t ext4 /dev/vda /mnt
cd /mnt && sha256sum -c sums > /tmp/checked && cd /
echo "files verified: $(wc -l < /tmp/checked)"
fstrim /mnt
umount /mnt
"""

# For a later boot, whatever befell the cluster in between: WRITE_AND_VERIFY's files are all there.
VERIFY_AGAIN = """
/sbin/e2fsck -f -n /dev/vda
mount -t ext4 -o ro /dev/vda /mnt
cd /mnt && sha256sum -c sums > /tmp/checked && cd /
echo "files verified: $(wc -l < /tmp/checked)"
umount /mnt
"""

FILES_WRITTEN = 70  # 7 folders that stay, of 1 large and 9 small files each


@dataclass(frozen=True)
class GuestResult:
    """status: exit status of the script, None when the guest did not get that far; output: the
    console from where the script began."""

    status: int | None
    output: str
    seconds: float

    @property
    def files_verified(self) -> int:
        found = re.search(r"files verified: (\d+)", self.output)
        return int(found[1]) if found else 0


def boot_guest(
    uri: str, script: str = WRITE_AND_VERIFY, *, timeout: float = 240, memory_mib: int = 384
) -> GuestResult:
    """Run `script` in a fresh guest with the NBD export `uri` as /dev/vda, until it powers off."""
    kernel = find_kernel()
    with tempfile.TemporaryDirectory(prefix="blockd-guest-") as folder:
        initramfs = Path(folder) / "initramfs.cpio"
        initramfs.write_bytes(build_initramfs(kernel, script))
        started = time.monotonic()
        console = run_qemu(
            [
                *("qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-m", f"{memory_mib}M"),
                *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
                *("-serial", "stdio", "-kernel", str(kernel.image), "-initrd", str(initramfs)),
                *("-append", "console=ttyS0 quiet panic=-1 random.trust_cpu=on"),
                *("-drive", f"file={uri},format=raw,if=virtio,cache=none,discard=unmap"),
            ],
            timeout,
        )
    return parse_console(console, time.monotonic() - started)


def run_qemu(argv: list[str], timeout: float) -> str:
    """The console of the machine, also when it had to be stopped at the deadline."""
    with subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as qemu:
        try:
            output, _ = qemu.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            qemu.kill()
            output, _ = qemu.communicate()
    return output.decode(errors="replace").replace("\r", "")


def parse_console(console: str, seconds: float) -> GuestResult:
    _, begun, script_output = console.partition("GUEST-BEGIN\n")
    if not begun:
        return GuestResult(None, console, seconds)
    ended = re.search(r"GUEST-END status=(\d+)", script_output)
    return GuestResult(int(ended[1]) if ended else None, script_output, seconds)
