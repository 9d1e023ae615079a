"""`blockctl volume clone` and `blockctl volume flatten`."""

from typing import Annotated

import typer

from blockd.cli.blockctl_output import print_json, print_line, status
from blockd.cli.blockctl_session import Format, Output, VolumeName, run, session_of
from blockd.cli.blockctl_views import volume_view
from blockd.model.units import format_size, parse_duration_ms, parse_size
from blockd.rpc.gen import meta_pb2
from blockd.rpc.gen.types_pb2 import Policy

CREATE_SECONDS = 120.0
FLATTEN_SECONDS = 20.0


def clone(
    context: typer.Context,
    volume: VolumeName,
    name: Annotated[str, typer.Argument(metavar="NEW", help="The new volume's name.")],
    snapshot: Annotated[str, typer.Option(help="Of which snapshot.")],
    size: Annotated[str, typer.Option(help="Default: the snapshot's.")] = "",
    replicas: Annotated[int, typer.Option(min=0, help="Copies; 0: as the volume.")] = 0,
    min_in_sync: Annotated[
        int, typer.Option(min=0, help="Fewest copies in sync to accept writes; 0: as the volume.")
    ] = 0,
    io_timeout: Annotated[
        str, typer.Option(help="How long a request waits for a quorum; default: as the volume.")
    ] = "",
    tenant: Annotated[str, typer.Option(help="Whose it is; default: as the volume.")] = "",
    output: Output = None,
) -> None:
    """Create a volume that shows a snapshot, and can be written. Nothing is copied."""
    request = meta_pb2.CloneVolumeRequest(
        volume=volume,
        snapshot=snapshot,
        name=name,
        size_bytes=min(parse_size(size), (1 << 63) - 1) if size else 0,
        policy=Policy(
            replicas=replicas,
            min_in_sync=min_in_sync,
            io_timeout_ms=parse_duration_ms(io_timeout) if io_timeout else 0,
        ),
        tenant=tenant,
    )
    with status(f"creating {name}"):
        made = run(
            context,
            lambda clients: clients.meta.call(
                lambda meta: meta.CloneVolume, request, timeout=CREATE_SECONDS
            ),
        )
    if session_of(context).chosen(output) is Format.JSON:
        print_json(volume_view(made, segments=True))
    else:
        print_line(
            f"volume {made.name}: {format_size(made.size_bytes)}, shows snapshot {snapshot} of "
            f"{volume}"
        )


def flatten(context: typer.Context, volume: VolumeName, output: Output = None) -> None:
    """Have a clone copy what it shows of its snapshot, so that it needs it no more. The volume must
    be attached. It goes on in the background; `volume show` tells how far it is."""
    request = meta_pb2.FlattenVolumeRequest(volume=volume)
    changed = run(
        context,
        lambda clients: clients.meta.call(
            lambda meta: meta.FlattenVolume, request, timeout=FLATTEN_SECONDS
        ),
    )
    if session_of(context).chosen(output) is Format.JSON:
        print_json(volume_view(changed, segments=False))
    elif changed.HasField("base"):
        print_line(f"volume {changed.name} takes in what it shows of its base")
    else:
        print_line(f"volume {changed.name} has no base")
