"""The newest opening of each store that this host knows of: what tells an older copy of a store,
put back in its place, from the store.

An older copy is sound, and its replicas count as in sync; but it lacks what was acknowledged since.
Each opening of a store has a higher incarnation than all before it, durably so before the store
serves anything. It is kept here, in the data directory, after that. So a store that has not seen
the incarnation kept here is a copy from before that opening, and the core, which is told of it,
does not open it (OlderCopy): opening it would write a higher one to it. One without any replica is
opened all the same: there is nothing in it that could be old. A store that takes the place of a
lost one begins far above all openings of that (`blockd store format --store-id`): so should the
lost one come back, it is the older one.

Not told: a copy that was made after the store's latest opening, and one that is put back together
with an equally old data directory.
"""

import json
from collections.abc import Mapping
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

    @property
    def newest(self) -> Mapping[UUID, int]:
        """The newest incarnation of each store."""
        return self._newest

    def record(self, info: native.StoreInfo) -> None:
        """Take up an opening, durably. What is known is never replaced by an older one."""
        if info.incarnation > self._newest.get(info.store_id, 0):
            self._newest[info.store_id] = info.incarnation
            self._write()

    def _write(self) -> None:
        values = {str(store): newest for store, newest in sorted(self._newest.items())}
        replace_file(self._path, json.dumps(values))
