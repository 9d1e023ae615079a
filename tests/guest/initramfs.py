"""The root of the guest: a small initramfs from Debian's own kernel, busybox and e2fsprogs.

It is built in memory from files that are already on this machine, always in the same order and
with the same times and owners, so the same packages give the same bytes. The "newc" cpio format is
simple enough to write here; the kernel's documentation has it (early-userspace/buffer-format).
"""

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

MODULES = ("virtio_pci", "virtio_blk", "crc32c_generic", "ext4")
PROGRAMS = ("/sbin/mke2fs", "/sbin/e2fsck")
BUSYBOX = "/bin/busybox"

# `script` runs with -e, in a shell that prefers its own applets: other programs need their full
# path. What it prints goes to the console, its exit status decides the verdict.
INIT = """#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/sbin:/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
for module in $(cat /modules/order); do insmod /modules/$module || echo "cannot load $module"; done
tries=0
while [ ! -b /dev/vda ] && [ $tries -lt 100 ]; do usleep 100000; tries=$((tries + 1)); done
echo "GUEST-BEGIN"
sh -e /script
echo "GUEST-END status=$?"
poweroff -f
"""


@dataclass(frozen=True)
class Kernel:
    """An installed Debian kernel: its image and the folder of its modules."""

    image: Path
    modules: Path


class GuestUnavailableError(Exception):
    """Something that the guest is made from is not installed; the message names it."""


def find_kernel() -> Kernel:
    """The newest kernel under /boot that has its modules installed."""
    for image in sorted(Path("/boot").glob("vmlinuz-*"), key=version_key, reverse=True):
        modules = Path("/lib/modules") / image.name.removeprefix("vmlinuz-")
        if (modules / "modules.dep").exists():
            return Kernel(image, modules)
    raise GuestUnavailableError("no kernel with modules in /boot: apt install linux-image-amd64")


def version_key(path: Path) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", path.name)]


def build_initramfs(kernel: Kernel, script: str) -> bytes:
    """The archive to hand to QEMU's -initrd: boots, runs `script`, powers off."""
    modules = module_files(kernel)
    archive = Archive()
    for folder in ("dev", "proc", "sys", "tmp", "mnt"):
        archive.folder(folder)
    archive.file("init", INIT.encode(), executable=True)
    archive.file("script", script.encode(), executable=True)
    archive.file(BUSYBOX, read(BUSYBOX), executable=True)
    archive.file("modules/order", "\n".join(path.name for path in modules).encode())
    for module in modules:
        archive.file(f"modules/{module.name}", module.read_bytes())
    for path in sorted({*PROGRAMS, *shared_libraries(PROGRAMS)}):
        archive.file(path, read(path), executable=True)
    return archive.finish()


def read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise GuestUnavailableError(
            f"{path} is missing: apt install busybox-static e2fsprogs"
        ) from None


def module_files(kernel: Kernel) -> list[Path]:
    """MODULES and what they depend on, in the order to load them."""
    depends: dict[str, list[str]] = {}
    paths: dict[str, str] = {}
    for line in (kernel.modules / "modules.dep").read_text().splitlines():
        path, _, rest = line.partition(":")
        name = Path(path).name.split(".")[0].replace("-", "_")
        paths[name] = path
        depends[path] = rest.split()
    order: list[str] = []

    def load(path: str) -> None:
        for dependency in depends[path]:
            load(dependency)
        if path not in order:
            order.append(path)

    for name in MODULES:
        if name in paths:  # one that is not listed is built into this kernel
            load(paths[name])
    return [kernel.modules / path for path in order]


def shared_libraries(programs: tuple[str, ...]) -> set[str]:
    """Every library, and the loader, that the programs are linked against."""
    libraries: set[str] = set()
    for program in programs:
        listing = subprocess.run(
            ["ldd", program], check=True, capture_output=True, text=True
        ).stdout
        libraries.update(re.findall(r"(/\S+) \(0x", listing))
    return libraries


class Archive:
    """A newc cpio archive with fixed times, owners and inode numbers."""

    FOLDER = 0o040755
    FILE = 0o100644
    PROGRAM = 0o100755

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._names: set[str] = set()

    def folder(self, name: str) -> None:
        if name not in self._names:
            self._entry(name, self.FOLDER, b"")

    def file(self, name: str, content: bytes, *, executable: bool = False) -> None:
        """Add a file, after the folders that lead to it."""
        name = name.lstrip("/")
        parents = [str(parent) for parent in Path(name).parents][:-1]
        for parent in reversed(parents):
            self.folder(parent)
        self._entry(name, self.PROGRAM if executable else self.FILE, content)

    def finish(self) -> bytes:
        self._entry("TRAILER!!!", 0, b"")
        return b"".join(self._parts)

    def _entry(self, name: str, mode: int, content: bytes) -> None:
        encoded = name.encode() + b"\0"
        inode, links = len(self._names) + 1, 1
        fields = [inode, mode, 0, 0, links, 0, len(content), 0, 0, 0, 0, len(encoded), 0]
        header = b"070701" + b"".join(b"%08X" % field for field in fields)
        self._parts += [padded(header + encoded), padded(content)]
        self._names.add(name)


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
