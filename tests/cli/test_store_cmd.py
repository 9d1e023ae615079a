"""`blockd store`: qualify, format, info; what a disk was found to do stays with the store."""

import json
import os
from pathlib import Path

import pytest

from blockd.cli import blockd

CLUSTER = "11111111-2222-3333-4444-555555555555"
MIB = 1 << 20


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]):
    def command(*arguments: str, code: int = 0) -> str:
        capsys.readouterr()
        assert blockd.run(["store", *arguments]) == code
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return captured.out if code == 0 else captured.err

    return command


def info(run, path: Path):
    return json.loads(run("info", str(path), "--cluster-id", CLUSTER, "-o", "json"))


def test_format_finds_out_what_the_disk_does_and_info_tells(run, tmp_path: Path) -> None:
    path = tmp_path / "store"
    out = run("format", str(path), "--cluster-id", CLUSTER, "--size", "32MiB")
    assert "flush: " in out
    assert list(tmp_path.iterdir()) == [path]
    findings = info(run, path)["findings"]
    assert findings["direct_alignment_bytes"] in (512, 1024, 2048, 4096)
    assert findings["write_us"] > 0
    assert findings["verdicts"]["flush"] in out
    table = run("info", str(path), "--cluster-id", CLUSTER)
    assert "qualified" in table
    assert "writes of 4 KiB a second" in table


def test_formatting_an_existing_file_probes_that_file(run, tmp_path: Path) -> None:
    path = tmp_path / "store"
    path.write_bytes(bytes(32 * MIB))
    run("format", str(path), "--cluster-id", CLUSTER)
    assert info(run, path)["findings"]["write_mib_s"] > 0
    line = run("format", str(path), "--cluster-id", CLUSTER, code=4)
    assert "holds data already" in line
    run("format", str(path), "--cluster-id", CLUSTER, "--force")
    assert info(run, path)["replicas"] == []


def test_without_qualification_nothing_is_claimed(run, tmp_path: Path) -> None:
    path = tmp_path / "store"
    out = run("format", str(path), "--cluster-id", CLUSTER, "--size", "32MiB", "--no-qualify")
    assert "flush" not in out
    assert info(run, path)["findings"] is None
    assert "never" in run("info", str(path), "--cluster-id", CLUSTER)


def test_qualify_a_store_leaves_it_alone(run, tmp_path: Path) -> None:
    path = tmp_path / "store"
    run("format", str(path), "--cluster-id", CLUSTER, "--size", "32MiB", "--no-qualify")
    before = path.read_bytes()
    view = json.loads(run("qualify", str(path), "--seconds", "0.2", "-o", "json"))
    assert (view["kind"], view["written"]) == ("file", "scratch file")
    assert view["findings"]["flushed_write_iops"] > 0
    assert path.read_bytes() == before
    table = run("qualify", str(tmp_path), "--seconds", "0.2")
    assert "a scratch file in it" in table
    for subject in ("direct I/O", "atomic writes", "flush", "discard"):
        assert subject in table


def test_a_disk_that_cannot_hold_a_store_is_refused(run, tmp_path: Path, monkeypatch) -> None:
    from blockd.host import probe

    monkeypatch.setattr(probe, "smallest_transfer", lambda _: None)
    path = tmp_path / "store"
    line = run("format", str(path), "--cluster-id", CLUSTER, "--size", "32MiB", code=7)
    assert "does not transfer blocks of 4096 bytes" in line
    assert not path.exists()
    path.write_bytes(bytes(32 * MIB))
    line = run("format", str(path), "--cluster-id", CLUSTER, "--no-qualify", code=7)
    assert "cannot hold a store" in line
    assert not any(path.read_bytes())
    assert "does not exist" in run("qualify", os.devnull + "-nothing", code=3)


def test_a_file_is_always_flushed(run, tmp_path: Path) -> None:
    path = tmp_path / "store"
    arguments = ("--cluster-id", CLUSTER, "--size", "32MiB", "--power-loss-protected")
    assert "not a block device" in run("format", str(path), *arguments, code=2)
    assert not path.exists()
    run("format", str(path), *arguments[:-1])
    assert info(run, path)["power_loss_protected"] is False


def test_a_new_store_in_the_place_of_a_lost_one_is_the_newer_of_the_two(
    run, tmp_path: Path
) -> None:
    lost, new = tmp_path / "lost", tmp_path / "new"
    options = ("--cluster-id", CLUSTER, "--size", "32MiB", "--no-qualify")
    run("format", str(lost), *options)
    store_id = info(run, lost)["store_id"]
    assert store_id in run("format", str(new), *options, "--store-id", store_id)
    assert info(run, new)["store_id"] == store_id
    older, newer = (
        json.loads(run("dump", str(path), "--checkpoint", "-o", "json")) for path in (lost, new)
    )
    assert highest(newer) > highest(older) + 1_000_000_000
    line = run("format", str(tmp_path / "x"), *options, "--store-id", "none", code=2)
    assert "--store-id" in line


def highest(dump) -> int:
    """Of the incarnations that the checkpoint records carry."""
    return max(int(one["incarnation"]) for one in dump["checkpoint"])
