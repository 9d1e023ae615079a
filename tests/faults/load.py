"""Clients of an NBD export that record what they saw: `load.py RECORD --blocks N`.

Runs under Debian's python3 (module nbd of libnbd). Commands come on standard input, a line each:

    attach NUMBER URI   the volume is served at URI, as its NUMBERth place: clients go there
    rest, work          clients begin nothing for a while; they go on
    stop                end, once what is under way is answered or has waited long enough; reads
                        everything through the last URI first

Clients stay at an export that is no longer the volume's until their connection ends, so that an
engine which has been replaced is asked for more. Every sector that is written says by which write,
and where. What RECORD holds: cext/sim/recording.h.
"""

import argparse
import itertools
import os
import random
import struct
import sys
import threading
import time
from pathlib import Path

import nbd

SECTOR_BYTES = 512
BLOCK_SECTORS = 8
STAMP = struct.Struct("<QQ")
ZEROS = bytes(SECTOR_BYTES)
NOBODYS = (1 << 64) - 2  # the tag of bytes that are no whole sector of any write
MAX_BLOCKS = 16
READ_BACK_SECTORS = 2048
HUNTED_MAX = 256
HUNT_S = 0.01
POLL_MS = 10
PATIENCE_S = 3.0  # after stop, for what is under way
CONNECT_S = 30.0  # after stop, for reading everything


