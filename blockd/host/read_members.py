"""Who may be asked for the snapshots that are read here: those exported, and bases of volumes.

What a reader is made with says who was in sync then. Whoever is in sync later has the snapshot, too
(docs/SNAPSHOTS.md, P1), and may be the only one that is left: so each heartbeat asks for what has
changed since of the segments of the volumes read here, and the core is told. News that was
under way when a reader was made may be older than the reader: the core ignores lower generations.
"""

import logging
from collections.abc import Iterable
from uuid import UUID

from blockd.host.attachments import Attachments
from blockd.host.snapshots import SnapshotExports
from blockd.host.topology import Topology
from blockd.model.errors import BlockdError
from blockd.model.ids import parse_id
from blockd.native import core as native
from blockd.rpc.gen import meta_pb2

log = logging.getLogger(__name__)


class ReadMembers:
    """What is known of the volumes that are read here; used on the event loop only."""

    def __init__(
        self,
        core: native.Core,
        topology: Topology,
        attachments: Attachments,
        exports: SnapshotExports,
    ) -> None:
        self._core = core
        self._topology = topology
        self._attachments = attachments
        self._exports = exports
        self._readers: set[object] = set()
        self._known: dict[UUID, int] = {}  # volume -> the revision as of which readers know

    def wanted(self) -> list[meta_pb2.ReadVolume]:
        """What to ask for: everything of a volume that has a reader which was not there before."""
        readers: dict[object, frozenset[UUID]] = {
            (held.volume_id, held.epoch): held.reads for held in self._attachments.held.values()
        }
        readers.update({one: one.reads for one in self._exports.exported.values()})
        known: dict[UUID, int] = {}
        for reader, volumes in readers.items():
            for volume_id in volumes:
                is_new = reader not in self._readers or known.get(volume_id) == 0
                known[volume_id] = 0 if is_new else self._known.get(volume_id, 0)
        self._known = known
        self._readers = set(readers)
        return [
            meta_pb2.ReadVolume(volume_id=str(volume_id), revision=revision)
            for volume_id, revision in known.items()
        ]

    async def learn(self, answers: Iterable[meta_pb2.ReadSegments]) -> None:
        """Take up the answer to what was wanted last. What the core refuses comes again."""
        for answer in answers:
            volume_id = parse_id(answer.volume_id, "volume")
            try:
                for segment in answer.segments:
                    await self._core.members_changed(volume_id, self._topology.segment(segment))
            except BlockdError as error:
                log.warning("readers of volume %s keep their members: %s", volume_id, error)
                continue
            if volume_id in self._known:
                self._known[volume_id] = answer.revision
