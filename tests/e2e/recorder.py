"""Writes numbered blocks to an NBD export and records what was acknowledged: `recorder.py URI LOG
...`.

Runs under Debian's python3 (module nbd of libnbd). Every 4 KiB block it writes says which write it
is. The log has one line an event, written before anything else happens:

    S number block     submitted      A number block   acknowledged
    f number           a flush begins when `number` writes had been acknowledged in all
    F number           that flush is acknowledged: so are those writes, on their devices

It ends by itself after --seconds, or with exit code 3 when the connection fails.
"""

import argparse
import random
import struct
import sys
import time

import nbd

BLOCK_BYTES = 4096
STAMP = struct.Struct("<QQ")


def content(number: int, block: int) -> bytes:
    """The block that write `number` puts at `block`."""
    return STAMP.pack(number, block) * (BLOCK_BYTES // STAMP.size)


class Recorder:
    """Keeps `depth` writes in flight, at most one to each block."""

    def __init__(self, handle: "nbd.NBD", log: "object", options: argparse.Namespace) -> None:
        self.handle = handle
        self.log = log
        self.random = random.Random(options.seed)
        self.blocks = options.blocks
        self.busy: set[int] = set()
        self.number = options.first - 1
        self.acknowledged = 0
        self.failed = False

    def say(self, text: str) -> None:
        self.log.write(text + "\n")  # type: ignore[attr-defined]
        self.log.flush()  # type: ignore[attr-defined]

    def submit(self) -> None:
        block = self.random.randrange(self.blocks)
        while block in self.busy:
            block = self.random.randrange(self.blocks)
        self.busy.add(block)
        self.number += 1
        number = self.number
        self.say(f"S {number} {block}")
        buffer = nbd.Buffer.from_bytearray(bytearray(content(number, block)))

        def done(error: "nbd.Error | int") -> int:
            value = getattr(error, "value", error)
            if value:
                self.failed = True
            else:
                self.acknowledged += 1
                self.say(f"A {number} {block}")
            self.busy.discard(block)
            return 1  # retire the command

        self.handle.aio_pwrite(buffer, block * BLOCK_BYTES, completion=done)

    def flush(self) -> None:
        covered = self.acknowledged
        self.say(f"f {covered}")

        def done(error: "nbd.Error | int") -> int:
            if getattr(error, "value", error):
                self.failed = True
            else:
                self.say(f"F {covered}")
            return 1

        self.handle.aio_flush(completion=done)

    def run(self, seconds: float, depth: int, flush_s: float) -> None:
        end = time.monotonic() + seconds
        next_flush = time.monotonic() + flush_s
        while not self.failed and time.monotonic() < end:
            while len(self.busy) < depth:
                self.submit()
            if flush_s and time.monotonic() >= next_flush:
                self.flush()
                next_flush = time.monotonic() + flush_s
            self.handle.poll(1000)
        while not self.failed and self.handle.aio_in_flight():
            self.handle.poll(1000)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("uri")
    parser.add_argument("log")
    parser.add_argument("--blocks", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--depth", type=int, default=16)
    parser.add_argument("--flush", type=float, default=0, help="seconds between flushes; 0: none")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=1, help="number of the first write")
    options = parser.parse_args()
    handle = nbd.NBD()
    handle.connect_uri(options.uri)
    with open(options.log, "a", encoding="ascii") as log:
        recorder = Recorder(handle, log, options)
        try:
            recorder.run(options.seconds, options.depth, options.flush)
        except nbd.Error as error:
            print(f"recorder: {error}", file=sys.stderr)
            return 3
    return 3 if recorder.failed else 0


if __name__ == "__main__":
    sys.exit(main())