def content(tag: int, first: int, count: int) -> bytes:
    """What write `tag` puts into sectors [first, first + count)."""
    if tag == 0:
        return bytes(count * SECTOR_BYTES)
    return b"".join(
        STAMP.pack(tag, sector) * (SECTOR_BYTES // STAMP.size)
        for sector in range(first, first + count)
    )


def tag_of(sector_bytes: bytes, sector: int) -> int:
    """Which write a sector is of."""
    if sector_bytes == ZEROS:
        return 0
    tag, place = STAMP.unpack_from(sector_bytes)
    if place != sector or sector_bytes != content(tag, sector, 1):
        return NOBODYS
    return tag


def tags_of(data: bytes, first: int) -> str:
    """The tags of the sectors from `first` on, as a record has them."""
    tags = [
        tag_of(data[at : at + SECTOR_BYTES], first + at // SECTOR_BYTES)
        for at in range(0, len(data), SECTOR_BYTES)
    ]
    return ",".join(f"{tag}*{len(list(run))}" for tag, run in itertools.groupby(tags))


class Record:
    """The file, written by all clients; closed once, after which nobody writes."""

    def __init__(self, path: str, sectors: int) -> None:
        self._lock = threading.Lock()
        self._file = Path(path).open("w", encoding="ascii", buffering=1)  # noqa: SIM115
        self._file.write(f"sectors {sectors}\n")

    def read(self, line: str) -> None:
        with self._lock:
            if not self._file.closed:
                self._file.write(line + "\n")

    def write(self, client: "Client", answered: str) -> None:
        """What the client had pending has ended."""
        with self._lock:
            if not self._file.closed:
                self._file.write(f"{client.pending} {answered}\n")
                client.pending = None

    def close(self, clients: "list[Client]") -> None:
        """What they still have pending is unknown for ever."""
        with self._lock:
            for client in clients:
                if client.pending is not None:
                    self._file.write(f"{client.pending} -\n")
            self._file.close()


class Client(threading.Thread):
    """One request at a time. pending: what is under way, as a record without its answer."""

    def __init__(self, load: "Load", number: int, uri: str, seed: int) -> None:
        super().__init__(daemon=True)
        self.load = load
        self.number = number
        self.uri = uri
        self.random = random.Random(seed)
        self.pending: str | None = None

    def run(self) -> None:
        while not self.load.stopping and self.load.place == (self.number, self.uri):
            handle = nbd.NBD()
            try:
                handle.connect_uri(self.uri)
                while not self.load.stopping:
                    self.load.working.wait()
                    self.one(handle)
                    time.sleep(self.random.uniform(0, 2 * self.load.think_s))
            except nbd.Error:
                time.sleep(0.02)

    def one(self, handle: "nbd.NBD") -> None:
        """Raises nbd.Error: the connection is of no more use."""
        dice = self.random.randrange(100)
        if dice < 6:
            handle.flush()
        elif dice < 45:
            self.read(handle, *self.extent(BLOCK_SECTORS))
        elif dice < 52:
            self.write(handle, 0, *self.extent(BLOCK_SECTORS))
        else:
            unit = 1 if dice < 62 else BLOCK_SECTORS
            self.write(handle, next(self.load.tags), *self.extent(unit))

    def extent(self, unit: int) -> "tuple[int, int]":
        """Where: the first sector and how many."""
        units = self.random.randint(1, 4 if self.random.random() < 0.8 else MAX_BLOCKS)
        first = self.random.randrange(self.load.sectors // unit - units + 1)
        return first * unit, units * unit

    def read(self, handle: "nbd.NBD", first: int, count: int) -> None:
        called = time.monotonic_ns()
        data = handle.pread(count * SECTOR_BYTES, first * SECTOR_BYTES)
        answered = time.monotonic_ns()
        self.load.read(self.number, first, count, data, called, answered)

    def write(self, handle: "nbd.NBD", tag: int, first: int, count: int) -> None:
        size, offset = count * SECTOR_BYTES, first * SECTOR_BYTES
        flags = nbd.CMD_FLAG_FUA if self.random.random() < 0.1 else 0
        data = content(tag, first, count)
        called = time.monotonic_ns()
        self.pending = f"W {self.number} {first} {count} {tag} {called}"
        answered = "-"
        try:
            if tag != 0:
                handle.pwrite(data, offset, flags)
            elif self.random.random() < 0.5:
                handle.trim(size, offset, flags)
            else:
                handle.zero(size, offset, flags)
            answered = str(time.monotonic_ns())
        finally:
            self.load.record.write(self, answered)


class Hunter(Client):
    """Looks for stale reads: asks at a steady pace, whether it is answered or not, so that what a
    frozen engine finds when it comes to was asked after others had taken over."""

    def run(self) -> None:
        while not self.load.stopping and self.load.place == (self.number, self.uri):
            handle = nbd.NBD()
            try:
                handle.connect_uri(self.uri)
                next_s = time.monotonic()
                while not self.load.stopping:
                    self.load.working.wait()
                    if time.monotonic() >= next_s and handle.aio_in_flight() < HUNTED_MAX:
                        self.ask(handle)
                        next_s = time.monotonic() + HUNT_S
                    handle.poll(POLL_MS)
            except nbd.Error:
                time.sleep(0.02)

    def ask(self, handle: "nbd.NBD") -> None:
        first, count = self.extent(BLOCK_SECTORS)
        data = nbd.Buffer(count * SECTOR_BYTES)
        called = time.monotonic_ns()

        def done(error: int) -> int:
            answered = time.monotonic_ns()
            if not error:
                seen = bytes(data.to_bytearray())
                self.load.read(self.number, first, count, seen, called, answered)
            return 1  # retire the command

        handle.aio_pread(data, first * SECTOR_BYTES, completion=done)


class Load:
    """All clients, their record, and the commands."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.sectors = options.blocks * BLOCK_SECTORS
        self.record = Record(options.record, self.sectors)
        self.place: tuple[int, str] | None = None  # where the volume is served now
        self.tags = itertools.count(1)
        self.stopping = False
        self.working = threading.Event()
        self.working.set()
        self.think_s = options.think
        self.client_count = options.clients
        self.random = random.Random(options.seed)
        self.clients: list[Client] = []

    def read(
        self, number: int, first: int, count: int, data: bytes, called: int, answered: int
    ) -> None:
        tags = tags_of(bytes(data), first)
        self.record.read(f"R {number} {first} {count} {tags} {called} {answered}")

    def attach(self, number: int, uri: str) -> None:
        self.place = (number, uri)
        for kind in (Hunter, *[Client] * self.client_count):
            self.clients.append(kind(self, number, uri, self.random.randrange(1 << 30)))
            self.clients[-1].start()

    def stop(self) -> None:
        """Raises nbd.Error: what is there cannot be read."""
        self.stopping = True
        self.working.set()
        patience = time.monotonic() + PATIENCE_S
        for client in self.clients:
            client.join(max(0.0, patience - time.monotonic()))
        try:
            if self.place is not None:
                self.read_back(*self.place)
        finally:
            self.record.close(self.clients)

    def read_back(self, number: int, uri: str) -> None:
        handle = connect(uri)
        for first in range(0, self.sectors, READ_BACK_SECTORS):
            count = min(READ_BACK_SECTORS, self.sectors - first)
            called = time.monotonic_ns()
            data = handle.pread(count * SECTOR_BYTES, first * SECTOR_BYTES)
            self.read(number, first, count, data, called, time.monotonic_ns())


def connect(uri: str) -> "nbd.NBD":
    """Raises nbd.Error: not within CONNECT_S."""
    end = time.monotonic() + CONNECT_S
    while True:
        handle = nbd.NBD()
        try:
            handle.connect_uri(uri)
            return handle
        except nbd.Error:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("record")
    parser.add_argument("--blocks", type=int, required=True)
    parser.add_argument("--clients", type=int, default=6)
    parser.add_argument("--think", type=float, default=0.002, help="mean seconds between requests")
    parser.add_argument("--seed", type=int, default=1)
    load = Load(parser.parse_args())
    for command in sys.stdin:
        word, *arguments = command.split()
        if word == "attach":
            load.attach(int(arguments[0]), arguments[1])
        elif word == "rest":
            load.working.clear()
        elif word == "work":
            load.working.set()
        elif word == "stop":
            break
    code = 0
    try:
        load.stop()
    except nbd.Error as error:
        print(f"load: cannot read back: {error}", file=sys.stderr)
        code = 3
    sys.stderr.flush()
    os._exit(code)  # clients that wait for a frozen process end here


if __name__ == "__main__":
    main()
