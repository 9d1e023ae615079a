"""blockctl volume branch: what an owner finds, reads and deletes."""

import pytest

from tests.cli.test_blockctl import error_line
from tests.meta import test_branches as branches
from tests.meta.rig import wait_until

CHUNK = 65536


@pytest.fixture
def branch(cluster):
    """Of a volume that is attached: filled, then sealed, with two chunks."""
    cluster.ok("volume", "create", "vol", "--size", "2GiB")
    cluster.ok("volume", "attach", "vol", "--host", "paris-1")

    async def make(rig):
        volume = await rig.volume()
        opened = (await branches.open_branch(rig, volume)).branch
        for host in rig.hosts.values():
            host.changed[opened.id, 1] = [3, 4]
        return opened

    return cluster.do(make)


def seal(cluster, branch) -> None:
    async def now(rig):
        await branches.seal(rig, branch)

        async def is_final():
            return (await rig.snapshots())[0].state == 2

        await wait_until(is_final)

    cluster.do(now)


def listed(cluster, *arguments):
    return cluster.ok("volume", "branch", "list", *arguments, "-o", "json").json["branches"]


def test_a_branch_is_listed_shown_and_compared(cluster, branch):
    (found,) = listed(cluster)
    assert (found["volume"], found["branch"], found["host"]) == ("vol", "fenced-7", "lyon-1")
    assert (found["state"], found["epoch"], found["name"]) == ("filling", 7, "vol.fenced-7")
    assert found["attachment"]["host"] == "paris-1"
    seal(cluster, branch)
    table = cluster.ok("volume", "branch", "list", "vol").out
    assert "kept" in table
    assert "lyon-1" in table
    shown = cluster.ok("volume", "branch", "show", "vol", "fenced-7").out
    assert "128 KiB" in shown
    compared = cluster.ok("volume", "branch", "diff", "vol", "fenced-7", "-o", "json").json
    first = (16384 + 3) * CHUNK
    assert compared["extents"] == [{"offset_bytes": first, "length_bytes": 2 * CHUNK}]
    assert str(first) in cluster.ok("volume", "branch", "diff", "vol", "fenced-7").out
    view = cluster.ok("volume", "show", "vol.fenced-7", "-o", "json").json
    assert view["branch_of"] == "vol"


def test_a_branch_is_attached_detached_and_deleted(cluster, branch):
    arguments = ("volume", "branch", "attach", "vol", "fenced-7", "--host", "lyon-1")
    assert "is being filled" in error_line(cluster.ctl(*arguments), 5)
    seal(cluster, branch)
    done = cluster.ok(*arguments)
    assert "read-only" in done.out
    assert "nbd+unix:///vol.fenced-7?socket=/run/lyon-1.sock" in done.out.splitlines()
    refused = cluster.ctl("volume", "branch", "delete", "vol", "fenced-7")
    assert "attached at lyon-1" in error_line(refused, 4)
    cluster.ok("volume", "branch", "detach", "vol", "fenced-7")
    cluster.ok("volume", "detach", "vol")
    assert "has branches: fenced-7" in error_line(cluster.ctl("volume", "delete", "vol"), 4)
    cluster.ok("volume", "branch", "delete", "vol", "fenced-7")
    assert listed(cluster, "vol") == []
    cluster.ok("volume", "delete", "vol")


def test_a_host_that_is_away_is_named_when_a_branch_is_deleted(cluster, branch):
    seal(cluster, branch)
    cluster.ok("volume", "detach", "vol")
    cluster.do(lambda rig: rig.kill_host("marseille-1"))
    done = cluster.ok("volume", "branch", "delete", "vol", "fenced-7").out
    assert "marseille-1 still to drop it" in done
    assert "volume delete vol.fenced-7 --force" in done
    assert "forgotten" in cluster.ok("volume", "delete", "vol.fenced-7", "--force").out


def test_what_is_no_branch_is_not_found(cluster, branch):
    assert "no branch 'x'" in error_line(cluster.ctl("volume", "branch", "show", "vol", "x"), 3)
    assert "no volume" in error_line(cluster.ctl("volume", "branch", "list", "other"), 3)
