"""Patterns in NBD exports, written and checked by qemu-io; and blockctl, read as JSON."""

import json
from typing import Any

from tests.cluster import DevCluster, blockd, run, wait_until

KIB, MIB = 1 << 10, 1 << 20

# A byte, where it begins, and for how long it stands there.
Pattern = tuple[int, int, int]


def write(uri: str, *patterns: Pattern) -> None:
    """Write them, then flush."""
    commands = [f"write -P {byte} {offset} {length}" for byte, offset, length in patterns]
    _io(uri, [*commands, "flush"])


def discard(uri: str, offset: int, length: int) -> None:
    """Trim, then flush."""
    _io(uri, [f"discard {offset} {length}", "flush"])


def check(uri: str, *patterns: Pattern) -> None:
    """Raises AssertionError where something else stands."""
    _io(uri, [f"read -P {byte} {offset} {length}" for byte, offset, length in patterns], "-r")


def can_write(uri: str) -> bool:
    """Whether the export takes a write."""
    return bool(run(_argv(uri, ["write -P 1 0 4096", "flush"]), check=False).returncode == 0)


def same(one: str, other: str) -> bool:
    """Whether two images, by path or URI, show the same."""
    done = run(["qemu-img", "compare", "-f", "raw", "-F", "raw", one, other], check=False)
    assert done.returncode in (0, 1), done.stderr
    return bool(done.returncode == 0)


def _io(uri: str, commands: list[str], *options: str) -> None:
    done = run(_argv(uri, commands, *options))
    assert "failed" not in done.stdout + done.stderr, done.stdout + done.stderr


def _argv(uri: str, commands: list[str], *options: str) -> list[str]:
    argv = ["qemu-io", "-f", "raw", *options]
    for command in commands:
        argv += ["-c", command]
    return [*argv, uri]


def ask(cluster: DevCluster, *arguments: str) -> Any:
    """The document of a blockctl command."""
    return json.loads(cluster.ctl(*arguments, "-o", "json").stdout)


def take(cluster: DevCluster, volume: str, name: str) -> Any:
    """A snapshot, final."""
    taken = ask(cluster, "volume", "snapshot", "create", volume, name)
    assert taken["state"] == "available"
    return taken


def export(cluster: DevCluster, volume: str, name: str, host: str) -> str:
    """Attach a snapshot; its URI."""
    document = ask(cluster, "volume", "snapshot", "attach", volume, name, "--host", host)
    return str(document["nbd_uris"][0])


def unexport(cluster: DevCluster, volume: str, name: str, host: str) -> None:
    """Detach a snapshot."""
    cluster.ctl("volume", "snapshot", "detach", volume, name, "--host", host)


def remove(cluster: DevCluster, volume: str) -> None:
    """Detach a volume, delete its snapshots, which nobody may need, and then itself."""
    cluster.detach(volume)
    cluster.delete_branches(volume)
    for one in ask(cluster, "volume", "snapshot", "list", volume)["snapshots"]:
        for attachment in one["attachments"]:
            unexport(cluster, volume, one["name"], attachment["host"])
    for one in reversed(ask(cluster, "volume", "snapshot", "list", volume)["snapshots"]):
        cluster.ctl("volume", "snapshot", "delete", volume, one["name"])
    cluster.delete(volume)


def wait_flattened(cluster: DevCluster, volume: str, seconds: float = 60) -> None:
    """Until the volume has no base."""
    wait_until(
        lambda: not cluster.volume(volume).HasField("base"), seconds, f"{volume} has no base"
    )


def kill_host(cluster: DevCluster, host: str) -> None:
    """Also wait for the kernel, which lets go of a dead process's ring and store a little later."""
    cluster.kill(host)
    store = str(cluster.directory / host / "store.img")

    def is_free() -> bool:
        return bool(blockd("store", "info", store, check=False).returncode == 0)

    wait_until(is_free, 60, f"the store of {host} is free")


def past_bytes(cluster: DevCluster) -> int:
    """What only snapshots hold, in all stores."""
    return int(ask(cluster, "store", "list")["totals"]["past_bytes"])
