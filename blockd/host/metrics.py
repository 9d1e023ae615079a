"""Prometheus metrics of the daemon: http://METRICS_LISTEN/metrics.

Counters live in the native core; each scrape takes its readings on the event loop and renders it in
the exporter's thread. Segments are summarised by volume, so the number of series grows with volumes
and stores, not with capacity. Names and meanings: docs/OPERATIONS.md, "Metrics".
"""

import asyncio
from collections.abc import Iterable, Mapping
from http.server import HTTPServer
from threading import Thread
from typing import Any

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from blockd.config.endpoints import join_endpoint, split_endpoint
from blockd.host.agent import Agent
from blockd.host.attachments import Attachments
from blockd.host.readings import STATES, Readings
from blockd.host.scrub import Scrubs
from blockd.host.space import STATES as SPACE_STATES
from blockd.host.space import SpaceWatch
from blockd.model.errors import AddressInUse
from blockd.model.units import CHUNK_BYTES
from blockd.native import core as native

SCRAPE_TIMEOUT_S = 5.0
LATENCIES = ("read", "write", "flush")
BASE_CHUNKS = "base_chunks"  # the one figure among a volume's counters that falls


class HostCollector(Collector):
    """Renders readings; called in the exporter's thread."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        core: native.Core,
        attachments: Attachments,
        agent: Agent,
        space: SpaceWatch,
        scrubs: Scrubs,
    ) -> None:
        self._loop = loop
        self._core = core
        self._attachments = attachments
        self._agent = agent
        self._space = space
        self._scrubs = scrubs

    def collect(self) -> Iterable[Metric]:
        """One scrape."""
        future = asyncio.run_coroutine_threadsafe(
            Readings.take(self._core, self._attachments), self._loop
        )
        readings = future.result(SCRAPE_TIMEOUT_S)
        registered = GaugeMetricFamily(
            "blockd_host_registered", "1 while the metadata service answers this host"
        )
        registered.add_metric([], float(self._agent.registered.is_set()))
        yield registered
        yield from volume_metrics(readings)
        yield from segment_metrics(readings)
        yield from store_metrics(readings)
        yield space_metrics(readings, self._space)
        yield from scrub_metrics(self._scrubs)
        yield from daemon_metrics(readings)

    def describe(self) -> Iterable[Metric]:
        """Nothing ahead of the first scrape: names depend on what the core counts."""
        return []


def volume_metrics(readings: Readings) -> Iterable[Metric]:
    """I/O of each attached volume: counts, bytes, latencies, state."""
    base = GaugeMetricFamily(
        f"blockd_volume_{BASE_CHUNKS}",
        "Chunks of 64 KiB that show a volume's base",
        labels=["volume"],
    )
    counters: dict[str, CounterMetricFamily] = {}
    for held in readings.held:
        for name, value in readings.volume_counters(held.volume_id).items():
            if name == BASE_CHUNKS:
                base.add_metric([held.name], value)
                continue
            family = counters.setdefault(
                name,
                CounterMetricFamily(
                    f"blockd_volume_{name}", f"{name} of a volume", labels=["volume"]
                ),
            )
            family.add_metric([held.name], value)
    yield base
    yield from counters.values()
    for kind in LATENCIES:
        yield latency_histogram(kind, readings)
    state = GaugeMetricFamily(
        "blockd_volume_state", "1 for the state a volume is in", labels=["volume", "state"]
    )
    for held in readings.held:
        now = readings.state(held)
        for name in STATES:
            state.add_metric([held.name, name], float(name == now))
    yield state


def latency_histogram(kind: str, readings: Readings) -> HistogramMetricFamily:
    """The core's power-of-two buckets as a histogram in seconds."""
    family = HistogramMetricFamily(
        f"blockd_volume_{kind}_latency_seconds",
        f"Latency of a {kind}, from request to reply",
        labels=["volume"],
    )
    for held in readings.held:
        counts = readings.volume(held.volume_id).get(f"{kind}_latency_us")
        if isinstance(counts, list) and counts:
            buckets, total_s = cumulate(counts)
            family.add_metric([held.name], buckets, total_s)
    return family


def cumulate(counts: list[int]) -> tuple[list[tuple[str, float]], float]:
    """Bucket i counts [2^i, 2^(i+1)) us. Returns Prometheus' cumulative buckets and an estimate of
    the sum, which takes each request for one and a half times its bucket's lower bound."""
    buckets: list[tuple[str, float]] = []
    seen, total_us = 0, 0.0
    for index, count in enumerate(counts):
        seen += count
        total_us += count * 1.5 * 2**index
        bound = "+Inf" if index == len(counts) - 1 else repr(2 ** (index + 1) / 1e6)
        buckets.append((bound, float(seen)))
    return buckets, total_us / 1e6


def _is_degraded(segment: native.SegmentStatus) -> bool:
    return bool(segment.joining or segment.absent or segment.behind)


def segment_metrics(readings: Readings) -> Iterable[Metric]:
    """Replication of each attached volume, over its segments."""
    replicas = GaugeMetricFamily(
        "blockd_volume_replicas", "Replicas of a volume's segments", labels=["volume", "state"]
    )
    degraded = GaugeMetricFamily(
        "blockd_volume_degraded_segments", "Segments with a replica not in sync", labels=["volume"]
    )
    by_state = GaugeMetricFamily(
        "blockd_volume_segments", "Segments of a volume", labels=["volume", "state"]
    )
    resync = GaugeMetricFamily(
        "blockd_volume_resync_left_bytes",
        "Bytes that running resyncs still copy",
        labels=["volume"],
    )
    in_flight = GaugeMetricFamily(
        "blockd_volume_in_flight", "Mutations in flight", labels=["volume"]
    )
    for held in readings.held:
        segments = readings.segments[held.volume_id]
        for name, count in count_replicas(segments).items():
            replicas.add_metric([held.name, name], count)
        for name in STATES:
            by_state.add_metric([held.name, name], sum(s.state == name for s in segments))
        degraded.add_metric([held.name], sum(map(_is_degraded, segments)))
        left = sum(s.resync_bytes_total - s.resync_bytes_done for s in segments if s.joining)
        resync.add_metric([held.name], max(0, left))
        in_flight.add_metric([held.name], sum(s.in_flight for s in segments))
    return [replicas, degraded, by_state, resync, in_flight]


