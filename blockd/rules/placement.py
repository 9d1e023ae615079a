"""Where the replicas of new segments go.

Guarantees:
  * no two replicas of a segment on one host;
  * when the cluster has as many sites as the policy wants replicas, all on different sites, or no
    placement at all (PolicyUnsatisfiable); in a smaller cluster spread over the sites it has;
  * only on hosts that are up, on stores that have not failed, with room: thin, so what is promised
    may exceed what a store has by the overcommit factor, but never on a store that is nearly full
    already;
  * balanced: each replica goes where the smallest share of the capacity is promised.
The same inputs and the same seed give the same placement.
"""

import random
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

from blockd.model.errors import BlockdError, PolicyUnsatisfiable
from blockd.model.units import format_size

OVERCOMMIT_DEFAULT = 20.0  # thin volumes rarely fill up; the operator watches the real use
FAN_OUT_MAX = 96  # hosts of one volume: its engine is connected to them all
FULL_RATIO = 0.95  # a store in use beyond this gets nothing new


@dataclass(frozen=True)
class StoreRoom:
    """One store: what it has, what is in use, and what replicas placed there may come to use."""

    store_id: str
    capacity_bytes: int
    allocated_bytes: int
    promised_bytes: int
    is_failed: bool = False  # its device fails writes, or does not answer in time


@dataclass(frozen=True)
class Candidate:
    """One host of the cluster, also those that cannot be chosen: they explain a refusal."""

    host_id: str
    name: str
    site: str
    is_up: bool
    stores: tuple[StoreRoom, ...]


@dataclass(frozen=True)
class Place:
    """The host and store of one replica."""

    host_id: str
    store_id: str


@dataclass
class _Slot:
    """A store that may still be chosen, with what this placement has promised on it so far."""

    host: Candidate
    store: StoreRoom
    overcommit: float
    order: int  # a shuffled number: ties fall differently from volume to volume
    added_bytes: int = field(default=0)

    @property
    def limit_bytes(self) -> int:
        return int(self.store.capacity_bytes * self.overcommit)

    @property
    def room_bytes(self) -> int:
        return self.limit_bytes - self.store.promised_bytes - self.added_bytes

    @property
    def load(self) -> float:
        return (self.store.promised_bytes + self.added_bytes) / self.store.capacity_bytes


def place_segments(
    segment_bytes: Sequence[int],
    replicas: int,
    hosts: Sequence[Candidate],
    sites: Collection[str],
    *,
    rng: random.Random,
    overcommit: float = OVERCOMMIT_DEFAULT,
) -> list[tuple[Place, ...]]:
    """Places for every segment, in order, `replicas` each.

    segment_bytes: how much each segment may come to hold. sites: all of the cluster's, also those
    without a usable host. Raises PolicyUnsatisfiable, saying what is missing where.
    """
    assert replicas >= 1
    distinct_sites = len(set(sites)) >= replicas
    for by_room in (
        False,
        True,
    ):  # load balances; room fits in more
        slots = _usable_slots(hosts, overcommit, rng)
        chosen = _place_all(segment_bytes, replicas, slots, distinct_sites, by_room)
        if chosen is not None:
            assert len(chosen) == len(segment_bytes)
            return chosen
    raise _refusal(segment_bytes, replicas, hosts, sites, distinct_sites, overcommit)


def _usable_slots(hosts: Iterable[Candidate], overcommit: float, rng: random.Random) -> list[_Slot]:
    ordered = sorted(hosts, key=lambda host: host.host_id)
    slots = [
        _Slot(host, store, overcommit, 0)
        for host in ordered
        if host.is_up
        for store in sorted(host.stores, key=lambda store: store.store_id)
        if _is_open(store)
    ]
    for slot, order in zip(slots, rng.sample(range(len(slots)), len(slots)), strict=True):
        slot.order = order
    return slots


def _is_open(store: StoreRoom) -> bool:
    if store.is_failed or store.capacity_bytes == 0:
        return False
    return store.allocated_bytes < store.capacity_bytes * FULL_RATIO


def _place_all(
    segment_bytes: Sequence[int],
    replicas: int,
    slots: list[_Slot],
    distinct_sites: bool,
    by_room: bool,
) -> list[tuple[Place, ...]] | None:
    chosen = []
    for size in segment_bytes:
        places = _place_one(size, replicas, slots, distinct_sites, by_room)
        if places is None:
            return None
        chosen.append(places)
    return chosen


