"""Scrubs of this host's stores: when they run, what they have found, and having it repaired.

The native core reads and finds; this keeps the cursor and the findings across restarts, starts what
the schedule wants, and has each damaged chunk repaired by the volume's holder, through the metadata
service. What cannot be repaired yet (the volume is not attached, the replica is being resynced) is
tried again until it can.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from blockd.host.metadata import MetadataClient
from blockd.host.reports import Reports
from blockd.host.scrub_state import SCRUB_DIR, Finding, Place, ScrubState, load
from blockd.model.errors import (
    BlockdError,
    ChecksumMismatch,
    InvalidArgument,
    MetadataUnreachable,
    NotAttached,
    NotFound,
    NotInSync,
)
from blockd.model.ids import parse_id
from blockd.model.units import CHUNK_BYTES, format_size
from blockd.native import core as native
from blockd.rpc.gen import host_pb2, meta_pb2

log = logging.getLogger(__name__)

TICK_S = 1.0
SAVE_S = 5.0  # how much scrubbing a crash may cost
REPAIR_AGAIN_S = 10.0
RATE_MIN = CHUNK_BYTES  # a chunk a second


@dataclass(frozen=True)
class ScrubPlan:
    """interval_s: from the start of one pass to that of the next; 0: only on demand."""

    interval_s: float
    rate_bytes: int


@dataclass
class _Pass:
    """What is known of a running pass beside its state. begun: when and where it was resumed."""

    begun_s: float
    begun_chunks: int
    findings_seen: int = 0
    saved_s: float = 0.0


class Scrubs:
    """All scrubs of this host; used on the event loop only."""

    def __init__(
        self,
        core: native.Core,
        metadata: MetadataClient,
        reports: Reports,
        data_dir: Path,
        plan: ScrubPlan,
        host_id: UUID,
        on_finished: Callable[[], None],
    ) -> None:
        self._core = core
        self._metadata = metadata
        self._reports = reports
        self._directory = data_dir / SCRUB_DIR
        self._plan = plan
        self._host_id = host_id
        self._on_finished = on_finished
        self._states: dict[UUID, ScrubState] = {}
        self._paths: dict[UUID, str] = {}
        self._passes: dict[UUID, _Pass] = {}
        self._repair_at_s: dict[Place, float] = {}
        # What the core reports must not be taken for that of a pass which begins meanwhile.
        self._lock = asyncio.Lock()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                await self.tick()
            except BlockdError as error:
                log.warning("scrub: %s", error)
            except Exception:  # a bug here must not end the volumes that are served
                log.exception("scrubbing failed; it is tried again")
            await asyncio.sleep(TICK_S)

    async def tick(self) -> None:
        """Look after every store once."""
        async with self._lock:
            await self._know_stores()
            await self._take_reports()
            for state in self._states.values():
                due = state.due_unix_us + int(self._plan.interval_s * 1e6)
                if self._plan.interval_s and state.state != "running" and now_us() >= due:
                    await self._start(state, self._plan.rate_bytes)
        await self._repair()

    # On demand.

    async def start(self, store: str, rate_bytes: int) -> list[ScrubState]:
        """Begin a pass. store: an id, "" all; rate_bytes 0: as planned. Raises NotFound,
        InvalidArgument."""
        if rate_bytes and rate_bytes < RATE_MIN:
            raise InvalidArgument(f"a scrub reads at least {format_size(RATE_MIN)} a second")
        async with self._lock:
            chosen = await self._chosen(store)
            for state in chosen:
                await self._start(state, rate_bytes or self._plan.rate_bytes)
        return chosen

    async def stop(self, store: str) -> list[ScrubState]:
        """End what runs. Raises NotFound."""
        async with self._lock:
            chosen = await self._chosen(store)
            await self._take_reports()
            for state in chosen:
                await self._core.stop_scrub(state.store_id)
                if state.state == "running":
                    self._end(state, "stopped")
        return chosen

    async def look(self, store: str) -> list[ScrubState]:
        """Raises NotFound."""
        async with self._lock:
            chosen = await self._chosen(store)
            await self._take_reports()
        return chosen

    def message(self, state: ScrubState) -> host_pb2.StoreScrub:
        """A store's scrub as clients see it."""
        next_us = state.due_unix_us + int(self._plan.interval_s * 1e6)
        return host_pb2.StoreScrub(
            store_id=str(state.store_id),
            store_path=self._paths[state.store_id],
            state=state.state,
            started_unix_us=state.started_unix_us,
            ended_unix_us=state.ended_unix_us,
            rate_bytes=state.rate_bytes,
            bytes_done=state.chunks_done * CHUNK_BYTES,
            bytes_total=state.chunks_total * CHUNK_BYTES,
            estimated_end_unix_us=self._estimated_end_us(state),
            next_unix_us=next_us if self._plan.interval_s else 0,
            findings=[
                host_pb2.ScrubFinding(
                    volume_id=str(one.volume_id),
                    segment=one.segment,
                    chunk=one.chunk,
                    block=one.block,
                    error=one.error,
                    found_unix_us=one.found_unix_us,
                    repaired_unix_us=one.repaired_unix_us,
                    note=one.note,
                    born=one.born,
                )
                for one in state.findings.values()
            ],
            findings_dropped=state.findings_dropped,
        )

    def states(self) -> Iterable[tuple[str, ScrubState]]:
        """Every store's path and scrub, for metrics."""
        return [(self._paths[store_id], state) for store_id, state in self._states.items()]

    async def _chosen(self, store: str) -> list[ScrubState]:
        await self._know_stores()
        if not store:
            return list(self._states.values())
        state = self._states.get(parse_id(store, "store"))
        if state is None:
            raise NotFound(f"store {store} is not open at this host")
        return [state]

    # Stores and passes.

    async def _know_stores(self) -> None:
        """Take up the scrub of each store that is open and not known yet."""
        infos = await self._core.store_infos()
        for info in infos:
            self._paths[info.store_id] = info.path
            if info.store_id in self._states:
                continue
            self._directory.mkdir(exist_ok=True, mode=0o750)
            state = load(self._directory, info.store_id, now_us())
            self._states[info.store_id] = state
            if state.state == "running":
                log.info("scrub of store %s goes on", info.path)
                await self._resume(state)
            else:
                self._save(state)

    async def _start(self, state: ScrubState, rate_bytes: int) -> None:
        fresh = ScrubState(
            state.store_id,
            due_unix_us=now_us(),
            state="running",
            started_unix_us=now_us(),
            rate_bytes=rate_bytes,
        )
        state.__dict__.update(fresh.__dict__)
        await self._resume(state)
        path = self._paths[state.store_id]
        self._reports.tell(
            "scrub.started",
            f"scrub of store {path}, at most {format_size(rate_bytes)} a second",
            store_id=str(state.store_id),
            path=path,
        )

    async def _resume(self, state: ScrubState) -> None:
        self._passes[state.store_id] = _Pass(time.monotonic(), state.chunks_done)
        await self._core.start_scrub(
            state.store_id,
            state.rate_bytes,
            cursor=state.cursor,
            chunks_done=state.chunks_done,
        )
        self._save(state)

    async def _take_reports(self) -> None:
        """Progress, findings and ends from the core."""
        for report in await self._core.scrub_reports():
            state = self._states.get(report.store_id)
            if state is None or state.state != "running":
                continue
            running = self._passes[report.store_id]
            state.chunks_done, state.chunks_total = report.chunks_done, report.chunks_total
            state.cursor = report.cursor
            state.findings_dropped = report.findings_dropped
            found = report.findings[running.findings_seen :]
            running.findings_seen = len(report.findings)
            for one in found:
                self._found(state, one)
            if report.finished:
                self._end(state, "finished")
                self._on_finished()
            elif found or time.monotonic() >= running.saved_s + SAVE_S:
                self._save(state)

    def _found(self, state: ScrubState, one: native.ScrubFinding) -> None:
        finding = Finding(one.volume_id, one.segment, one.block, one.error, now_us(), born=one.born)
        if not state.add(finding):
            return
        path = self._paths[state.store_id]
        self._reports.tell(
            "damage.found",
            f"{one.error}: segment {one.segment}, chunk {finding.chunk}, block {one.block}, in "
            f"store {path}" + (f", as snapshots of era {one.born} show it" if one.born else ""),
            volume_id=one.volume_id,
            level=logging.WARNING,
            store_id=str(state.store_id),
            path=path,
            segment=str(one.segment),
            chunk=str(finding.chunk),
            block=str(one.block),
            born=str(one.born),
            error=one.error,
        )

    def _end(self, state: ScrubState, how: str) -> None:
        state.state = how
        state.ended_unix_us = now_us()
        path = self._paths[state.store_id]
        self._reports.tell(
            f"scrub.{how}",
            f"scrub of store {path} {how}: {format_size(state.chunks_done * CHUNK_BYTES)} read, "
            f"{len(state.findings) + state.findings_dropped} bad blocks",
            store_id=str(state.store_id),
            path=path,
            findings=str(len(state.findings) + state.findings_dropped),
        )
        self._save(state)

    def _save(self, state: ScrubState) -> None:
        if state.store_id in self._passes:
            self._passes[state.store_id].saved_s = time.monotonic()
        try:
            state.save(self._directory)
        except OSError as error:
            log.warning("the scrub's state cannot be kept in %s: %s", self._directory, error)

    def _estimated_end_us(self, state: ScrubState) -> int:
        """From the speed since the pass began or was resumed; before there is one, the rate."""
        if state.state != "running":
            return 0
        running = self._passes[state.store_id]
        chunks = state.chunks_done - running.begun_chunks
        elapsed_s = time.monotonic() - running.begun_s
        per_s = chunks / elapsed_s if chunks and elapsed_s else state.rate_bytes / CHUNK_BYTES
        return now_us() + int(1e6 * (state.chunks_total - state.chunks_done) / per_s)

    # Repairs.

    async def _repair(self) -> None:
        """Have every damaged chunk repaired whose time has come."""
        kept: set[Place] = set()
        for state in list(self._states.values()):
            damaged = {finding.chunk_place: finding for finding in state.damaged}
            kept |= damaged.keys()
            for place, finding in damaged.items():
                if time.monotonic() >= self._repair_at_s.get(place, 0.0):
                    self._repair_at_s[place] = time.monotonic() + REPAIR_AGAIN_S
                    await self._repair_chunk(state, finding)
                    self._save(state)
        self._repair_at_s = {k: at for k, at in self._repair_at_s.items() if k in kept}

    async def _repair_chunk(self, state: ScrubState, finding: Finding) -> None:
        request = meta_pb2.RepairChunkRequest(
            volume_id=str(finding.volume_id),
            segment=finding.segment,
            chunk=finding.chunk,
            host_id=str(self._host_id),
            born=finding.born,
        )
        try:
            await self._metadata.repair_chunk(request)
            state.settle(finding, repaired_unix_us=now_us(), note="")
        except NotFound:
            state.forget(finding)  # the volume was deleted, or has no replica here any more
        except NotAttached:
            state.settle(finding, note="waits until the volume is attached")
        except NotInSync:
            state.settle(finding, note="waits until the replica is in sync")
        except ChecksumMismatch:
            state.settle(finding, note="no other replica in sync has the chunk whole")
        except MetadataUnreachable:
            raise  # the others could not be repaired either
        except BlockdError as error:
            state.settle(finding, note=f"{error}; tried again")


def now_us() -> int:
    """Unix time."""
    return time.time_ns() // 1000
