"""What is kept of a store's scrub across restarts: SCRUB_DIR/STORE_ID.json in the data directory.

The cursor may lie behind what was read: what is read twice costs time and finds the same. A file
that is damaged or missing costs one pass.
"""

import json
import logging
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from uuid import UUID

from blockd.host.identity import replace_file
from blockd.model.units import BLOCKS_PER_CHUNK
from blockd.native.values import ScrubCursor

log = logging.getLogger(__name__)

SCRUB_DIR = "scrub"

# Volume, segment, the block or chunk there, and of a past content the era that it was born in.
Place = tuple[UUID, int, int, int]


@dataclass(frozen=True)
class Finding:
    """One bad block. repaired_unix_us 0: not repaired; note: why not. born: not 0 of a content that
    only snapshots show."""

    volume_id: UUID
    segment: int
    block: int  # of the segment
    error: str
    found_unix_us: int
    repaired_unix_us: int = 0
    note: str = ""
    born: int = 0

    @property
    def place(self) -> Place:
        """The block; what tells it from others."""
        return (self.volume_id, self.segment, self.block, self.born)

    @property
    def chunk_place(self) -> Place:
        """The chunk; what is repaired as a whole."""
        return (self.volume_id, self.segment, self.chunk, self.born)

    @property
    def chunk(self) -> int:
        """The chunk of the segment that the block is in."""
        return self.block // BLOCKS_PER_CHUNK


@dataclass
class ScrubState:
    """The latest pass over one store. due_unix_us: what the schedule counts from."""

    store_id: UUID
    due_unix_us: int
    state: str = "never"  # never, running, stopped, finished
    started_unix_us: int = 0
    ended_unix_us: int = 0
    rate_bytes: int = 0
    chunks_done: int = 0
    chunks_total: int = 0
    cursor: ScrubCursor | None = None
    findings_dropped: int = 0
    findings: dict[Place, Finding] = field(default_factory=dict)

    def add(self, finding: Finding) -> bool:
        """False: it is known."""
        if finding.place in self.findings:
            return False
        self.findings[finding.place] = finding
        return True

    @property
    def damaged(self) -> list[Finding]:
        """Those that are not repaired."""
        return [one for one in self.findings.values() if not one.repaired_unix_us]

    def settle(self, of: Finding, **changes: object) -> None:
        """Change all findings in the same chunk as `of` that are not repaired."""
        for one in self.damaged:
            if one.chunk_place == of.chunk_place:
                self.findings[one.place] = replace(one, **changes)  # type: ignore[arg-type]

    def forget(self, of: Finding) -> None:
        """Drop all findings in the same chunk: what they were about is gone."""
        kept = [one for one in self.findings.values() if one.chunk_place != of.chunk_place]
        self.findings = {one.place: one for one in kept}

    def save(self, directory: Path) -> None:
        """Raises OSError."""
        values = asdict(self) | {"findings": [asdict(one) for one in self.findings.values()]}
        replace_file(directory / f"{self.store_id}.json", json.dumps(values, default=str))


def load(directory: Path, store_id: UUID, now_unix_us: int) -> ScrubState:
    """What is known of a store, which may be nothing."""
    path = directory / f"{store_id}.json"
    fresh = ScrubState(store_id, due_unix_us=now_unix_us)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        cursor = values.pop("cursor")
        findings = [_finding(one) for one in values.pop("findings")]
        state = ScrubState(**(values | {"store_id": store_id}))
        state.cursor = _cursor(cursor) if cursor is not None else None
        state.findings = {one.place: one for one in findings}
    except FileNotFoundError:
        return fresh
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        log.warning("%s is damaged (%s): the store's next scrub begins anew", path, error)
        return fresh
    return state


def _cursor(values: dict[str, object]) -> ScrubCursor:
    return ScrubCursor(**_with_id(values))  # type: ignore[arg-type]


def _finding(values: dict[str, object]) -> Finding:
    return Finding(**_with_id(values))  # type: ignore[arg-type]


def _with_id(values: dict[str, object]) -> dict[str, object]:
    return values | {"volume_id": UUID(str(values["volume_id"]))}
