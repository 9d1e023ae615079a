"""Losing etcd members, instances and leaders."""

import asyncio
import contextlib
import os
import signal
from pathlib import Path

import pytest

from blockd.config.meta import MetaSettings
from blockd.meta.etcd import CompactedError, Delete, Etcd, Put, Unchanged
from blockd.meta.main import start
from blockd.model.errors import AddressInUse, InvalidArgument, MetadataUnreachable, Unsupported
from blockd.rpc.channel import MetaClient
from blockd.rpc.gen import meta_pb2, types_pb2
from tests.meta.etcd_process import free_ports, running
from tests.meta.rig import wait_until

CLUSTER = meta_pb2.GetClusterRequest()


async def cluster_of(endpoint: str) -> meta_pb2.Cluster:
    async with MetaClient([endpoint]) as client:
        return await client.call(lambda meta: meta.GetCluster, CLUSTER)


async def test_commits_are_guarded(etcd_endpoint):
    etcd = Etcd([etcd_endpoint])
    await etcd.commit([], [Delete("/t/", prefix=True)])
    assert await etcd.commit([Unchanged("/t/a", 0)], [Put("/t/a", b"1")]) is not None
    assert await etcd.commit([Unchanged("/t/a", 0)], [Put("/t/a", b"2")]) is None
    entry = await etcd.get("/t/a")
    assert entry.value == b"1"
    assert await etcd.commit([Unchanged("/t/a", entry.mod_revision)], [Put("/t/a", b"3")])
    assert [one.value for one in await etcd.scan("/t/")] == [b"3"]
    assert await etcd.count("/t/") == 1
    await etcd.close()


async def test_a_watch_sees_every_change_in_order(etcd_endpoint):
    etcd = Etcd([etcd_endpoint])
    _, revision = await etcd.scan_at("/w/")
    for number in range(20):
        await etcd.commit([], [Put(f"/w/{number % 3}", str(number).encode())])
    seen = []
    async for changes in etcd.watch("/w/", revision + 1):
        seen += [change.entry.value for change in changes]
        if len(seen) == 20:
            break
    assert seen == [str(number).encode() for number in range(20)]
    await etcd.close()


async def test_a_watch_of_compacted_revisions_says_so(etcd_endpoint):
    etcd = Etcd([etcd_endpoint])
    for number in range(5):
        await etcd.commit([], [Put("/c/a", str(number).encode())])
    _, revision = await etcd.scan_at("/c/")
    client = await etcd._client(etcd.endpoints[0])
    await client.compact(revision)
    with pytest.raises(CompactedError):
        async for _ in etcd.watch("/c/", 1):
            pass
    await etcd.close()


async def test_a_lease_ends_by_itself(etcd_endpoint):
    etcd = Etcd([etcd_endpoint])
    lease = await etcd.grant(2)
    await etcd.commit([], [Put("/l/a", b"", lease)])
    assert await etcd.keep_alive(lease)
    await etcd.revoke(lease)
    assert await etcd.get("/l/a") is None
    assert not await etcd.keep_alive(lease)
    with pytest.raises(MetadataUnreachable, match=r"lease not found.*try again"):
        await etcd.commit([], [Put("/l/a", b"", lease), Put("/l/b", b"")])
    assert await etcd.get("/l/b") is None
    await etcd.close()


async def test_nobody_answers():
    etcd = Etcd([f"127.0.0.1:{free_ports(1)[0]}"])
    with pytest.raises(MetadataUnreachable, match="etcd does not answer"):
        await etcd.get("/x")
    with pytest.raises(MetadataUnreachable):
        await etcd.commit([], [Put("/x", b"")])
    await etcd.close()


async def test_any_member_may_die(tmp_path):
    with running(tmp_path, members=3) as members:
        settings = MetaSettings(
            name="m", site="paris", listen="127.0.0.1:0", etcd=(members[0].endpoint,)
        )
        async with contextlib.AsyncExitStack() as stack:
            endpoint = await start(settings, stack)
            client = await stack.enter_async_context(MetaClient([endpoint]))
            events = client.stream(lambda meta: meta.WatchEvents, meta_pb2.WatchEventsRequest())
            arrived: list[str] = []

            async def listen() -> None:
                async for event in events:
                    arrived.append(event.subject)

            listening = asyncio.create_task(listen())
            await asyncio.sleep(0.5)  # the other members are learnt of
            for victim in range(3):
                members[victim].kill()
                name = f"operator-{victim}"

                async def created(name: str = name) -> bool:
                    with contextlib.suppress(MetadataUnreachable):
                        await client.call(
                            lambda meta: meta.CreateOperator, types_pb2.Operator(name=name)
                        )
                        return True
                    return False

                async def announced(name: str = name) -> bool:
                    return f"operator/{name}" in arrived

                await wait_until(created, 30)
                await wait_until(announced, 30)
                members[victim].start()
                members[victim].wait_healthy()
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)
            assert len(arrived) == len(set(arrived))


