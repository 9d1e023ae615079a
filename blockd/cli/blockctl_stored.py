"""What hosts store of volumes, asked of the hosts themselves: live, or not known."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass

from blockd.cli.blockctl_session import Clients
from blockd.cli.blockctl_views import View
from blockd.model.errors import BlockdError
from blockd.model.units import format_size
from blockd.rpc.gen import host_pb2
from blockd.rpc.gen.types_pb2 import HOST_STATE_UP, Host, Volume

ASK_SECONDS = 3.0

StoredAt = host_pb2.StoredReplicas
# By host id; None where the host does not answer.
Answers = dict[str, list[StoredAt] | None]


async def ask_hosts(clients: Clients, host_ids: Iterable[str], volume_id: str = "") -> Answers:
    """Every one of the hosts at the same time, about one volume or all."""
    hosts = await clients.list_hosts()
    wanted = sorted(host_ids)
    answers = await asyncio.gather(
        *(_ask(clients, hosts.get(host_id), volume_id) for host_id in wanted)
    )
    return dict(zip(wanted, answers, strict=True))


async def _ask(clients: Clients, host: Host | None, volume_id: str) -> list[StoredAt] | None:
    if host is None or host.state != HOST_STATE_UP:
        return None
    try:
        answer = await clients.hosts.call(
            host.grpc_endpoint,
            lambda stub: stub.ListReplicas,
            host_pb2.ListReplicasRequest(volume_id=volume_id),
            timeout=ASK_SECONDS,
        )
    except BlockdError:
        return None
    return list(answer.replicas)


async def stored_of(clients: Clients, volume: Volume) -> View:
    """Of one volume, by replica and in all; past_bytes: beside that, in chunks that only snapshots
    hold; a host that does not answer counts as nothing, and
    `complete` says so."""
    members = {m.host_id: m for segment in volume.segments for m in segment.members}
    answers = await ask_hosts(clients, members, volume.id)
    return {
        "complete": all(answer is not None for answer in answers.values()),
        "stored_bytes": sum(
            one.stored_bytes for answer in answers.values() for one in answer or ()
        ),
        "past_bytes": sum(one.past_bytes for answer in answers.values() for one in answer or ()),
        "hosts": [
            {
                "host": members[host_id].host_name,
                "host_id": host_id,
                "stored_bytes": None if answer is None else sum(one.stored_bytes for one in answer),
                "past_bytes": None if answer is None else sum(one.past_bytes for one in answer),
            }
            for host_id, answer in answers.items()
        ],
    }


@dataclass
class Stored:
    """Of one volume, over all hosts that answered; past_bytes: beside it, only in snapshots."""

    stored_bytes: int = 0
    past_bytes: int = 0


def stored_in_all(answers: Answers) -> dict[str, Stored]:
    """By volume."""
    totals: dict[str, Stored] = {}
    for answer in answers.values():
        for one in answer or ():
            total = totals.setdefault(one.volume_id, Stored())
            total.stored_bytes += one.stored_bytes
            total.past_bytes += one.past_bytes
    return totals


def stored_text(stored_bytes: int, *, complete: bool) -> str:
    """For people: "3 GiB", or "at least 3 GiB" when a host did not answer."""
    return format_size(stored_bytes) if complete else f"at least {format_size(stored_bytes)}"
