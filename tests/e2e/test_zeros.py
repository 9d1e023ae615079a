"""Thin in practice: an image copied with all its zeros takes only what it holds, on every host."""

from pathlib import Path

import pytest

from tests.cluster import DevCluster, run, wait_until

pytestmark = pytest.mark.timeout(240)

MIB = 1 << 20
SIZE = 96 * MIB
HELD = {0, 5 * MIB, 17 * MIB, 18 * MIB, 95 * MIB}  # where 1 MiB of data begins
HOSTS = ("paris-1", "lyon-1", "marseille-1")


def make_image(path: Path, held: set[int]) -> None:
    """Data at `held`, written zeros everywhere else: no hole in the file."""
    with path.open("wb") as file:
        for offset in range(0, SIZE, MIB):
            data = offset.to_bytes(7, "little") + b"\1"
            file.write(data * (MIB // 8) if offset in held else bytes(MIB))


@pytest.mark.parametrize(
    "copy",
    [
        # Both send every zero of the image as data.
        ["qemu-img", "convert", "-n", "-S", "0", "-f", "raw", "-O", "raw"],
        ["nbdcopy", "--allocated", "--sparse=0"],
    ],
    ids=["qemu-img", "nbdcopy"],
)
def test_a_copied_image_takes_what_it_holds(
    cluster: DevCluster, name: str, tmp_path: Path, copy: list[str]
) -> None:
    before = {host: cluster.stored_bytes(host) for host in HOSTS}
    cluster.create(name, SIZE)
    uri = cluster.attach(name, "paris-1").nbd_uris[0]

    def stored() -> dict[str, int]:
        return {host: cluster.stored_bytes(host) - before[host] for host in HOSTS}

    image = tmp_path / "image"
    make_image(image, HELD)
    run([*copy, str(image), uri])
    assert stored() == dict.fromkeys(HOSTS, len(HELD) * MIB)
    run(["qemu-img", "compare", "-f", "raw", "-F", "raw", str(image), uri])

    # Over data, zeros give the space back; every replica still holds the same.
    make_image(image, {17 * MIB})
    run([*copy, str(image), uri])
    run(["qemu-img", "compare", "-f", "raw", "-F", "raw", str(image), uri])
    assert cluster.ctl("volume", "verify", name, "--read").returncode == 0
    wait_until(lambda: stored() == dict.fromkeys(HOSTS, MIB), 15, "space to be given back")
    cluster.detach(name)
    cluster.delete(name)
