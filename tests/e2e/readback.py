"""Prints which write each block of an NBD export holds, a number a line: `readback.py URI BLOCKS`.
BLOCKS`.

0 stands for a block of zeros. A block that is neither zeros nor one whole write of recorder.py ends
it with exit code 4: blocks are atomic. Runs under Debian's python3.
"""

import sys

import nbd
from recorder import BLOCK_BYTES, STAMP, content

RUN_BLOCKS = 256


def main() -> int:
    uri, blocks = sys.argv[1], int(sys.argv[2])
    handle = nbd.NBD()
    handle.connect_uri(uri)
    zeros = bytes(BLOCK_BYTES)
    for start in range(0, blocks, RUN_BLOCKS):
        count = min(RUN_BLOCKS, blocks - start)
        data = handle.pread(count * BLOCK_BYTES, start * BLOCK_BYTES)
        for index in range(count):
            found = bytes(data[index * BLOCK_BYTES : (index + 1) * BLOCK_BYTES])
            number, block = STAMP.unpack_from(found)
            if found == zeros:
                number = 0
            elif block != start + index or found != content(number, block):
                print(f"block {start + index} is torn or misplaced: {number} {block}")
                return 4
            print(number)
    return 0


if __name__ == "__main__":
    sys.exit(main())
