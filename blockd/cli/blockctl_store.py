"""`blockctl store`: how full every store of every host is, and what is placed and stored there."""

from typing import Annotated, Any

import typer

from blockd.cli.blockctl_output import (
    age_text,
    print_facts,
    print_json,
    print_table,
    state_text,
)
from blockd.cli.blockctl_session import Clients, Format, Output, run, session_of
from blockd.cli.blockctl_stored import StoredAt, ask_hosts
from blockd.cli.blockctl_views import View, host_state_name, store_view
from blockd.model.errors import NotFound
from blockd.model.units import format_size
from blockd.rpc.gen import meta_pb2
from blockd.rpc.gen.meta_pb2 import PlacedStore
from blockd.rpc.gen.types_pb2 import Volume
from blockd.rpc.status import hinted

app = typer.Typer(help="Stores: what hosts keep data on.", no_args_is_help=True)

COLUMNS = (
    "store",
    "host",
    "path",
    "state",
    "stored>",
    "in snapshots>",
    "free>",
    "capacity>",
    "used>",
    "logical>",
    "journal>",
    "segments>",
)


@app.command("list")
def list_stores(context: typer.Context, output: Output = None) -> None:
    """List all stores: capacity, what is stored, what is placed there, and totals."""
    stores = run(context, _all)
    if session_of(context).chosen(output) is Format.JSON:
        views = [placed_view(one) for one in stores]
        print_json({"stores": views, "totals": totals(views)})
        return
    rows = [_row(placed_view(one)) for one in stores]
    if len(rows) > 1:
        rows.append(_totals_row(totals([placed_view(one) for one in stores])))
    print_table(COLUMNS, rows, "no stores")


@app.command("show")
def show(
    context: typer.Context,
    store: Annotated[
        str, typer.Argument(metavar="STORE", help="Id of a store, its beginning, or its path.")
    ],
    output: Output = None,
) -> None:
    """Show a store, and the volumes that have replicas there."""

    async def ask(clients: Clients) -> tuple[PlacedStore, list[StoredAt] | None, list[Volume]]:
        found = pick(await _all(clients), store)
        answers = await ask_hosts(clients, {found.host_id})
        volumes = await clients.meta.call(
            lambda meta: meta.ListVolumes, meta_pb2.ListVolumesRequest(), idempotent=True
        )
        stored = answers[found.host_id]
        here = [one for one in stored if one.store_id == found.store.id] if stored else stored
        return found, here, list(volumes.volumes)

    found, stored, volumes = run(context, ask)
    names = {volume.id: volume.name for volume in volumes}
    view = placed_view(found)
    view["volumes"] = None if stored is None else [_held_view(one, names) for one in stored]
    if session_of(context).chosen(output) is Format.JSON:
        print_json(view)
    else:
        _print(view)


async def _all(clients: Clients) -> list[PlacedStore]:
    answer = await clients.meta.call(
        lambda meta: meta.ListStores, meta_pb2.ListStoresRequest(), idempotent=True
    )
    return list(answer.stores)


def pick(stores: list[PlacedStore], wanted: str) -> PlacedStore:
    """The one that is meant. Raises NotFound, also when several are."""
    found = [one for one in stores if wanted in (one.store.id, one.store.path)]
    found = found or [one for one in stores if wanted and one.store.id.startswith(wanted)]
    if len(found) == 1:
        return found[0]
    why = f"{len(found)} stores are" if found else "no store is"
    raise hinted(NotFound(f"{why} meant by {wanted!r}"), "blockctl store list")


def placed_view(one: PlacedStore) -> View:
    """A store with its place. State: "down" with its host, else as the host says; the figures are
    those of reported_unix_us."""
    state = host_state_name(one.host_state)
    return store_view(one.store) | {
        "host": one.host_name,
        "host_id": one.host_id,
        "site": one.site,
        "state": (one.store.state or "ok") if state == "up" else state,
        "free_bytes": one.store.capacity_bytes - one.store.allocated_bytes,
        "logical_bytes": one.logical_bytes,
        "reported_unix_us": one.reported_unix_us,
    }


def totals(views: list[View]) -> dict[str, int]:
    """Sums over all stores."""
    names = (
        "capacity_bytes",
        "allocated_bytes",
        "past_bytes",
        "free_bytes",
        "logical_bytes",
        "journal_bytes",
        "journal_used_bytes",
        "segment_count",
    )
    return {"stores": len(views)} | {name: sum(view[name] for view in views) for name in names}


def _held_view(one: StoredAt, names: dict[str, str]) -> View:
    return {
        "volume": names.get(one.volume_id, ""),
        "volume_id": one.volume_id,
        "segment_count": one.segment_count,
        "stored_bytes": one.stored_bytes,
        "past_bytes": one.past_bytes,
    }


def _state(view: View) -> str:
    text = state_text(view["state"])
    if view["state"] != "down":
        return text
    return f"{text}, as of {age_text(view['reported_unix_us'])}"


def _space(view: dict[str, Any]) -> list[str]:
    used = 100 * view["allocated_bytes"] / max(view["capacity_bytes"], 1)
    return [
        format_size(view["allocated_bytes"]),
        format_size(view["past_bytes"]),
        format_size(view["free_bytes"]),
        format_size(view["capacity_bytes"]),
        f"{used:.1f} %",
        format_size(view["logical_bytes"]),
        f"{format_size(view['journal_used_bytes'])} of {format_size(view['journal_bytes'])}",
        str(view["segment_count"]),
    ]


def _row(view: View) -> list[str]:
    return [view["id"][:8], view["host"], view["path"], _state(view), *_space(view)]


def _totals_row(view: dict[str, int]) -> list[str]:
    return ["[bold]total[/]", "", "", "", *_space(view)]


def _print(view: View) -> None:
    stored, past, free, capacity, used, logical, journal, segments = _space(view)
    print_facts(
        [
            ("store", view["id"]),
            ("host", f"{view['host']} at {view['site']}"),
            ("path", view["path"]),
            ("state", _state(view)),
            ("stored", f"{stored} of {capacity}, {used}"),
            ("in snapshots", f"{past} of it, that only snapshots hold"),
            ("free", free),
            ("logical", f"{logical} placed here, in {segments} segments"),
            ("journal", f"{journal} used"),
        ]
    )
    if view["volumes"] is None:
        print_table(["volume"], [], "the host does not answer: what each volume stores is unknown")
        return
    rows = [
        [
            one["volume"] or f"{one['volume_id']} (deleted)",
            str(one["segment_count"]),
            format_size(one["stored_bytes"]),
            format_size(one["past_bytes"]),
        ]
        for one in view["volumes"]
    ]
    print_table(["volume", "segments>", "stored>", "in snapshots>"], sorted(rows), "no replicas")
