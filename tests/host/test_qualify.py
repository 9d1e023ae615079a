"""Qualification: what it finds, and above all what it leaves alone."""

import fcntl
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from blockd.host import probe
from blockd.host.block_device import atomic_write_bytes, kernel_facts
from blockd.host.qualify import check_direct, qualify
from blockd.model.errors import InvalidArgument, NotFound, StoreInUse, Unsupported

MIB = 1 << 20
SECONDS = 0.2


def check_measured(found) -> None:
    findings = found.findings
    assert findings.direct_alignment_bytes in probe.ALIGNMENTS
    assert findings.write_us > 0
    assert findings.write_mib_s > 0
    assert findings.read_mib_s > 0
    assert findings.write_iops > 0
    assert findings.flushed_write_iops > 0
    assert findings.probed_unix_s > 0


def test_beside_a_file_a_scratch_file_is_probed_and_removed(tmp_path: Path) -> None:
    path = tmp_path / "store"
    data = os.urandom(3 * MIB)
    path.write_bytes(data)
    found = qualify(path, SECONDS)
    assert (found.kind, found.written) == ("file", "scratch file")
    check_measured(found)
    assert path.read_bytes() == data
    assert list(tmp_path.iterdir()) == [path]


def test_a_directory_is_probed_with_a_scratch_file(tmp_path: Path) -> None:
    found = qualify(tmp_path, SECONDS)
    assert (found.kind, found.written) == ("directory", "scratch file")
    check_measured(found)
    assert not list(tmp_path.iterdir())


def test_the_scratch_file_goes_also_when_probing_fails(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(probe, "latency", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        qualify(tmp_path, SECONDS)
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_given_up_is_probed_itself_and_blank_again(tmp_path: Path) -> None:
    path = tmp_path / "store"
    path.write_bytes(os.urandom(MIB) + bytes(15 * MIB))
    edge = path.read_bytes()[:MIB]
    found = qualify(path, SECONDS, overwrite=True)
    assert (found.kind, found.written) == ("file", "file")
    check_measured(found)
    after = path.read_bytes()
    assert after[:MIB] == edge
    assert after[MIB:] == bytes(15 * MIB)
    with path.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(StoreInUse, match="open in another process"):
            qualify(path, SECONDS, overwrite=True)


def test_what_is_too_small_is_only_read(tmp_path: Path) -> None:
    path = tmp_path / "small"
    path.write_bytes(os.urandom(2 * MIB))
    data = path.read_bytes()
    found = qualify(path, SECONDS, overwrite=True)
    assert found.written is None
    assert "too small" in str(found.why_read_only)
    assert path.read_bytes() == data


def test_what_cannot_be_probed_is_refused_in_one_line(tmp_path: Path, monkeypatch) -> None:
    with pytest.raises(NotFound, match="does not exist"):
        qualify(tmp_path / "nothing", SECONDS)
    with pytest.raises(InvalidArgument, match="neither a block device"):
        qualify(Path("/dev/null"), SECONDS)
    monkeypatch.setattr(probe, "smallest_transfer", lambda _: None)
    with pytest.raises(Unsupported, match="does not transfer blocks of 4096 bytes with O_DIRECT"):
        qualify(tmp_path, SECONDS)
    path = tmp_path / "store"
    path.write_bytes(bytes(MIB))
    with pytest.raises(Unsupported, match="cannot hold a store"):
        check_direct(path)


def test_the_kernel_is_asked_about_the_disk_below_a_file(tmp_path: Path) -> None:
    facts = kernel_facts(tmp_path)
    assert facts.logical_block_bytes in (0, 512, 4096)
    if facts.device is not None:
        assert Path(f"/sys/class/block/{facts.device}").exists()
        assert facts.write_cache in (None, "write back", "write through")
    assert atomic_write_bytes(tmp_path) % 512 == 0


# Block devices: loop devices over files, where the machine lets us have them.


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Path]:
    image = tmp_path / "image"
    image.touch()
    os.truncate(image, 80 * MIB)
    try:
        made = subprocess.run(
            ["losetup", "--find", "--show", str(image)], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        pytest.skip("no losetup here")
    if made.returncode != 0:
        pytest.skip(f"no loop devices here: {made.stderr.strip()}")
    path = Path(made.stdout.strip())
    yield path
    subprocess.run(["losetup", "--detach", str(path)], check=True)


def poke(device: Path, offset: int) -> None:
    with device.open("r+b") as file:
        file.seek(offset)
        file.write(b"data")
        os.fsync(file.fileno())


def test_a_blank_device_is_probed_itself_and_blank_again(device: Path) -> None:
    found = qualify(device, SECONDS)
    assert (found.kind, found.written) == ("device", "device")
    assert found.findings.logical_block_bytes in (512, 4096)
    check_measured(found)
    assert not any(device.read_bytes())


@pytest.mark.parametrize("offset", [0, MIB - 4, 20 * MIB, 80 * MIB - 4])
def test_a_device_that_holds_data_anywhere_we_look_is_only_read(device: Path, offset: int) -> None:
    poke(device, offset)
    before = device.read_bytes()
    found = qualify(device, SECONDS)
    assert found.written is None
    assert "holds data" in str(found.why_read_only)
    assert found.findings.read_mib_s > 0
    assert found.findings.write_us == 0
    assert device.read_bytes() == before


def test_a_device_that_is_given_up_is_written(device: Path) -> None:
    poke(device, 20 * MIB)
    found = qualify(device, SECONDS, overwrite=True)
    assert found.written == "device"
    check_measured(found)


def test_a_device_in_use_is_left_alone(device: Path) -> None:
    held = os.open(device, os.O_RDWR | os.O_EXCL)
    try:
        with pytest.raises(StoreInUse, match="in use"):
            qualify(device, SECONDS, overwrite=True)
    finally:
        os.close(held)
