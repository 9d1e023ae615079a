"""`blockd store check` and `dump` on real files: what they find, print and leave alone."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from blockd.cli import blockd
from blockd.model.units import BLOCK_BYTES
from tests.native.hosts import Host, single

Command = Callable[..., tuple[int, Any]]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs `blockd store ...`; returns the exit code and the output, parsed when it is JSON."""

    def run(*arguments: str | Path) -> tuple[int, Any]:
        code = blockd.run(["store", *map(str, arguments)])
        captured = capsys.readouterr()
        out = captured.out + captured.err
        return code, json.loads(out) if "json" in arguments and code in (0, 6) else out

    return run


@pytest.fixture
async def store(tmp_path: Path) -> tuple[Path, UUID]:
    """A closed store with a volume of one segment, 40 blocks written; its path and the volume."""
    host, cluster = await single(tmp_path)
    try:
        await host.core.write(cluster.volume_id, 0, b"\x5a" * BLOCK_BYTES * 40)
        await host.core.flush(cluster.volume_id)
        await host.core.detach(cluster.volume_id)
    finally:
        await cluster.close()
    return host.store_path, cluster.volume_id


def damage(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def test_a_sound_store_is_said_to_be_sound_and_left_alone(
    store: tuple[Path, UUID], command: Command
) -> None:
    path, _ = store
    before = hashlib.sha256(path.read_bytes()).digest()
    code, report = command("check", path, "--data", "-o", "json")
    assert code == 0
    assert report["sound"]
    assert report["opens"]
    assert report["blocks_verified"] == 40
    assert report["chunks"] == 3
    code, text = command("check", path)
    assert code == 0
    assert "is sound" in text
    assert command("dump", path)[0] == 0
    assert hashlib.sha256(path.read_bytes()).digest() == before


def test_a_damaged_superblock_is_repaired_on_demand(
    store: tuple[Path, UUID], command: Command
) -> None:
    path, _ = store
    damage(path, 0, b"\xff" * 512)
    code, text = command("check", path)
    assert code == 6
    assert "superblock" in text
    assert "--repair" in text
    assert "it opens all the same" in text
    code, report = command("check", path, "--repair", "-o", "json")
    assert code == 0
    assert [one["structure"] for one in report["repaired"]] == ["superblock"]
    assert command("check", path)[0] == 0


def test_a_rotten_block_is_named_by_its_place(store: tuple[Path, UUID], command: Command) -> None:
    path, volume = store
    code, document = command("dump", path, "--chunks", f"{volume}/0", "-o", "json")
    assert code == 0
    chunk = next(one for one in document["chunks"] if one["chunk"] == 1)
    damage(path, chunk["device_offset_bytes"] + 3 * BLOCK_BYTES + 100, b"rot")
    assert command("check", path)[0] == 0
    code, report = command("check", path, "--data", "--repair", "-o", "json")
    assert code == 6
    (problem,) = report["problems"]
    assert problem["volume_id"] == str(volume)
    assert (problem["segment"], problem["chunk"], problem["block"]) == (0, 1, 19)
    assert problem["device_offset_bytes"] == chunk["device_offset_bytes"] + 3 * BLOCK_BYTES


def test_many_problems_alike_are_not_listed_one_by_one(
    store: tuple[Path, UUID], command: Command
) -> None:
    path, _ = store
    (chunk,) = [c for c in chunks_of(store, command) if c["chunk"] == 0]
    for block in range(8):
        damage(path, chunk["device_offset_bytes"] + block * BLOCK_BYTES, b"rot")
    code, out = command("check", path, "--data")
    assert code == 6
    assert out.count("  to do: ") == 3
    assert "5 more like this" in out
    _, report = command("check", path, "--data", "-o", "json")
    assert len(report["problems"]) == 8


def chunks_of(store: tuple[Path, UUID], command: Command) -> list[dict[str, Any]]:
    path, volume = store
    code, document = command("dump", path, "--chunks", f"{volume}/0", "-o", "json")
    assert code == 0
    return document["chunks"]


def test_dump_shows_every_structure(store: tuple[Path, UUID], command: Command) -> None:
    path, volume = store
    code, text = command("dump", path)
    assert code == 0
    for word in ("superblock:", "checkpoint:", "segments:", str(volume), "generation"):
        assert word in text
    code, document = command("dump", path, "--segments", "--journal", "-o", "json")
    assert (code, set(document)) == (0, {"segments", "journal"})
    assert document["segments"][0]["volume_id"] == str(volume)
    code, text = command("dump", path, "--chunks", f"{volume}/0")
    assert code == 0
    assert "valid mask 0xffff" in text
    assert command("dump", path, "--chunks", f"{volume}/7")[0] == 3
    assert command("dump", path, "--chunks", "nonsense")[0] == 2


def test_info_needs_no_cluster_id(store: tuple[Path, UUID], command: Command) -> None:
    path, volume = store
    before = path.read_bytes()
    code, info = command("info", path, "-o", "json")
    assert code == 0
    assert path.read_bytes() == before  # else a copy would come to be as new as its store
    assert [(replica["segment"], replica["chunk_count"]) for replica in info["replicas"]] == [
        (0, 3)
    ]
    assert info["allocated_bytes"] == 3 << 16
    assert [replica["volume_id"] for replica in info["replicas"]] == [str(volume)]
    assert command("info", path, "--cluster-id", str(uuid4()))[0] == 7


async def test_a_store_in_use_is_refused(tmp_path: Path, command: Command) -> None:
    async with Host(tmp_path, uuid4()) as host:
        for action in (["check"], ["check", "--repair"], ["dump"]):
            code, text = command(*action, host.store_path)
            assert code == 7
            assert "is open in another process" in text


def test_what_is_no_store_is_refused(tmp_path: Path, command: Command) -> None:
    assert command("check", tmp_path / "nowhere")[0] == 3
    (tmp_path / "blank").write_bytes(bytes(1 << 20))
    code, text = command("check", tmp_path / "blank")
    assert code == 7
    assert "no blockd store here" in text
