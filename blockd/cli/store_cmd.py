"""`blockd store`: make a store of a device or file, look at one, check one that is not in use."""

import json
import time
from datetime import datetime
from pathlib import Path
from typing import Annotated
from uuid import UUID

import typer
from rich.console import Console
from rich.table import Table

from blockd.cli.qualify_cmd import findings_view, qualify_command
from blockd.cli.store_views import print_dump, print_report
from blockd.host.qualify import check_direct, qualify
from blockd.host.verdicts import verdicts
from blockd.model.errors import AlreadyExists, InvalidArgument, NotFound, StoreDamaged
from blockd.model.ids import new_id, parse_id
from blockd.model.units import format_size, parse_size
from blockd.native import core as native

app = typer.Typer(help="Make and look at stores.", no_args_is_help=True)
app.command("qualify")(qualify_command)

PROBE_BYTES = 1 << 20
FORMAT_SECONDS = 1.0

Output = Annotated[str, typer.Option("-o", "--output", help="table or json.")]
UnusedStore = Annotated[Path, typer.Argument(help="Block device or file of a store not in use.")]


@app.command("format")
def format_command(
    path: Annotated[Path, typer.Argument(help="Block device, or file.")],
    cluster_id: Annotated[
        str, typer.Option(help="The cluster it will belong to (`blockctl cluster status`).")
    ],
    size: Annotated[
        str | None, typer.Option(help="Create a file of this size, for example 100GiB.")
    ] = None,
    journal_size: Annotated[str, typer.Option(help="Default: chosen from the size.")] = "0",
    store_id: Annotated[
        str | None,
        typer.Option(help="In the place of a store that is lost: its replicas are resynced here."),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Destroy what PATH holds, also a store.")
    ] = False,
    no_qualify: Annotated[
        bool, typer.Option("--no-qualify", help="Do not find out what the disk does first.")
    ] = False,
    power_loss_protected: Annotated[
        bool,
        typer.Option(
            "--power-loss-protected",
            help="The device keeps every finished write when its power fails: do not flush it.",
        ),
    ] = False,
) -> None:
    """Format PATH as a store of a cluster. The disk is qualified first, for about a second."""
    size_bytes = parse_size(size) if size is not None else None
    check_target(path, size_bytes, force=force)
    if power_loss_protected and not path.is_block_device():
        unsafe = InvalidArgument(f"{path} is not a block device, so a flush cannot be left out")
        unsafe.add_note("a file's own metadata is not durable without one, whatever the device")
        raise unsafe
    own_id = parse_id(store_id, "--store-id") if store_id is not None else new_id()
    findings = None if no_qualify else find_out(path)
    if no_qualify and path.exists():
        check_direct(path)
    native.format_store(
        str(path),
        store_id=own_id,
        cluster_id=parse_id(cluster_id, "--cluster-id"),
        size_bytes=size_bytes,
        journal_bytes=parse_size(journal_size),
        force=force,
        findings=findings,
        power_loss_protected=power_loss_protected,
        # The one that was lost must be the older one, should it come back.
        incarnation=int(time.time()) if store_id is not None else 0,
    )
    print(f"{path}: store {own_id}")
    if findings is not None:
        print(f"flush: {verdicts(findings)['flush']}")


def find_out(path: Path) -> native.DeviceFindings:
    """Qualify what is about to be formatted. Raises what qualify() raises."""
    if not path.exists():
        return qualify(path.absolute().parent, FORMAT_SECONDS).findings
    return qualify(path, FORMAT_SECONDS, overwrite=True).findings


def check_target(path: Path, size_bytes: int | None, *, force: bool) -> None:
    """Formatting must not destroy by accident. Raises NotFound, AlreadyExists, InvalidArgument."""
    if not path.exists():
        if size_bytes is None:
            missing = NotFound(f"{path} does not exist")
            missing.add_note("give --size to create a file")
            raise missing
        return
    if path.is_dir():
        raise InvalidArgument(f"{path} is a directory")
    try:
        with path.open("rb") as file:
            in_use = any(file.read(PROBE_BYTES))
    except OSError as error:
        raise InvalidArgument(f"cannot read {path}: {error.strerror}") from error
    if in_use and not force:
        holds = AlreadyExists(f"{path} holds data already")
        holds.add_note("if that may be destroyed, say --force")
        raise holds


def existing(path: Path) -> str:
    """The path as the core wants it. Raises NotFound."""
    if not path.exists():
        raise NotFound(f"{path} does not exist")
    return str(path)


def cluster_of(path: str) -> str:
    """The cluster that the store's superblock names."""
    copies = native.dump_store(path, superblock=True)["superblock"]
    return next(str(copy["cluster_id"]) for copy in copies if copy["state"] == "sound")


