"""Stores: what is placed on each, how full it is, and the events that say so."""

from collections.abc import Iterable

from blockd.meta.etcd import Entry, Put, Unchanged
from blockd.meta.hosts import present
from blockd.meta.records import (
    SEGMENTS,
    STORE_STATES,
    VOLUMES,
    HostView,
    Records,
    decode,
    last_part,
)
from blockd.model.units import format_size, segment_bytes
from blockd.rpc.gen.meta_pb2 import PlacedStore
from blockd.rpc.gen.types_pb2 import Segment, Store, Volume

OK = "ok"
STALLED = "stalled"  # it does not do its work in time
KINDS = {
    OK: "store.has_space",
    "nearly-full": "store.nearly_full",
    "full": "store.full",
}  # the host itself tells of one that has failed or stalled, and why


def placed_bytes(volumes: Iterable[Entry], segments: Iterable[Entry]) -> dict[str, int]:
    """By store: the sizes of the segments whose replicas are placed there. The arguments are all
    records of volumes and of segments."""
    sizes = {last_part(entry.key): decode(entry, Volume).value.size_bytes for entry in volumes}
    placed: dict[str, int] = {}
    for entry in segments:
        segment = decode(entry, Segment).value
        volume_id = entry.key.removeprefix(SEGMENTS).partition("/")[0]
        size = segment_bytes(sizes.get(volume_id, 0), segment.index)
        for member in segment.members:
            placed[member.store_id] = placed.get(member.store_id, 0) + size
    return placed


class Stores:
    """Stateless; every call reads etcd."""

    def __init__(self, records: Records) -> None:
        self._records = records

    async def all(self) -> list[PlacedStore]:
        """By host, then path."""
        hosts = (await self._records.hosts()).values()
        placed = placed_bytes(*await self._records.etcd.read_many([VOLUMES, SEGMENTS]))
        found = [
            PlacedStore(
                store=store,
                host_id=host.id,
                host_name=host.name,
                site=host.site,
                host_state=host.state,
                reported_unix_us=host.last_heartbeat_unix_us,
                logical_bytes=placed.get(store.id, 0),
            )
            for host in map(present, hosts)
            for store in host.stores
        ]
        return sorted(found, key=lambda one: (one.host_name, one.store.path))

    async def announce(self) -> None:
        """An event for each change of a store's state, once, whoever leads."""
        hosts = await self._records.hosts()
        entries = await self._records.etcd.scan(STORE_STATES)
        announced = {last_part(entry.key): entry for entry in entries}
        for view in hosts.values():
            for store in view.report.stores if view.report is not None else ():
                entry = announced.get(store.id)
                before = entry.value.decode() if entry is not None else OK
                if store.state in KINDS and store.state != before:
                    await self._announce(view, store, entry.mod_revision if entry else 0)

    async def _announce(self, view: HostView, store: Store, revision: int) -> None:
        key = STORE_STATES + store.id
        used = 100 * store.allocated_bytes // max(store.capacity_bytes, 1)
        await self._records.commit(
            [Unchanged(key, revision)],
            [Put(key, store.state.encode())],
            KINDS[store.state],
            f"store/{store.id}",
            f"store {store.path} of host {view.host.name} {describe(store.state)}: {used} % of "
            f"{format_size(store.capacity_bytes)} in use",
            {
                "store_id": store.id,
                "path": store.path,
                "host_id": view.host.id,
                "host": view.host.name,
                "allocated_bytes": str(store.allocated_bytes),
                "capacity_bytes": str(store.capacity_bytes),
            },
        )


def describe(state: str) -> str:
    """A store's state as the verb of a sentence."""
    if state == OK:
        return "has space again"
    return f"is {state.replace('-', ' ')}"
