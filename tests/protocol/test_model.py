"""The model of the replication protocol: it holds, and it fails for each rule that is taken out.

Faults and seeds are those with which a failure is found soonest; bigger runs are in `make soak`.
"""

from pathlib import Path

import pytest

from scripts.model import EXACT, HASHED, Configuration, Faults, build, check, mutants

# Rules whose loss shows soon: faults, and the seed. The others take longer, or three members.
FOUND = {
    "READ_ANY": (Faults(), 0),
    "NO_LEASE_WAIT": (Faults(), 0),
    "NO_FENCE": (Faults(links=1), 0),
    "NOT_MISSED": (Faults(links=1), 0),
    "JOIN_EARLY": (Faults(links=1), 0),
    "SEND_TO_PENDING": (Faults(links=2), 1),
    "ACK_READY": (Faults(links=1, power=1, crashes=1), 1),
}


@pytest.fixture(scope="module")
def two() -> Path:
    """The verifier for two members."""
    return build("test-two", Configuration({"N": 2}, flags=(*EXACT, "-DRANDOMIZE")))


def test_every_state_of_two_members_without_faults_holds(two: Path) -> None:
    result = check(two, Faults())
    assert result.failed == ""
    assert result.complete
    assert result.states > 10_000


@pytest.mark.parametrize("name", FOUND)
def test_a_rule_taken_out_is_missed(two: Path, name: str) -> None:
    faults, seed = FOUND[name]
    result = check(two, faults, mutant=mutants()[name], seconds=60, seed=seed)
    assert result.failed, f"{name}: {result}"
    assert result.story


def test_the_story_of_a_failure_is_told(two: Path) -> None:
    result = check(two, Faults(), mutant=mutants()["READ_ANY"])
    assert any("a read of cell" in line for line in result.story)


LATER = {
    "SERVE_WITHOUT_ALL": ("two", Faults(links=2)),
    "STABLE_AT_QUORUM": ("two", Faults(links=1)),
    "ASK_UNMARKED": ("two", Faults(links=1)),
    "ANY_COPY": ("three", Faults()),
    "SHORT_BASE": ("three", Faults(links=1)),
}


@pytest.mark.soak
@pytest.mark.parametrize("name", LATER)
def test_a_rule_taken_out_is_missed_in_the_long_run(name: str) -> None:
    where, faults = LATER[name]
    members = {"two": 2, "three": 3}[where]
    place = build(f"soak-{where}", Configuration({"N": members}, flags=(*EXACT, "-DRANDOMIZE")))
    result = check(place, faults, mutant=mutants()[name], seconds=250)
    assert result.failed, f"{name}: {result}"


@pytest.mark.soak
def test_every_state_of_three_members_without_faults_holds() -> None:
    result = check(build("test-three", Configuration({"N": 3}, flags=HASHED)), Faults())
    assert result.failed == ""
    assert result.complete