async def test_leadership_moves_when_the_leader_stops(etcd_endpoint):
    async def instance(name: str, stack: contextlib.AsyncExitStack) -> str:
        settings = MetaSettings(
            name=name, site="paris", listen="127.0.0.1:0", etcd=(etcd_endpoint,)
        )
        return await start(settings, stack)

    async with contextlib.AsyncExitStack() as second:
        async with contextlib.AsyncExitStack() as first:
            one = await instance("one", first)

            async def one_leads() -> bool:
                return (await cluster_of(one)).leader == "one"

            await wait_until(one_leads)
            two = await instance("two", second)
            cluster = await cluster_of(two)
            assert cluster.leader == "one"
            assert set(cluster.meta_endpoints) == {one, two}

        async def two_leads() -> bool:
            return (await cluster_of(two)).leader == "two"

        await wait_until(two_leads)
        assert list((await cluster_of(two)).meta_endpoints) == [two]
        assert (await cluster_of(two)).cluster_id == cluster.cluster_id


@pytest.fixture
def supervised(tmp_path: Path) -> MetaSettings:
    client, peer = free_ports(2)
    return MetaSettings(
        name="solo",
        site="paris",
        listen="127.0.0.1:0",
        etcd_dir=tmp_path / "etcd",
        etcd_client_url=f"http://127.0.0.1:{client}",
        etcd_peer_url=f"http://127.0.0.1:{peer}",
    )


def etcd_children() -> list[int]:
    """Processes called etcd whose parent is this process."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            name, _, rest = path.read_text().partition("(")[2].rpartition(")")
            if name == "etcd" and int(rest.split()[1]) == os.getpid():
                found.append(int(path.parent.name))
    return found


async def test_a_supervised_member_is_started_again_and_taken_down(supervised):
    before = set(etcd_children())
    async with contextlib.AsyncExitStack() as stack:
        endpoint = await start(supervised, stack)
        cluster_id = (await cluster_of(endpoint)).cluster_id
        [member] = set(etcd_children()) - before
        os.kill(member, signal.SIGKILL)

        async def back() -> bool:
            with contextlib.suppress(MetadataUnreachable):
                return (await cluster_of(endpoint)).cluster_id == cluster_id
            return False

        await asyncio.sleep(0.3)
        await wait_until(back, 30)
        assert set(etcd_children()) - before - {member}
    assert not set(etcd_children()) - before
    async with contextlib.AsyncExitStack() as stack:
        endpoint = await start(supervised, stack)
        assert (await cluster_of(endpoint)).cluster_id == cluster_id


async def test_a_taken_etcd_address_is_named(supervised):
    async with contextlib.AsyncExitStack() as stack:
        await start(supervised, stack)
        async with contextlib.AsyncExitStack() as other:
            with pytest.raises(AddressInUse, match=supervised.etcd_client_url):
                await start(supervised, other)


async def test_a_missing_etcd_is_named(supervised):
    settings = supervised.model_copy(update={"etcd_binary": Path("/nowhere/etcd")})
    async with contextlib.AsyncExitStack() as stack:
        with pytest.raises(Unsupported, match="/nowhere/etcd"):
            await start(settings, stack)


async def test_another_clusters_etcd_is_refused(supervised):
    from uuid import uuid4

    async with contextlib.AsyncExitStack() as stack:
        await start(supervised, stack)
    settings = supervised.model_copy(update={"cluster_id": uuid4()})
    async with contextlib.AsyncExitStack() as stack:
        with pytest.raises(InvalidArgument, match="belongs to cluster"):
            await start(settings, stack)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({}, "etcd_dir"),
        ({"etcd": ("nonsense",)}, "nonsense"),
        ({"etcd": ("127.0.0.1:1",), "name": "A"}, "not a name"),
        ({"etcd": ("127.0.0.1:1",), "listen": "10.0.0.1:7400"}, "allow_plaintext"),
        (
            {"etcd": ("127.0.0.1:1",), "listen": "0.0.0.0:7400", "allow_plaintext": True},
            "set advertise",
        ),
        (
            {"etcd_dir": "/tmp/x", "etcd_initial_cluster": "other=http://127.0.0.1:1"},
            "etcd_initial_cluster",
        ),
        ({"etcd_dir": "/tmp/x", "etcd_client_url": "http://10.0.0.1:2379"}, "allow_plaintext"),
    ],
)
def test_bad_settings_name_themselves(change, word):
    values = {"name": "m", "site": "paris", **change}
    with pytest.raises(InvalidArgument, match=word):
        MetaSettings.load(flags=values, environ={})
