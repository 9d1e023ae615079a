"""The event log: what happened in the cluster, bounded, and streams of it."""

from collections.abc import AsyncIterator

from blockd.meta.etcd import CompactedError, Delete, Entry
from blockd.meta.records import EVENTS, Records
from blockd.model.errors import InvalidArgument
from blockd.rpc.gen.types_pb2 import Event

EVENTS_KEPT = 10_000
TRIM_BATCH = 100


class Events:
    """Stateless; every call reads etcd."""

    def __init__(self, records: Records) -> None:
        self._etcd = records.etcd

    async def watch(
        self, after_revision: int, history: int, *, follow: bool = True
    ) -> AsyncIterator[Event]:
        """The past that was asked for, oldest first, then, to `follow`, what comes, for ever.

        after_revision: everything after it that is still kept; 0: only new events. history: in that
        case first this many old ones. Raises InvalidArgument, MetadataUnreachable.
        """
        if history > EVENTS_KEPT:
            raise InvalidArgument(f"at most {EVENTS_KEPT} events are kept", field="history")
        if after_revision >= 1 << 62:
            raise InvalidArgument("no such revision", field="after_revision")
        if after_revision:
            past, revision = await self._etcd.scan_at(EVENTS, after_revision=after_revision)
        elif history:
            past, revision = await self._etcd.scan_at(EVENTS, limit=history, newest_first=True)
            past.reverse()
        else:
            past, revision = await self._etcd.scan_at(EVENTS, limit=1, keys_only=True)
            past = []
        for entry in past:
            yield _event(entry)
        if not follow:
            return
        last = max(revision, after_revision)
        while True:
            try:
                async for changes in self._etcd.watch(EVENTS, last + 1):
                    for change in changes:
                        last = max(last, change.entry.mod_revision)
                        if not change.is_delete:
                            yield _event(change.entry)
            except CompactedError:
                past, revision = await self._etcd.scan_at(EVENTS, after_revision=last)
                for entry in past:
                    yield _event(entry)
                last = revision

    async def trim(self) -> int:
        """Delete the oldest beyond EVENTS_KEPT; returns how many."""
        excess = await self._etcd.count(EVENTS) - EVENTS_KEPT
        deleted = 0
        while deleted < excess:
            batch = min(TRIM_BATCH, excess - deleted)
            oldest, _ = await self._etcd.scan_at(EVENTS, keys_only=True, limit=batch)
            if not oldest:
                break
            await self._etcd.commit([], [Delete(entry.key) for entry in oldest])
            deleted += len(oldest)
        return deleted


def _event(entry: Entry) -> Event:
    event = Event.FromString(entry.value)
    event.revision = entry.mod_revision
    return event
