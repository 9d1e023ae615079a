"""Messages as the JSON documents that blockctl prints. These keys are for ever."""

from typing import Any

from blockd.rpc.gen import host_pb2
from blockd.rpc.gen.types_pb2 import (
    Attachment,
    Base,
    Event,
    Group,
    Host,
    HostState,
    Segment,
    Site,
    Snapshot,
    SnapshotAttachment,
    SnapshotState,
    Store,
    Volume,
    VolumeState,
)
from blockd.rules.volume_spec import IO_TIMEOUT_MS_DEFAULT

View = dict[str, Any]


def host_state(host: Host) -> str:
    """ "up" or "down"."""
    return host_state_name(host.state)


def host_state_name(state: "HostState.ValueType") -> str:
    """ "up" or "down"."""
    return HostState.Name(state).removeprefix("HOST_STATE_").lower()


def volume_state(volume: Volume) -> str:
    """ "creating", "available" or "deleting"."""
    return VolumeState.Name(volume.state).removeprefix("VOLUME_STATE_").lower()


def site_view(site: Site) -> View:
    """A site."""
    return {
        "name": site.name,
        "operator": site.operator,
        "city": site.city,
        "jurisdiction": site.jurisdiction,
        "latitude": site.latitude,
        "longitude": site.longitude,
    }


def store_view(store: Store) -> View:
    """A store of a host."""
    return {
        "id": store.id,
        "path": store.path,
        "capacity_bytes": store.capacity_bytes,
        "allocated_bytes": store.allocated_bytes,
        "past_bytes": store.past_bytes,
        "journal_bytes": store.journal_bytes,
        "journal_used_bytes": store.journal_used_bytes,
        "segment_count": store.segment_count,
        "state": store.state,
        "failed": store.failed,
    }


def host_view(host: Host) -> View:
    """A host as the metadata service knows it."""
    return {
        "id": host.id,
        "name": host.name,
        "site": host.site,
        "state": host_state(host),
        "grpc_endpoint": host.grpc_endpoint,
        "peer_endpoint": host.peer_endpoint,
        "incarnation": host.incarnation,
        "release": host.release,
        "last_heartbeat_unix_us": host.last_heartbeat_unix_us,
        "stores": [store_view(store) for store in host.stores],
    }


def host_status_view(status: host_pb2.HostStatus) -> View:
    """What a host daemon says about itself."""
    return {
        "nbd_endpoints": list(status.nbd_endpoints),
        "counters": {name: status.counters[name] for name in sorted(status.counters)},
        "attachments": [attachment_status_view(one) for one in status.attachments],
    }


def attachment_status_view(status: host_pb2.AttachmentStatus) -> View:
    """What the holder says about a volume's engine."""
    return {
        "volume_id": status.volume_id,
        "volume_name": status.volume_name,
        "epoch": status.epoch,
        "state": status.state,
        "size_bytes": status.size_bytes,
        "nbd_uris": list(status.nbd_uris),
        "counters": {name: status.counters[name] for name in sorted(status.counters)},
        "segments": [
            {
                "index": segment.index,
                "generation": segment.generation,
                "state": segment.state,
                "in_sync": list(segment.in_sync),
                "joining": list(segment.joining),
                "absent": list(segment.absent),
                "resync_bytes_done": segment.resync_bytes_done,
                "resync_bytes_total": segment.resync_bytes_total,
                "in_flight": segment.in_flight,
                "behind": list(segment.behind),
                "resync_us": segment.resync_us,
                "differing": list(segment.differing),
                "proven_ago_us": (
                    segment.proven_ago_us if segment.HasField("proven_ago_us") else None
                ),
            }
            for segment in status.segments
        ],
    }


def attachment_view(attachment: Attachment) -> View:
    """Who serves a volume."""
    return {
        "volume_id": attachment.volume_id,
        "host": attachment.host_name,
        "host_id": attachment.host_id,
        "epoch": attachment.epoch,
        "since_unix_us": attachment.since_unix_us,
        "nbd_uris": list(attachment.nbd_uris),
        "standbys": list(attachment.standby_host_names),
    }


def segment_view(segment: Segment) -> View:
    """A segment and its replicas."""
    return {
        "index": segment.index,
        "generation": segment.generation,
        "members": [
            {
                "host": member.host_name,
                "host_id": member.host_id,
                "site": member.site,
                "store_id": member.store_id,
                "in_sync": member.in_sync,
            }
            for member in segment.members
        ],
    }


def volume_view(volume: Volume, *, segments: bool) -> View:
    """A volume, with its segments or without."""
    view: View = {
        "id": volume.id,
        "name": volume.name,
        "tenant": volume.tenant,
        "size_bytes": volume.size_bytes,
        "replicas": volume.policy.replicas,
        "min_in_sync": volume.policy.min_in_sync,
        "io_timeout_ms": volume.policy.io_timeout_ms or IO_TIMEOUT_MS_DEFAULT,
        "state": volume_state(volume),
        "degraded": volume.degraded,
        "created_unix_us": volume.created_unix_us,
        "attachment": attachment_view(volume.attachment) if volume.HasField("attachment") else None,
        "era": max(1, volume.era),
        "base": base_view(volume.base) if volume.HasField("base") else None,
        "flattening": volume.flattening,
        "branch_of": volume.branch.volume_name or None,
    }
    if segments:
        view["segments"] = [segment_view(segment) for segment in volume.segments]
    return view


def base_view(base: Base) -> View:
    """A snapshot that shows through."""
    return {
        "volume_id": base.volume_id,
        "snapshot_id": base.snapshot_id,
        "era": base.era,
        "size_bytes": base.size_bytes,
    }


def snapshot_state(snapshot: Snapshot) -> str:
    """ "creating" or "available"."""
    return SnapshotState.Name(snapshot.state).removeprefix("SNAPSHOT_STATE_").lower()


def snapshot_attachment_view(attachment: SnapshotAttachment) -> View:
    """Where a snapshot is exported."""
    return {
        "snapshot_id": attachment.snapshot_id,
        "host": attachment.host_name,
        "host_id": attachment.host_id,
        "since_unix_us": attachment.since_unix_us,
        "nbd_uris": list(attachment.nbd_uris),
    }


def snapshot_view(snapshot: Snapshot) -> View:
    """A snapshot, with where it is exported."""
    return {
        "id": snapshot.id,
        "volume": snapshot.volume_name,
        "volume_id": snapshot.volume_id,
        "name": snapshot.name,
        "era": snapshot.era,
        "size_bytes": snapshot.size_bytes,
        "created_unix_us": snapshot.created_unix_us,
        "state": snapshot_state(snapshot),
        "group": snapshot.group or None,
        "base": base_view(snapshot.base) if snapshot.HasField("base") else None,
        "attachments": [snapshot_attachment_view(one) for one in snapshot.attachments],
    }


def group_view(group: Group) -> View:
    """Volumes of which snapshots are taken at one moment."""
    return {
        "name": group.name,
        "volumes": [
            {"volume": one.volume_name, "volume_id": one.volume_id} for one in group.volumes
        ],
    }


def event_view(event: Event) -> View:
    """Something that happened."""
    return {
        "revision": event.revision,
        "unix_us": event.unix_us,
        "kind": event.kind,
        "subject": event.subject,
        "message": event.message,
        "details": {name: event.details[name] for name in sorted(event.details)},
    }
