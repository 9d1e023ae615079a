"""One member of a cluster as a process of its own, to be killed.

Arguments: directory, cluster id, host id, store id, peer endpoint. Prints "ready ENDPOINT", stays.
Lines on stdin, "create VOLUME SEGMENT BLOCKS", make replicas; each is answered with "done".
"""

import asyncio
import sys
from pathlib import Path
from uuid import UUID

from tests.native.hosts import Host


async def main() -> None:
    directory, cluster_id, host_id, store_id, endpoint = sys.argv[1:]
    host = Host(Path(directory), UUID(cluster_id), UUID(host_id), UUID(store_id))
    host.peer_endpoint = endpoint
    await host.start()
    print(f"ready {host.peer_endpoint}", flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        _, volume, segment, blocks = line.split()
        await host.core.create_replica(host.store_id, UUID(volume), int(segment), int(blocks))
        print("done", flush=True)
    await host.stop()


if __name__ == "__main__":
    asyncio.run(main())
