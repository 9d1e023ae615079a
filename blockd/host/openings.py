"""The newest opening of each store that this host knows of: what tells an older copy of a store,
put back in its place, from the store.

An older copy is sound, and its replicas count as in sync; but it lacks what was acknowledged since.
Each opening of a store has a higher incarnation than all before it, durably so before the store
serves anything. It is kept here, in the data directory, after that; so a store that comes with an
incarnation that was seen before, or a lower one, is a copy from before that opening. One without
any replica can be trusted all the same: there is nothing in it that could be old. A store that
takes the place of a lost one begins far above all openings of that (`blockd store format
--store-id`): so should the lost one come back, it is the older one.

Not told: a copy that was made after the store's latest opening, and one that is put back together
with an equally old data directory.
"""

import json
from pathlib import Path
from uuid import UUID

from blockd.host.identity import replace_file
from blockd.model.errors import InvalidArgument, StoreDamaged
from blockd.model.ids import parse_id
from blockd.native import core as native


class Openings:
    """In DATA_DIR/stores.json. Raises StoreDamaged when that is damaged."""

    def __init__(self, data_dir: Path) -> None:
        self._path = data_dir / "stores.json"
        self._newest = self._read()

    def _read(self) -> dict[UUID, int]:
        try:
            values = json.loads(self._path.read_text(encoding="utf-8"))
            return {parse_id(store): int(newest) for store, newest in values.items()}
        except FileNotFoundError:
            return {}
        except (ValueError, AttributeError, TypeError, InvalidArgument) as error:
            raise StoreDamaged(f"{self._path} is damaged: {error}") from error

    def record(self, info: native.StoreInfo) -> None:
        """Take up an opening. Raises StoreDamaged: it is an older copy of a store that was open
        here."""
        newest = self._newest.get(info.store_id, 0)
        if info.incarnation <= newest and info.segment_count > 0:
            error = StoreDamaged(
                f"store {info.path} is an older copy of itself: what was written to store "
                f"{info.store_id} since it was made is missing"
            )
            error.add_note(
                "put the newer one back; or, if that is lost, have its replicas resynced: "
                f"`blockd store format {info.path} --store-id {info.store_id} --force`"
            )
            raise error
        if info.incarnation != newest:
            self._newest[info.store_id] = info.incarnation
            self._write()

    def _write(self) -> None:
        values = {str(store): newest for store, newest in sorted(self._newest.items())}
        replace_file(self._path, json.dumps(values))
