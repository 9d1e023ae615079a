"""Writes 4 KiB blocks to an NBD export and notes how long each took: `writer.py TIMES --depth N`.

Runs under Debian's python3 (module nbd of libnbd). A line `URI` on standard input has it write
there from then on, an empty line has it rest; the end of the input ends it. TIMES gets a line for
each acknowledged write: when it was called and when it was answered, in nanoseconds of
CLOCK_MONOTONIC. A connection that fails is made again, at the export named last. With `--read` it
reads instead.
"""

import argparse
import os
import random
import sys
import threading
import time
from pathlib import Path

import nbd

BLOCK_BYTES = 4096
POLL_MS = 20
RETRY_S = 0.01


class Writer:
    """Keeps `depth` writes, or reads, in flight at the export `uri`."""

    def __init__(self, path: str, depth: int, span_blocks: int, *, read: bool) -> None:
        self.file = Path(path).open("w", encoding="ascii", buffering=1)  # noqa: SIM115
        self.depth = depth
        self.span_blocks = span_blocks
        self.read = read
        self.random = random.Random(1)
        self.changed = threading.Condition()
        self.uri: str | None = None

    def read_uris(self) -> None:
        """A thread: what comes on standard input."""
        for line in sys.stdin:
            with self.changed:
                self.uri = line.strip() or None
                self.changed.notify()
        os._exit(0)

    def run(self) -> None:
        while True:
            with self.changed:
                self.changed.wait_for(lambda: self.uri is not None)
                uri = self.uri
            try:
                self.write_to(uri)
            except nbd.Error:
                time.sleep(RETRY_S)

    def write_to(self, uri: "str | None") -> None:
        """Until another export is named. Raises nbd.Error."""
        handle = nbd.NBD()
        handle.connect_uri(uri)
        while self.uri == uri:
            while handle.aio_in_flight() < self.depth:
                self.submit(handle)
            handle.poll(POLL_MS)

    def submit(self, handle: "nbd.NBD") -> None:
        buffer = nbd.Buffer.from_bytearray(bytearray(self.random.randbytes(BLOCK_BYTES)))
        offset = self.random.randrange(self.span_blocks) * BLOCK_BYTES
        called = time.monotonic_ns()

        def done(error: int) -> int:
            answered = time.monotonic_ns()
            if not error:
                self.file.write(f"{called} {answered}\n")
            return 1  # retire the command

        if self.read:
            handle.aio_pread(buffer, offset, completion=done)
        else:
            handle.aio_pwrite(buffer, offset, completion=done)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("times")
    parser.add_argument("--depth", type=int, default=1)
    parser.add_argument("--span-blocks", type=int, default=4096)
    parser.add_argument("--read", action="store_true")
    options = parser.parse_args()
    writer = Writer(options.times, options.depth, options.span_blocks, read=options.read)
    threading.Thread(target=writer.read_uris, daemon=True).start()
    writer.run()


if __name__ == "__main__":
    main()