def _place_one(
    size: int, replicas: int, slots: list[_Slot], distinct_sites: bool, by_room: bool
) -> tuple[Place, ...] | None:
    picked: list[_Slot] = []
    used_hosts: set[str] = set()
    site_use: dict[str, int] = {}
    for _ in range(replicas):
        best: _Slot | None = None
        best_key: tuple[int, float, int] | None = None
        for slot in slots:
            use = site_use.get(slot.host.site, 0)
            if slot.room_bytes < size or slot.host.host_id in used_hosts:
                continue
            if use and distinct_sites:
                continue
            key = (use, -slot.room_bytes if by_room else slot.load, slot.order)
            if best_key is None or key < best_key:
                best, best_key = slot, key
        if best is None:
            return None
        picked.append(best)
        used_hosts.add(best.host.host_id)
        site_use[best.host.site] = site_use.get(best.host.site, 0) + 1
    for slot in picked:
        slot.added_bytes += size
    assert len(used_hosts) == replicas
    return tuple(Place(slot.host.host_id, slot.store.store_id) for slot in picked)


def _refusal(
    segment_bytes: Sequence[int],
    replicas: int,
    hosts: Sequence[Candidate],
    sites: Collection[str],
    distinct_sites: bool,
    overcommit: float,
) -> BlockdError:
    """Say how many places the policy needs, which there are, and what is wrong with the others."""
    total = sum(segment_bytes)
    able = [host for host in hosts if _why_not(host, total, overcommit) is None]
    room = f"{format_size(total)} free"
    if distinct_sites:
        noun, have = "sites", sorted({host.site for host in able})
        need = f"{replicas} sites with a host that is up and has {room}"
    else:
        noun, have = "hosts", sorted(host.name for host in able)
        need = (
            f"{replicas} sites, or as the cluster has {len(set(sites))} at least that many hosts, "
            f"that are up and have {room}"
        )
    problems = _problems(hosts, sites, total, overcommit)
    listed = f"have {len(have)}: {', '.join(have)}" if have else f"no such {noun[:-1]} is there"
    detail = f" ({'; '.join(problems)})" if problems else ""
    return PolicyUnsatisfiable(f"needs {need}; {listed}{detail}")


def _problems(
    hosts: Sequence[Candidate], sites: Collection[str], total: int, overcommit: float
) -> list[str]:
    lines = []
    for site in sorted(set(sites) - {host.site for host in hosts}):
        lines.append(f"{site}: no host")
    for host in sorted(hosts, key=lambda host: (host.site, host.name)):
        why = _why_not(host, total, overcommit)
        if why is not None:
            lines.append(f"{host.site}: {host.name} {why}")
    return lines


def _why_not(host: Candidate, total: int, overcommit: float) -> str | None:
    if not host.is_up:
        return "is down"
    if not host.stores:
        return "has no store"
    if all(store.is_failed for store in host.stores):
        return "has no store whose device works"
    usable = [store for store in host.stores if _is_open(store)]
    if not usable:
        return "is full"
    room = sum(int(store.capacity_bytes * overcommit) - store.promised_bytes for store in usable)
    return None if room >= total else f"has {format_size(max(room, 0))} free"


def bounded(
    hosts: Sequence[Candidate], members: Collection[str], *, rng: random.Random
) -> list[Candidate]:
    """At most FAN_OUT_MAX of the hosts that are up, taken evenly from the sites, those that hold
    replicas of the volume already (members) before others; and all that are down."""
    by_site: dict[str, list[Candidate]] = {}
    for host in sorted(hosts, key=lambda host: host.host_id):
        if host.is_up:
            by_site.setdefault(host.site, []).append(host)
    for site in by_site.values():
        rng.shuffle(site)
        site.sort(key=lambda host: host.host_id not in members)
    taken: list[Candidate] = []
    for rank in range(max((len(site) for site in by_site.values()), default=0)):
        row = [site[rank] for site in by_site.values() if rank < len(site)]
        taken.extend(row[: FAN_OUT_MAX - len(taken)])
    return taken + [host for host in hosts if not host.is_up]
