"""Metrics: what is counted can be scraped, by name, from another thread."""

import asyncio
import urllib.request
from uuid import uuid4

import pytest

from blockd.host.metrics import HostCollector, MetricsServer, cumulate, space_metrics
from blockd.host.readings import Readings
from blockd.host.space import SpaceWatch, Thresholds
from blockd.model.errors import AddressInUse
from blockd.native.values import StoreInfo
from tests.host.fake_metadata import make_volume


def test_buckets_become_cumulative_seconds() -> None:
    buckets, total_s = cumulate([1, 2, 4])
    assert buckets == [("2e-06", 1.0), ("4e-06", 3.0), ("+Inf", 7.0)]
    assert total_s == pytest.approx((1 * 1.5 + 2 * 3 + 4 * 6) / 1e6)


async def test_a_scrape_shows_volumes_stores_and_daemon(rig) -> None:
    held = await rig.attachments.attach(make_volume(rig.host_id))
    await rig.core.write(held.volume_id, 0, b"x")
    rig.core.volumes[held.volume_id].counters["base_chunks"] = 7
    loop = asyncio.get_running_loop()
    collector = HostCollector(
        loop, rig.core, rig.attachments, rig.agent, SpaceWatch(Thresholds()), rig.scrubs
    )
    server = MetricsServer.start("127.0.0.1:0", collector)

    def scrape() -> str:
        with urllib.request.urlopen(f"http://{server.endpoint}/metrics") as answer:
            return answer.read().decode()

    try:
        text = await asyncio.to_thread(scrape)
        with pytest.raises(AddressInUse, match="cannot serve metrics"):
            MetricsServer.start(server.endpoint, collector)
    finally:
        await asyncio.to_thread(server.close)
    for line in (
        "blockd_host_registered 0.0",
        'blockd_volume_writes_total{volume="v"} 1.0',
        'blockd_volume_base_chunks{volume="v"} 7.0',
        'blockd_volume_read_latency_seconds_bucket{le="4e-06",volume="v"} 3.0',
        'blockd_volume_replicas{state="in_sync",volume="v"} 1.0',
        'blockd_volume_state{state="serving",volume="v"} 1.0',
        "blockd_nbd_connections 1.0",
        "blockd_nbd_requests_total 5.0",
        "blockd_reactor_syscalls_total 9.0",
    ):
        assert line in text


def test_each_store_is_in_one_state() -> None:
    watch = SpaceWatch(Thresholds())
    stores = tuple(
        StoreInfo(uuid4(), path, 100, used, 1 << 20, 0, 0)
        for path, used in (("/a", 10), ("/b", 96))
    )
    for info in stores:
        watch.look(info)
    family = space_metrics(Readings((), stores, {}, {}), watch)
    states = [(s.labels["path"], s.labels["state"]) for s in family.samples if s.value == 1]
    assert states == [("/a", "ok"), ("/b", "full")]
    assert len(family.samples) == 10
