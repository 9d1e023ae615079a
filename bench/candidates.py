"""What is compared: each candidate is a small class that starts, says where it is, and stops."""

import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path


class CandidateError(Exception):
    """The candidate cannot be started; the message says what to do."""


class Candidate(ABC):
    """A block device to measure. REQUIRES start() before anything else; stop() at the end."""

    name: str
    title: str

    @abstractmethod
    def start(self, folder: Path, size_bytes: int) -> None:
        """Serve `size_bytes`, keeping files in `folder`. Raises CandidateError."""

    @abstractmethod
    def fio_arguments(self) -> list[str]:
        """The engine and the address, for fio."""

    def servers(self) -> list[int]:
        """Processes on the path of an I/O, besides fio: their CPU time is counted per I/O."""
        return []

    def background(self) -> list[int]:
        """Processes that belong to the candidate but serve no I/O (a control plane)."""
        return []

    @abstractmethod
    def stop(self) -> None: ...


class Server(Candidate):
    """One NBD server process on a unix socket."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._socket = Path()

    @abstractmethod
    def command(self, folder: Path, socket: Path, size_bytes: int) -> list[str]: ...

    def start(self, folder: Path, size_bytes: int) -> None:
        self._socket = folder / f"{self.name}.sock"
        self._socket.unlink(missing_ok=True)
        command = self.command(folder, self._socket, size_bytes)
        try:
            self._process = subprocess.Popen(command)
        except FileNotFoundError:
            raise CandidateError(
                f"{command[0]} is not installed: run scripts/setup-apt.sh"
            ) from None
        deadline = time.monotonic() + 10
        while not self._socket.exists():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise CandidateError(f"{self.name}: {command[0]} did not start")
            time.sleep(0.02)

    def fio_arguments(self) -> list[str]:
        return ["--ioengine=nbd", f"--uri=nbd+unix:///?socket={self._socket}"]

    def servers(self) -> list[int]:
        return [self._process.pid] if self._process else []

    def stop(self) -> None:
        if self._process:
            self._process.terminate()
            self._process.wait()
        self._socket.unlink(missing_ok=True)


class NbdkitMemory(Server):
    """What NBD itself costs: no disk behind it."""

    name = "nbdkit"
    title = "nbdkit memory"

    def command(self, folder: Path, socket: Path, size_bytes: int) -> list[str]:
        return ["nbdkit", "--foreground", "--unix", str(socket), "memory", str(size_bytes)]


class QemuStorageDaemon(Server):
    """The baseline: one copy, raw file, host cache off, io_uring."""

    name = "qemu"
    title = "qemu-storage-daemon, raw file, one copy"

    def command(self, folder: Path, socket: Path, size_bytes: int) -> list[str]:
        image = make_file(folder / "qemu.raw", size_bytes)
        file_node = f"driver=file,node-name=file,filename={image},cache.direct=on,aio=io_uring"
        return [
            "qemu-storage-daemon",
            *("--blockdev", file_node),
            *("--blockdev", "driver=raw,node-name=disk,file=file,cache.direct=on"),
            *("--nbd-server", f"addr.type=unix,addr.path={socket}"),
            *("--export", "type=nbd,id=export,node-name=disk,name=,writable=on"),
        ]


class QemuNbd(Server):
    """The same through the older program."""

    name = "qemu-nbd"
    title = "qemu-nbd, raw file, one copy"

    def command(self, folder: Path, socket: Path, size_bytes: int) -> list[str]:
        image = make_file(folder / "qemu-nbd.raw", size_bytes)
        options = ["--cache=none", "--aio=io_uring", "--format=raw", "--persistent", "--shared=4"]
        return ["qemu-nbd", *options, f"--socket={socket}", str(image)]


class RawDisk(Candidate):
    """The disk without any server: fio's io_uring engine, O_DIRECT, on a file."""

    name = "disk"
    title = "the disk itself, O_DIRECT, one copy"

    def __init__(self) -> None:
        self._file = Path()

    def start(self, folder: Path, size_bytes: int) -> None:
        self._file = make_file(folder / "disk.raw", size_bytes)

    def fio_arguments(self) -> list[str]:
        return ["--ioengine=io_uring", "--direct=1", f"--filename={self._file}"]

    def stop(self) -> None:
        self._file.unlink(missing_ok=True)


class GivenUri(Candidate):
    """An NBD server that somebody else runs."""

    def __init__(self, name: str, uri: str, pids: Sequence[int]) -> None:
        self.name = name
        self.title = f"{name} ({uri})"
        self._uri = uri
        self._pids = list(pids)

    def start(self, folder: Path, size_bytes: int) -> None:
        found = subprocess.run(["nbdinfo", "--size", self._uri], capture_output=True, text=True)
        if found.returncode != 0:
            raise CandidateError(f"{self.name}: {found.stderr.strip()}")
        if int(found.stdout) < size_bytes:
            raise CandidateError(f"{self.name}: {self._uri} is smaller than --size")

    def fio_arguments(self) -> list[str]:
        return ["--ioengine=nbd", f"--uri={self._uri}"]

    def servers(self) -> list[int]:
        return self._pids

    def stop(self) -> None: ...


def make_file(path: Path, size_bytes: int) -> Path:
    with path.open("wb") as file:
        file.truncate(size_bytes)
    return path
