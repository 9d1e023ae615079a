"""The named faults that every `make test` plays, on one cluster; `make soak` plays all of them.

What each is about, and what must hold: scenarios.py.
"""

from pathlib import Path

import pytest

from tests.faults.field import Field
from tests.faults.scenarios import SCENARIOS, play

SEED = 1
CHOSEN = (
    "the holder is killed",
    "the holder is frozen replaced and thawed",
    "the holder is cut off",
    "the holder is cut from the metadata",
    "a replica is killed",
    "a replica hears but is not heard",
    "two replicas flap",
    "the metadata leader is killed in a takeover",
    "all hosts restart one by one",
)

pytestmark = pytest.mark.timeout(180)


@pytest.mark.parametrize("name", CHOSEN)
def test_no_disk_could_tell(field: Field, name: str, tmp_path: Path) -> None:
    print(play(field, name, SCENARIOS[name], SEED, tmp_path))
