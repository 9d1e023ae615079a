"""`blockctl volume verify`: do all replicas that count as in sync hold the same?

Segment by segment each host lists its chunks' versions and digests, with --read after having read
and checked every block. Chunks that differ are asked for again while writes are under way
(rules/digests.py says what counts).
"""

import asyncio
from dataclasses import dataclass, field
from typing import Any

from rich.markup import escape

from blockd.cli.blockctl_output import print_facts, print_line, print_table, progress_bar
from blockd.cli.blockctl_session import Clients
from blockd.model.errors import BlockdError, ChecksumMismatch, DiskError, LinkLost
from blockd.model.units import CHUNK_BYTES, SEGMENT_BYTES
from blockd.rpc.gen import host_pb2
from blockd.rpc.gen.types_pb2 import Host, Segment, Volume
from blockd.rules.digests import Difference, Digest, compare

LIST_SECONDS = 60.0
READ_SECONDS = 600.0  # a whole segment from a slow disk
RETRIES = 10
RETRY_SECONDS = 0.3

Listing = dict[int, Digest]


@dataclass
class Report:
    """What was found. failures: (segment, host, error) of replicas that could not be listed."""

    volume: Volume
    read: bool
    segment_count: int = 0
    chunk_count: int = 0
    replica_count: int = 0
    differences: list[tuple[int, Difference]] = field(default_factory=list)
    failures: list[tuple[int, str, BlockdError]] = field(default_factory=list)

    @property
    def is_damaged(self) -> bool:
        """Replicas differ, or a host found a block that does not match its checksum."""
        return bool(self.differences) or any(
            isinstance(error, ChecksumMismatch | DiskError) for _, _, error in self.failures
        )

    @property
    def exit_code(self) -> int:
        """0, 5 or 6, see the command's help."""
        if self.is_damaged:
            return ChecksumMismatch.exit_code
        return LinkLost.exit_code if self.failures else 0

    def view(self) -> dict[str, Any]:
        """For -o json."""
        return {
            "volume": self.volume.name,
            "volume_id": self.volume.id,
            "read": self.read,
            "identical": self.exit_code == 0,
            "segments": self.segment_count,
            "chunks": self.chunk_count,
            "replicas": self.replica_count,
            "differences": [_difference_view(index, one) for index, one in self.differences],
            "failures": [
                {"segment": index, "host": host, "error": error.name, "message": error.message}
                for index, host, error in self.failures
            ],
        }


def _difference_view(index: int, one: Difference) -> dict[str, Any]:
    return {
        "segment": index,
        "chunk": one.chunk,
        "offset_bytes": index * SEGMENT_BYTES + one.chunk * CHUNK_BYTES,
        "same_version": one.is_damage,
        "replicas": {
            host: {
                "epoch": digest.version[0],
                "seq": digest.version[1],
                "valid_mask": digest.valid_mask,
                "digest": f"{digest.digest:08x}",
            }
            for host, digest in one.holds.items()
        },
    }


async def verify(clients: Clients, name: str, *, read: bool) -> Report:
    """Check the whole volume. Raises only what finding the volume raises."""
    volume = await clients.volume(name)
    hosts = await clients.list_hosts()
    report = Report(volume, read)
    with progress_bar(unit="segments") as progress:
        task = progress.add_task(f"verifying {volume.name}", total=len(volume.segments))
        for segment in volume.segments:
            await _verify_segment(clients, segment, hosts, report)
            progress.advance(task)
    return report


async def _verify_segment(
    clients: Clients, segment: Segment, hosts: dict[str, Host], report: Report
) -> None:
    listings = await _list_all(clients, segment, hosts, report, read=report.read)
    report.segment_count += 1
    report.replica_count += len(listings)
    report.chunk_count += len(set().union(*listings.values()))
    differences = compare(listings)
    for _ in range(RETRIES):
        if not differences or all(one.is_damage for one in differences):
            break
        await asyncio.sleep(RETRY_SECONDS)
        segment = await _refreshed(clients, report.volume, segment)
        again = Report(report.volume, read=False)
        listings = await _list_all(clients, segment, hosts, again, read=False)
        differences = compare(listings, [one.chunk for one in differences])
    report.differences.extend((segment.index, one) for one in differences)


async def _refreshed(clients: Clients, volume: Volume, segment: Segment) -> Segment:
    """The segment now: a replica that has left the in-sync set need not be the same."""
    current = await clients.volume(volume.id)
    return current.segments[segment.index]


async def _list_all(
    clients: Clients, segment: Segment, hosts: dict[str, Host], report: Report, *, read: bool
) -> dict[str, Listing]:
    """Of each in-sync replica by its host's name; those that fail go to the report."""
    members = [member for member in segment.members if member.in_sync]
    found = await asyncio.gather(
        *(
            _list_one(clients, hosts.get(member.host_id), report.volume, segment.index, read=read)
            for member in members
        )
    )
    listings = {}
    for member, listing in zip(members, found, strict=True):
        if isinstance(listing, BlockdError):
            report.failures.append((segment.index, member.host_name, listing))
        else:
            listings[member.host_name] = listing
    return listings


async def _list_one(
    clients: Clients, host: Host | None, volume: Volume, index: int, *, read: bool
) -> Listing | BlockdError:
    if host is None:
        return LinkLost("the host is unknown")
    request = host_pb2.ListDigestsRequest(volume_id=volume.id, segment=index, read=read)
    listing: Listing = {}
    try:
        batches = clients.hosts.stream(
            host.grpc_endpoint,
            lambda stub: stub.ListDigests,
            request,
            timeout=READ_SECONDS if read else LIST_SECONDS,
        )
        async for batch in batches:
            for one in batch.digests:
                listing[one.chunk] = Digest((one.epoch, one.seq), one.valid_mask, one.digest)
    except BlockdError as error:
        return error
    return listing


def print_report(report: Report) -> None:
    """For people."""
    print_facts(
        [
            ("volume", report.volume.name),
            ("segments", str(report.segment_count)),
            ("replicas in sync", str(report.replica_count)),
            ("chunks", str(report.chunk_count)),
            ("data", "read and checked" if report.read else "not read (--read reads it)"),
        ]
    )
    if report.failures:
        rows = [
            [str(index), host, f"[red]{escape(error.message)}[/]"]
            for index, host, error in report.failures
        ]
        print_table(["segment>", "host", "could not be verified"], rows, "")
    if report.differences:
        rows = [_difference_row(index, one) for index, one in report.differences]
        print_table(["segment>", "chunk>", "offset>", "replicas (version, content)"], rows, "")
    if report.exit_code == 0:
        print_line("[green]all replicas in sync hold the same[/]")
    elif report.differences and not report.volume.HasField("attachment"):
        print_line(
            "[yellow]the volume is not attached: the next attachment settles writes that were in "
            "flight; attach it and verify again[/]"
        )


def _difference_row(index: int, one: Difference) -> list[str]:
    held = [
        f"{host}: {digest.version[0]}.{digest.version[1]}, {digest.digest:08x}"
        for host, digest in sorted(one.holds.items())
    ]
    offset = index * SEGMENT_BYTES + one.chunk * CHUNK_BYTES
    return [str(index), str(one.chunk), str(offset), "\n".join(held)]
