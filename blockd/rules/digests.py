"""Whether replicas of a segment hold the same: the verdict of `blockctl volume verify`.

A listing is taken while the volume may be in use, so that a chunk can differ because a write has
reached one replica and not yet another. Such a chunk is asked for again; one whose replicas have
the same version and still differ is damage at once.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Digest:
    """One chunk of one replica. valid_mask: the blocks it holds, a bit each."""

    version: tuple[int, int]
    valid_mask: int
    digest: int


ABSENT = Digest((0, 0), 0, 0)


@dataclass(frozen=True)
class Difference:
    """A chunk that is not the same everywhere. holds: each host's digest, else ABSENT."""

    chunk: int
    holds: Mapping[str, Digest]

    @property
    def is_damage(self) -> bool:
        """Replicas that agree on the version and not on the content: waiting cannot mend it."""
        by_version: dict[tuple[int, int], tuple[int, int]] = {}
        for digest in self.holds.values():
            content = _content(digest)
            if by_version.setdefault(digest.version, content) != content:
                return True
        return False


def compare(
    listings: Mapping[str, Mapping[int, Digest]], chunks: Iterable[int] | None = None
) -> list[Difference]:
    """The chunks that differ, in order. listings: for each host, its chunks.

    chunks: look at these only; None: at all that any host has. A chunk without valid blocks reads
    as zeros and is the same as one that is not there.
    """
    wanted = sorted(set().union(*listings.values()) if chunks is None else set(chunks))
    differences = []
    for chunk in wanted:
        holds = {host: listing.get(chunk, ABSENT) for host, listing in listings.items()}
        if len({_content(digest) for digest in holds.values()}) > 1:
            differences.append(Difference(chunk, holds))
    return differences


def _content(digest: Digest) -> tuple[int, int]:
    return (digest.valid_mask, digest.digest) if digest.valid_mask else (0, 0)
