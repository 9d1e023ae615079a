"""One store and its volume as a process of its own, to be killed while it writes.

Arguments: store path, store id, cluster id, volume id, epoch, seed. Each block that it writes says
its own number and that of the write. Prints "read BLOCK NUMBER" for every block as it found it,
then "start BLOCK COUNT NUMBER" before and "done NUMBER" after each write; stays.
"""

import asyncio
import random
import struct
import sys
from uuid import UUID

from blockd.model.units import BLOCK_BYTES
from blockd.native.core import Core
from blockd.native.values import Member, Segment, VolumeSpec

BLOCKS = 512
WRITERS = 4  # each has blocks of its own: their order is known
MARK = struct.Struct("<QQ")


def block_of(block: int, number: int) -> bytes:
    return MARK.pack(block, number) * (BLOCK_BYTES // MARK.size)


def number_in(block: int, data: bytes) -> int:
    """Of the write that the block holds, 0 when none; torn or foreign content ends the process."""
    if not any(data):
        return 0
    _, number = MARK.unpack_from(data)
    if data != block_of(block, number):
        raise SystemExit(f"block {block} holds what nobody wrote")
    return int(number)


async def main() -> None:
    path = sys.argv[1]
    store, cluster, volume = (UUID(text) for text in sys.argv[2:5])
    epoch, seed = int(sys.argv[5]), int(sys.argv[6])
    host = UUID(int=store.int ^ 1)
    core = Core(host_id=host, cluster_id=cluster, buffer_bytes=32 << 20)
    await core.start()
    await core.open_store(path)
    await core.create_replica(store, volume, 0, BLOCKS)
    members = (Member(host_id=host, store_id=store, distance=0, in_sync=True),)
    await core.attach(
        VolumeSpec(
            volume_id=volume,
            name="killed",
            size_bytes=BLOCKS * BLOCK_BYTES,
            epoch=epoch,
            min_in_sync=1,
            segments=(Segment(index=0, generation=epoch, members=members),),
        )
    )
    content = await core.read(volume, 0, BLOCKS * BLOCK_BYTES)
    for block in range(BLOCKS):
        data = content[block * BLOCK_BYTES : (block + 1) * BLOCK_BYTES]
        print("read", block, number_in(block, data))
    print("ready", flush=True)
    await asyncio.gather(*(write(core, volume, one, epoch, seed) for one in range(WRITERS)))


async def write(core: Core, volume: UUID, writer: int, epoch: int, seed: int) -> None:
    """Until the process is killed."""
    rng = random.Random(f"{seed}/{writer}")
    first, count = writer * BLOCKS // WRITERS, BLOCKS // WRITERS
    number = epoch << 32 | writer << 24
    while True:
        number += 1
        length = rng.choice([1, 1, 1, 3, 16, 40])
        at = first + rng.randrange(count - length + 1)
        print("start", at, length, number, flush=True)
        data = b"".join(block_of(block, number) for block in range(at, at + length))
        await core.write(volume, at * BLOCK_BYTES, data)
        print("done", number, flush=True)
        if rng.random() < 0.1:
            await core.flush(volume)


if __name__ == "__main__":
    asyncio.run(main())
