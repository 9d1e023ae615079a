"""Opening this host's stores at start, and formatting those that hold nothing yet when told to.

Formatting never destroys: only a device whose first MiB is zero, or an empty file, is formatted
here. A store that is damaged, foreign, newer, or an older copy of itself stops the daemon with one
line, because an operator must act.
"""

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path
from uuid import UUID

from blockd.host.openings import Openings
from blockd.model.errors import BlockdError, DiskError, NotFound, OlderCopy, StoreNotFormatted
from blockd.model.ids import new_id
from blockd.native import core as native

log = logging.getLogger(__name__)

PROBE_BYTES = 1 << 20


async def open_stores(
    core: native.Core,
    paths: Sequence[Path],
    cluster_id: UUID,
    openings: Openings,
    *,
    format_empty: bool,
    journal: int,
) -> list[native.StoreInfo]:
    """Open every store, in order. Raises StoreNotFormatted, StoreForeign, StoreDamaged, OlderCopy,
    StoreTooNew, StoreInUse, StoreTooSmall, NotFound, DiskError: each names the path."""
    return [
        await open_store(
            core, path, cluster_id, openings, format_empty=format_empty, journal=journal
        )
        for path in paths
    ]


async def open_store(
    core: native.Core,
    path: Path,
    cluster_id: UUID,
    openings: Openings,
    *,
    format_empty: bool,
    journal: int,
) -> native.StoreInfo:
    """Open one store, formatting it first if it is empty and that is wanted."""
    try:
        empty = await asyncio.to_thread(holds_nothing, path)
        if empty and format_empty:
            await asyncio.to_thread(
                native.format_store,
                str(path),
                store_id=new_id(),
                cluster_id=cluster_id,
                journal_bytes=journal,
            )
            log.info("store %s formatted", path)
        info = await core.open_store(str(path), newest=openings.newest)
    except StoreNotFormatted as error:
        error.add_note("`blockd store format` makes a store of it, `blockd host --format` on start")
        raise named(error, path) from None
    except OlderCopy as error:
        error.add_note(
            "if the newest is lost, have its replicas resynced: `blockd store format --store-id` "
            "with its id, and `--force`, on the copy"
        )
        raise named(error, path) from None
    except BlockdError as error:
        raise named(error, path) from error
    await asyncio.to_thread(openings.record, info)
    log.info("store %s open: %s, %d replicas", path, info.store_id, info.segment_count)
    return info


def holds_nothing(path: Path) -> bool:
    """Whether the first MiB is all zero. Raises NotFound, DiskError."""
    try:
        with path.open("rb") as file:
            return not any(file.read(PROBE_BYTES))
    except FileNotFoundError as error:
        raise NotFound(
            f"store {path} does not exist (`blockd store format` creates one)"
        ) from error
    except OSError as error:
        raise DiskError(f"store {path} cannot be read: {error.strerror}") from error


def named(error: BlockdError, path: Path) -> BlockdError:
    """The same error with the store's path in its line."""
    if str(path) in error.message:
        return error
    fresh = type(error)(f"store {path}: {error.message}", **error.context)
    for note in getattr(error, "__notes__", ()):
        fresh.add_note(note)
    return fresh