def count_replicas(segments: list[native.SegmentStatus]) -> Mapping[str, int]:
    """How many replicas are in which state, over all segments."""
    return {
        "in_sync": sum(len(segment.in_sync) for segment in segments),
        "joining": sum(len(segment.joining) for segment in segments),
        "absent": sum(len(segment.absent) for segment in segments),
    }


def store_metrics(readings: Readings) -> Iterable[Metric]:
    """Space and journal of each store, and what the store itself counts."""
    gauges = {
        name: GaugeMetricFamily(f"blockd_store_{name}", text, labels=["store", "path"])
        for name, text in (
            ("capacity_bytes", "Bytes that a store can hold"),
            ("allocated_bytes", "Bytes in allocated chunks"),
            ("past_bytes", "Bytes in chunks that only snapshots hold"),
            ("journal_bytes", "Size of the journal"),
            ("journal_used_bytes", "Bytes of the journal that replay would read"),
            ("segment_count", "Replicas in a store"),
        )
    }
    counters: dict[str, CounterMetricFamily] = {}
    for info in readings.stores:
        labels = [str(info.store_id), info.path]
        for name, family in gauges.items():
            family.add_metric(labels, getattr(info, name))
        for name, value in readings.store(info.store_id).items():
            if name not in gauges:
                counter = CounterMetricFamily(
                    f"blockd_store_{name}", f"{name} of a store", labels=["store", "path"]
                )
                counters.setdefault(name, counter).add_metric(labels, value)
    return [*gauges.values(), *counters.values()]


def space_metrics(readings: Readings, space: SpaceWatch) -> Metric:
    """Which stores are full, nearly full or failed."""
    family = GaugeMetricFamily(
        "blockd_store_state", "1 for the state a store is in", labels=["store", "path", "state"]
    )
    for info in readings.stores:
        now = space.state(info.store_id)
        for name in SPACE_STATES:
            family.add_metric([str(info.store_id), info.path, name], float(name == now))
    return family


def scrub_metrics(scrubs: Scrubs) -> Iterable[Metric]:
    """The latest scrub of each store."""
    labels = ["store", "path"]
    running = GaugeMetricFamily(
        "blockd_scrub_running", "1 while a store is scrubbed", labels=labels
    )
    done = GaugeMetricFamily("blockd_scrub_done_bytes", "Read by the latest scrub", labels=labels)
    total = GaugeMetricFamily("blockd_scrub_total_bytes", "What it is to read", labels=labels)
    finished = GaugeMetricFamily(
        "blockd_scrub_finished_timestamp_seconds", "When a scrub came to its end", labels=labels
    )
    damaged = GaugeMetricFamily(
        "blockd_scrub_damaged_blocks", "Blocks found bad and not repaired", labels=labels
    )
    repaired = GaugeMetricFamily(
        "blockd_scrub_repaired_blocks", "Blocks found bad and repaired", labels=labels
    )
    for path, state in scrubs.states():
        values = [str(state.store_id), path]
        running.add_metric(values, float(state.state == "running"))
        done.add_metric(values, state.chunks_done * CHUNK_BYTES)
        total.add_metric(values, state.chunks_total * CHUNK_BYTES)
        if state.state == "finished":
            finished.add_metric(values, state.ended_unix_us / 1e6)
        damaged.add_metric(values, len(state.damaged) + state.findings_dropped)
        repaired.add_metric(values, len(state.findings) - len(state.damaged))
    return [running, done, total, finished, damaged, repaired]


def daemon_metrics(readings: Readings) -> Iterable[Metric]:
    """What is counted once a daemon: the NBD server and the reactor."""
    for name, value in readings.daemon_counters().items():
        kind: type[Any] = (
            GaugeMetricFamily
            if name.endswith(("connections", "in_flight"))
            else CounterMetricFamily
        )
        family = kind(f"blockd_{name}", f"{name} of the daemon")
        family.add_metric([], value)
        yield family


class MetricsServer:
    """The exporter: an HTTP server on a thread of its own."""

    def __init__(self, server: HTTPServer, thread: Thread) -> None:
        self._server = server
        self._thread = thread

    @property
    def endpoint(self) -> str:
        """Where it listens."""
        host, port = self._server.server_address[:2]
        return join_endpoint(str(host), int(port))

    @classmethod
    def start(cls, endpoint: str, collector: Collector) -> "MetricsServer":
        """Listen. Raises AddressInUse."""
        registry = CollectorRegistry(auto_describe=False)
        registry.register(collector)
        host, port = split_endpoint(endpoint)
        try:
            server, thread = start_http_server(port, addr=host, registry=registry)
        except OSError as error:
            raise AddressInUse(
                f"cannot serve metrics at {endpoint}: {error.strerror or error}"
            ) from error
        return cls(server, thread)

    def close(self) -> None:
        """Stop and wait for the thread. REQUIRES: not on the event loop's thread, which scrapes
        use."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
