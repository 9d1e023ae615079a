"""`blockctl cluster`."""

from dataclasses import dataclass

import typer

from blockd.cli.blockctl_output import print_facts, print_json, print_table, state_text
from blockd.cli.blockctl_session import Clients, Format, Output, run, session_of
from blockd.cli.blockctl_views import host_state
from blockd.model.units import format_size
from blockd.rpc.channel import MetaClient
from blockd.rpc.gen import meta_pb2
from blockd.rpc.gen.types_pb2 import Host, Volume

app = typer.Typer(help="The cluster as a whole.", no_args_is_help=True)


@dataclass
class Status:
    """instances: each known endpoint of the metadata service, and whether it can be reached."""

    cluster: meta_pb2.Cluster
    instances: dict[str, bool]
    sites: list[str]
    hosts: list[Host]
    volumes: list[Volume]


@app.command("status")
def status(context: typer.Context, output: Output = None) -> None:
    """Show metadata instances, hosts, volumes and capacity in one view."""
    found = run(context, _ask)
    if session_of(context).chosen(output) is Format.JSON:
        print_json(_view(found))
    else:
        _print(found)


async def _ask(clients: Clients) -> Status:
    meta = clients.meta
    cluster = await meta.call(
        lambda stub: stub.GetCluster, meta_pb2.GetClusterRequest(), idempotent=True
    )
    sites = await meta.call(
        lambda stub: stub.ListSites, meta_pb2.ListSitesRequest(), idempotent=True
    )
    volumes = await meta.call(
        lambda stub: stub.ListVolumes, meta_pb2.ListVolumesRequest(), idempotent=True
    )
    hosts = await clients.list_hosts()
    known = sorted({*cluster.meta_endpoints, *meta.endpoints})
    async with MetaClient(known) as everyone:
        instances = {endpoint: await everyone.reachable(endpoint) for endpoint in known}
    names = [site.name for site in sites.sites]
    return Status(cluster, instances, names, list(hosts.values()), list(volumes.volumes))


def _view(found: Status) -> dict[str, object]:
    return {
        "cluster_id": found.cluster.cluster_id,
        "leader": found.cluster.leader,
        "meta": [
            {"endpoint": endpoint, "reachable": reachable}
            for endpoint, reachable in found.instances.items()
        ],
        "sites": found.sites,
        "hosts_up": sum(host_state(host) == "up" for host in found.hosts),
        "hosts_down": sorted(host.name for host in found.hosts if host_state(host) != "up"),
        "volumes": len(found.volumes),
        "volumes_attached": sum(volume.HasField("attachment") for volume in found.volumes),
        "volumes_degraded": sorted(volume.name for volume in found.volumes if volume.degraded),
        "capacity_bytes": _sum(found.hosts, "capacity_bytes"),
        "allocated_bytes": _sum(found.hosts, "allocated_bytes"),
        "provisioned_bytes": sum(volume.size_bytes for volume in found.volumes),
    }


def _sum(hosts: list[Host], name: str) -> int:
    return sum(int(getattr(store, name)) for host in hosts for store in host.stores)


def _print(found: Status) -> None:
    view = _view(found)
    down, degraded = view["hosts_down"], view["volumes_degraded"]
    assert isinstance(down, list)
    assert isinstance(degraded, list)
    print_facts(
        [
            ("cluster", found.cluster.cluster_id),
            ("leader", found.cluster.leader or "[yellow]being elected[/]"),
            ("sites", ", ".join(found.sites)),
            ("hosts", f"{view['hosts_up']} up" + _listed(down, "down")),
            (
                "volumes",
                f"{view['volumes']}, {view['volumes_attached']} attached"
                + _listed(degraded, "degraded"),
            ),
            (
                "space",
                f"{format_size(_sum(found.hosts, 'allocated_bytes'))} used of "
                f"{format_size(_sum(found.hosts, 'capacity_bytes'))}; "
                f"{format_size(sum(volume.size_bytes for volume in found.volumes))} provisioned",
            ),
        ]
    )
    rows = [
        [endpoint, state_text("up" if reachable else "down")]
        for endpoint, reachable in found.instances.items()
    ]
    print_table(["metadata service", "state"], rows, "")


def _listed(names: list[str], what: str) -> str:
    return f", [red]{len(names)} {what}: {', '.join(names)}[/]" if names else ""
