"""Placement keeps its promises for any cluster, and says why when it cannot."""

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockd.model.errors import PolicyUnsatisfiable
from blockd.rules.placement import (
    FAN_OUT_MAX,
    Candidate,
    StoreRoom,
    bounded,
    place_segments,
)

GIB = 1 << 30


def host(name: str, site: str, *, gib: int = 100, up: bool = True, used: int = 0) -> Candidate:
    store = StoreRoom(f"s-{name}", gib * GIB, used * GIB, used * GIB)
    return Candidate(f"id-{name}", name, site, up, (store,))


hosts_of_clusters = st.lists(
    st.tuples(
        st.sampled_from(["paris", "lyon", "marseille", "lille", "nantes"]),
        st.integers(0, 50),  # GiB
        st.booleans(),
        st.integers(0, 50),
    ),
    max_size=12,
).map(
    lambda rows: [
        host(f"h{i}", site, gib=gib, up=up, used=min(used, gib))
        for i, (site, gib, up, used) in enumerate(rows)
    ]
)


@given(hosts_of_clusters, st.integers(1, 5), st.integers(1, 40), st.integers(0, 9))
def test_every_placement_keeps_the_rules(hosts, replicas, segments, seed):
    sites = {one.site for one in hosts}
    sizes = [GIB] * segments
    try:
        chosen = place_segments(
            sizes, replicas, hosts, sites, rng=random.Random(seed), overcommit=1.0
        )
    except PolicyUnsatisfiable:
        return
    by_id = {one.host_id: one for one in hosts}
    placed: Counter[str] = Counter()
    for places in chosen:
        assert len({place.host_id for place in places}) == replicas
        used_sites = {by_id[place.host_id].site for place in places}
        if len(sites) >= replicas:
            assert len(used_sites) == replicas
        for place in places:
            one = by_id[place.host_id]
            assert one.is_up
            assert place.store_id == one.stores[0].store_id
            placed[place.host_id] += GIB
    for host_id, size in placed.items():
        store = by_id[host_id].stores[0]
        assert store.promised_bytes + size <= store.capacity_bytes


@given(hosts_of_clusters, st.integers(1, 3), st.integers(0, 9))
def test_the_same_seed_gives_the_same_placement(hosts, replicas, seed):
    def place():
        try:
            return place_segments(
                [GIB] * 3, replicas, hosts, {one.site for one in hosts}, rng=random.Random(seed)
            )
        except PolicyUnsatisfiable as error:
            return error.message

    assert place() == place()


@given(st.integers(0, 99))
def test_replicas_are_balanced_within_one_of_each_other(seed):
    hosts = [host(f"{site}-{i}", site) for site in ("a", "b", "c") for i in range(3)]
    chosen = place_segments(
        [GIB] * 30, 3, hosts, {"a", "b", "c"}, rng=random.Random(seed), overcommit=1.0
    )
    counts = Counter(place.host_id for places in chosen for place in places)
    assert len(counts) == 9
    assert max(counts.values()) - min(counts.values()) <= 1


def test_larger_stores_get_more():
    hosts = [host("big", "a", gib=300), host("small", "a", gib=100), host("b", "b", gib=400)]
    chosen = place_segments([GIB] * 80, 2, hosts, {"a", "b"}, rng=random.Random(1), overcommit=1.0)
    counts = Counter(place.host_id for places in chosen for place in places)
    assert counts == {"id-b": 80, "id-big": 60, "id-small": 20}


def refused(hosts, sites, *, replicas=3, gib=12) -> str:
    with pytest.raises(PolicyUnsatisfiable) as caught:
        place_segments([GIB] * gib, replicas, hosts, sites, rng=random.Random(0), overcommit=1.0)
    return caught.value.message


def test_a_refusal_names_what_is_there_and_what_is_wrong_elsewhere():
    hosts = [
        host("p1", "paris"),
        host("l1", "lyon"),
        host("m1", "marseille", up=False),
        host("n1", "nantes", gib=4),
    ]
    message = refused(hosts, {"paris", "lyon", "marseille", "nantes", "lille"})
    assert message.startswith(
        "needs 3 sites with a host that is up and has 12 GiB free; have 2: lyon, paris"
    )
    assert "lille: no host" in message
    assert "m1 is down" in message
    assert "n1 has 4 GiB free" in message


def test_a_small_cluster_spreads_over_the_sites_it_has():
    hosts = [host("p1", "paris"), host("p2", "paris"), host("l1", "lyon")]
    chosen = place_segments([GIB], 3, hosts, {"paris", "lyon"}, rng=random.Random(0))
    assert len({place.host_id for place in chosen[0]}) == 3
    assert "needs 4 sites" in refused(hosts, {"paris", "lyon"}, replicas=4)


def test_thin_volumes_may_promise_more_than_there_is_but_not_on_a_full_store():
    hosts = [host("p1", "paris", gib=1)]
    places = place_segments([GIB] * 20, 1, hosts, {"paris"}, rng=random.Random(0))
    assert len(places) == 20
    full = [host("p1", "paris", gib=100, used=96)]
    with pytest.raises(PolicyUnsatisfiable, match="is full"):
        place_segments([GIB], 1, full, {"paris"}, rng=random.Random(0))


@given(st.integers(0, 200), st.integers(1, 4), st.integers(0, 9))
def test_fan_out_is_bounded_and_prefers_members(count, sites, seed):
    hosts = [host(f"h{i:03}", f"s{i % sites}") for i in range(count)]
    members = {one.host_id for one in hosts[:20]}
    taken = bounded(hosts, members, rng=random.Random(seed))
    assert len(taken) == min(count, FAN_OUT_MAX)
    assert members <= {one.host_id for one in taken} or len(members) > FAN_OUT_MAX
    assert {one.site for one in taken} == {one.site for one in hosts}


def test_a_failed_store_gets_nothing_new():
    room = StoreRoom("s-good", 10 * GIB, 0, 0)
    failed = StoreRoom("s-failed", 100 * GIB, 0, 0, is_failed=True)
    mixed = Candidate("id-a", "a", "paris", True, (failed, room))
    (places,) = place_segments([GIB], 1, [mixed], ["paris"], rng=random.Random(1))
    assert places[0].store_id == "s-good"
    dead = Candidate("id-b", "b", "lyon", True, (failed,))
    with pytest.raises(PolicyUnsatisfiable, match="b has no store whose device works"):
        place_segments([GIB], 2, [mixed, dead], ["paris", "lyon"], rng=random.Random(1))
