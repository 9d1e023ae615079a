"""The mutation check: its list fits the sources, its judgement is sound (on a tiny fake tree)."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("mutants", ROOT / "scripts/mutants.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["mutants"] = module
    spec.loader.exec_module(module)
    return module


mutants = _load()

# A core that is a shell script, and prints what doctest would.
CORE = """#!/bin/sh
limit=3
if [ "$1" = "-tc=nothing like it" ]; then echo '[doctest] test cases: 0 | 0 passed'; exit 0; fi
if [ $limit = hang ]; then exec sleep 60; fi
if [ $limit = abort ]; then echo 'blockd: assertion failed: held at x.cc:1' >&2; kill -ABRT $$; fi
if [ $BLOCKD_SEED -gt $limit ]; then
  echo 'TEST CASE:  a promise is kept'
  echo 'x.cc:1: FATAL ERROR: REQUIRE( wrong.empty() ) is NOT correct!'
  echo "  logged: seed := $BLOCKD_SEED"
  echo "          seed $BLOCKD_SEED: sector 7 was overwritten"
  exit 1
fi
echo '[doctest] test cases: 1 | 1 passed'
"""


def build(source: Path, target: Path) -> None:
    core = (source / "cext/core/core.sh").read_text()
    if "broken" in core:
        raise mutants.MutantError("does not build: broken")
    target.mkdir(exist_ok=True)
    shutil.copy(source / "cext/core/core.sh", target / "test_sim")


def mutant(replace: str, find: str = "limit=3", **other: object) -> mutants.Mutant:
    values = {"name": "m", "file": "core/core.sh", "rule": "Q1", "breaks": "it", "seeds": 3}
    return mutants.Mutant(find=find, replace=replace, **{"tests": ("a",), **values, **other})


@pytest.fixture
def bench(tmp_path: Path) -> mutants.Bench:
    core = tmp_path / "tree/cext/core/core.sh"
    core.parent.mkdir(parents=True)
    core.write_text(CORE)
    core.chmod(0o755)
    (tmp_path / "tree/CMakeLists.txt").write_text("")
    made = mutants.Bench(tmp_path / "tree", tmp_path / "work", 2, build, hangs_after_s=0.5)
    made.prepare()
    return made


def test_every_mutant_fits_the_sources() -> None:
    listed = mutants.load(mutants.MUTANTS)
    assert len(listed) >= 25
    assert mutants.check(ROOT, listed) == []


def test_every_mutant_is_in_the_documentation() -> None:
    page = (ROOT / "docs/SIMULATION.md").read_text()
    assert [one.name for one in mutants.load(mutants.MUTANTS) if f"`{one.name}`" not in page] == []


def test_every_test_of_a_mutant_exists() -> None:
    sources = "".join(path.read_text() for path in (ROOT / "cext/tests/sim").glob("*.cc"))
    for one in mutants.load(mutants.MUTANTS):
        for test in one.tests:
            part = max(test.split("*"), key=len)
            assert part in sources, f"{one.name}: no test case {test}"


def test_the_lowest_seed_that_fails_is_reported(bench: mutants.Bench) -> None:
    finding = bench.try_mutant(mutant("limit=1")).finding
    assert finding == mutants.Finding("a promise is kept", "sector 7 was overwritten", 2)


def test_a_mutant_that_no_seed_finds_is_not_found(bench: mutants.Bench) -> None:
    result = bench.try_mutant(mutant("limit=4"))
    assert result.finding is None
    assert "NOT FOUND in 3 seed(s)" in mutants.row(result)
    assert "NOT FOUND" in mutants.markdown([result])


def test_an_abort_and_a_hang_are_findings(bench: mutants.Bench) -> None:
    aborted = bench.try_mutant(mutant("limit=abort", seeds=1)).finding
    assert aborted
    assert aborted.message.startswith("assertion failed: held")
    hung = bench.try_mutant(mutant("limit=hang", seeds=1)).finding
    assert hung
    assert hung.message.startswith("hangs")


def test_the_copy_is_sound_again_after_each_mutant(bench: mutants.Bench) -> None:
    bench.try_mutant(mutant("limit=1"))
    with pytest.raises(mutants.MutantError, match="mutant m does not build"):
        bench.try_mutant(mutant("broken"))
    assert (bench.copy / "cext/core/core.sh").read_text() == CORE
    assert (bench.root / "cext/core/core.sh").read_text() == CORE


def test_a_text_must_occur_exactly_once(bench: mutants.Bench) -> None:
    wrong = mutants.check(
        bench.root,
        [
            mutant("limit=1"),
            mutant("x", find="no such text"),
            mutant("x", find="limit"),
            mutant("x", file="core/gone.cc"),
        ],
    )
    assert len(wrong) == 3
    assert "occurs 0 times" in wrong[0]
    assert "there is no cext/core/gone.cc" in wrong[2]


def test_a_failure_without_a_mutant_ends_the_check(bench: mutants.Bench) -> None:
    bench.check_sound([mutant("limit=1")])
    with pytest.raises(mutants.MutantError, match="without a mutant, seed 4 of 'a promise"):
        bench.check_sound([mutant("limit=1", seeds=4)])


def test_a_test_that_does_not_exist_ends_the_check(bench: mutants.Bench) -> None:
    with pytest.raises(mutants.MutantError, match="no test case matches nothing like it"):
        bench.check_sound([mutant("limit=1", tests=("nothing like it",))])


def test_only_what_differs_is_copied(bench: mutants.Bench) -> None:
    same, gone = bench.copy / "CMakeLists.txt", bench.copy / "cext/core/old.cc"
    os.utime(same, (1, 1))
    gone.write_text("")
    (bench.copy / "cext/core/core.sh").write_text("left by a run that was cut off")
    bench.prepare()
    assert same.stat().st_mtime == 1
    assert not gone.exists()
    assert (bench.copy / "cext/core/core.sh").read_text() == CORE


ENTRY = """
[[mutant]]
name = "a"
file = "f"
find = "x"
replace = "y"
rule = "Q"
breaks = "b"
tests = ["t"]
"""


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (ENTRY.replace("tests", "test"), "mutant a: .*tests"),
        (ENTRY + 'colour = "red"', "mutant a: .*colour"),
        (ENTRY.replace('"y"', '"x"'), "mutant a: needs a change"),
        (ENTRY + "seeds = 0", "mutant a: needs a change"),
        (ENTRY * 2, "mutant a: two have this name"),
    ],
)
def test_a_bad_entry_is_named(tmp_path: Path, text: str, what: str) -> None:
    path = tmp_path / "mutants.toml"
    path.write_text(text)
    with pytest.raises(mutants.MutantError, match=what):
        mutants.load(path)