@app.command("check")
def check_command(
    path: UnusedStore,
    data: Annotated[
        bool, typer.Option("--data", help="Also read every stored block and compare its checksum.")
    ] = False,
    repair: Annotated[
        bool,
        typer.Option("--repair", help="Rewrite damaged copies whose content is beyond doubt."),
    ] = False,
    output: Output = "table",
) -> int:
    """Check every structure of the store at PATH, which nobody may have open.

    Nothing is written, and the journal is replayed in memory only, unless --repair is given. What
    cannot be repaired is not on this device with certainty, only in the replicas of other hosts.

    Exit code: 0 the store is sound, 6 it has problems (what --repair has repaired is none).
    """
    report = native.check_store(existing(path), data=data, repair=repair)
    if output == "json":
        print(json.dumps({"path": str(path), **report}, indent=2))
    else:
        print_report(path, report, data=data)
    return 0 if report["sound"] else StoreDamaged.exit_code


@app.command("dump")
def dump_command(
    path: UnusedStore,
    superblock: Annotated[bool, typer.Option("--superblock", help="Both copies.")] = False,
    checkpoint: Annotated[
        bool, typer.Option("--checkpoint", help="Both copies of the checkpoint record.")
    ] = False,
    segments: Annotated[
        bool, typer.Option("--segments", help="The segment table, the journal replayed.")
    ] = False,
    chunks: Annotated[
        str | None,
        typer.Option(metavar="VOLUME/SEGMENT", help="The slots and checksums of a segment."),
    ] = None,
    journal: Annotated[
        bool, typer.Option("--journal", help="The batches that opening would replay.")
    ] = False,
    output: Output = "table",
) -> None:
    """Show what the store at PATH keeps on its device. Nothing is written.

    Without options: superblock, checkpoint records and segments.
    """
    everything = not (superblock or checkpoint or segments or chunks or journal)
    document = native.dump_store(
        existing(path),
        superblock=superblock or everything,
        checkpoint=checkpoint or everything,
        segments=segments or everything,
        journal=journal,
        chunks_of=parse_segment(chunks) if chunks else None,
    )
    if output == "json":
        print(json.dumps(document, indent=2))
    else:
        print_dump(document)


def parse_segment(text: str) -> tuple[UUID, int]:
    """VOLUME/SEGMENT, as the segment table shows them."""
    volume, separator, index = text.partition("/")
    if not separator or not index.isdecimal():
        raise InvalidArgument(f"--chunks {text}: not VOLUME/SEGMENT, an id and a number")
    return parse_id(volume, "--chunks"), int(index)


@app.command("info")
def info_command(
    path: UnusedStore,
    cluster_id: Annotated[
        str | None, typer.Option(help="Refuse the store of any other cluster.")
    ] = None,
    output: Output = "table",
) -> None:
    """Show the store at PATH, its journal replayed as the daemon would. Nothing is written."""
    cluster_id = cluster_id or cluster_of(existing(path))
    info, replicas = native.look_at_store(
        str(path), cluster_id=parse_id(cluster_id, "--cluster-id")
    )
    values: dict[str, object] = {
        "store_id": str(info.store_id),
        "cluster_id": cluster_id,
        "path": info.path,
        "capacity_bytes": info.capacity_bytes,
        "allocated_bytes": info.allocated_bytes,
        "journal_bytes": info.journal_bytes,
        "journal_used_bytes": info.journal_used_bytes,
        "power_loss_protected": info.power_loss_protected,
        "findings": findings_view(info.findings),
        "replicas": [
            {
                "volume_id": str(replica.volume_id),
                "segment": replica.segment,
                "block_count": replica.block_count,
                "chunk_count": replica.chunk_count,
                "promised_epoch": replica.promised_epoch,
            }
            for replica in replicas
        ],
    }
    if output == "json":
        print(json.dumps(values, indent=2))
        return
    table = Table("property", "value", box=None, header_style="bold")
    for name, value in values.items():
        if name == "replicas":
            table.add_row(name, str(len(replicas)))
        elif name == "findings":
            add_findings(table, info.findings)
        elif isinstance(value, bool):
            table.add_row(name, "yes" if value else "no")
        elif isinstance(value, int):
            table.add_row(name.removesuffix("_bytes"), format_size(value))
        else:
            table.add_row(name, str(value))
    Console().print(table)


def add_findings(table: Table, findings: native.DeviceFindings | None) -> None:
    """A row for each verdict."""
    if findings is None:
        table.add_row("qualified", "never")
        return
    when = datetime.fromtimestamp(findings.probed_unix_s).astimezone()
    table.add_row("qualified", when.strftime("%Y-%m-%d %H:%M:%S"))
    for subject, verdict in verdicts(findings).items():
        table.add_row(f"  {subject}", verdict)
