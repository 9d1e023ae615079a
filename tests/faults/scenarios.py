"""The named faults, each under a load whose history is checked afterwards.

A scenario is given a story: a volume of three replicas, served by one host, with clients at work.
It hurts something, says what must hold meanwhile, and may leave everything broken: what follows is
the same for all. Every fault is undone, the volume serves, all three replicas come into sync and
agree, and what the clients saw is what one disk could have shown.
"""

import json
import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from blockd.model.errors import NotAttached
from tests.cluster import wait_until
from tests.faults.field import HOSTS, METAS, SITES, Field
from tests.faults.recording import Load, check, longest_stall

BLOCKS = 256  # few, so that requests meet
BLOCK_BYTES = 4096
WARM_WRITES = 200
SERVED_S = 20.0  # until writes go on after a fault, on a machine that does other things too
STALL_S = 5.0  # what the loss of one replica may cost, likewise
SLOW_BYTES_PER_SECOND = 500_000


class Story:
    """One volume, with a replica at each host, and its clients. holder: the host that serves it."""

    def __init__(self, field: Field, name: str, load: Load, rng: random.Random) -> None:
        self.field = field
        self.name = name
        self.load = load
        self.rng = rng
        self.replicas = len(field.hosts)
        self.volume_id = field.create(name, BLOCKS * BLOCK_BYTES, self.replicas).id
        self.holder = ""
        self.move(rng.choice(field.hosts))

    def others(self) -> list[str]:
        """The hosts that only hold replicas, in any order."""
        others = [host for host in self.field.hosts if host != self.holder]
        self.rng.shuffle(others)
        return others

    def move(self, host: str, *, force: bool = False, seconds: float = SERVED_S) -> None:
        """Have another host serve it; the clients follow. force: its holder may be well."""
        assert host != self.holder, "clients would not know which engine they ask"
        uri = self.field.attach_soon(self.name, host, force=force, seconds=seconds)
        self.load.attach(uri)
        self.holder = host

    def goes_on(self, writes: int = 50, seconds: float = SERVED_S) -> None:
        """So many more writes are acknowledged."""
        self.load.wait_writes(writes, seconds)

    def pause(self) -> None:
        time.sleep(self.rng.uniform(0.1, 1.0))

    @contextmanager
    def no_long_stall(self) -> Iterator[None]:
        """Writes are acknowledged all the time."""
        began = time.monotonic()
        yield
        stall = longest_stall(self.load.operations(), began, time.monotonic())
        assert stall < STALL_S, f"no write was acknowledged for {stall:.1f} s"

    def is_out(self, host: str) -> None:
        """The host's replica has left the in-sync set: the fault was felt."""

        def left() -> bool:
            (segment,) = self.field.volume(self.name).segments
            return not any(one.in_sync for one in segment.members if one.host_name == host)

        wait_until(left, SERVED_S, f"{host} is out of sync")

    def is_fenced(self, host: str) -> None:
        """The host has given the volume up."""

        def gone() -> bool:
            try:
                self.field.attachment(host, self.volume_id)
            except NotAttached:
                return True
            return False

        wait_until(gone, SERVED_S, f"{host} has given {self.name} up")

    def settle(self) -> None:
        """What must hold after every scenario."""
        self.field.heal()
        self.goes_on()
        self.field.wait_in_sync(self.name, self.replicas, seconds=60)
        self.load.stop()
        verified = self.field.ctl("volume", "verify", self.name, "--read", check=False)
        assert verified.returncode == 0, verified.stdout + verified.stderr


# The scenarios.


def the_holder_is_killed(story: Story) -> None:
    old = story.holder
    story.field.kill(old)
    story.move(story.others()[0])
    story.goes_on()
    story.field.start(old)
    story.is_fenced(old)


def the_holder_is_frozen_replaced_and_thawed(story: Story) -> None:
    old = story.holder
    story.field.freeze(old)
    story.move(story.others()[0])
    story.goes_on()
    story.field.thaw(old)
    story.is_fenced(old)


def the_holder_is_killed_and_restarted(story: Story) -> None:
    story.field.kill(story.holder)
    story.field.start(story.holder)
    story.goes_on()


def the_holder_is_cut_off(story: Story) -> None:
    """From everybody: it must stop by itself, since nobody can tell it."""
    old = story.holder
    story.field.cut_off(old)
    story.move(story.others()[0])
    story.goes_on()
    story.field.network.heal()
    story.is_fenced(old)


def the_holder_is_cut_from_the_metadata(story: Story) -> None:
    """It serves on, since that is not on the path; and when it is replaced, it is fenced."""
    old = story.holder
    story.field.network.part([old], METAS)
    with story.no_long_stall():
        time.sleep(2)
    story.move(story.others()[0])
    story.goes_on()
    story.field.network.heal()
    story.is_fenced(old)


def the_holder_is_well_and_hands_over(story: Story) -> None:
    for _ in range(3):
        old = story.holder
        story.move(story.others()[0], force=True)
        story.goes_on()
        story.is_fenced(old)


def a_replica_is_killed(story: Story) -> None:
    victim = story.others()[0]
    with story.no_long_stall():
        story.field.kill(victim)
        story.is_out(victim)
        story.goes_on()
        story.field.start(victim)
        story.goes_on()


def a_replica_is_frozen(story: Story) -> None:
    victim = story.others()[0]
    with story.no_long_stall():
        story.field.freeze(victim)
        story.is_out(victim)
        story.goes_on()
        story.field.thaw(victim)
        story.goes_on()


def a_replica_hears_but_is_not_heard(story: Story) -> None:
    victim = story.others()[0]
    with story.no_long_stall():
        story.field.network.drop([victim], [story.holder])
        story.is_out(victim)
        story.goes_on()


def a_replica_is_heard_but_does_not_hear(story: Story) -> None:
    victim = story.others()[0]
    with story.no_long_stall():
        story.field.network.drop([story.holder], [victim])
        story.is_out(victim)
        story.goes_on()


def a_replica_has_a_slow_link(story: Story) -> None:
    with story.no_long_stall():
        story.field.network.slow_down(story.others()[0], SLOW_BYTES_PER_SECOND)
        time.sleep(2)


def the_holder_has_a_slow_link(story: Story) -> None:
    story.field.network.slow_down(story.holder, SLOW_BYTES_PER_SECOND)
    time.sleep(2)
    story.goes_on()


def two_replicas_flap(story: Story) -> None:
    """In turn and together; writes may wait for them, and go on in between."""
    one, other = story.others()
    for _ in range(3):
        story.field.freeze(one)
        story.pause()
        story.field.network.part([story.holder], [other])
        story.pause()
        story.field.thaw(one)
        story.goes_on()
        story.field.network.heal()
        one, other = other, one


def a_site_is_cut_off_and_the_holder_moves(story: Story) -> None:
    """A site with a replica, and then the holder's, so that only what both have is left."""
    first = story.others()[0]
    story.field.cut_off(first, "meta-" + first.removesuffix("-1"))
    story.goes_on()
    story.field.network.heal()
    old = story.holder
    story.field.cut_off(old, "meta-" + old.removesuffix("-1"))
    story.move(next(host for host in story.others() if host != first))
    story.goes_on()


def the_metadata_leader_is_killed_in_a_takeover(story: Story) -> None:
    leader = story.field.meta_leader()
    story.field.kill(story.holder, leader)
    story.move(story.others()[0])
    story.goes_on()


def all_metadata_is_killed(story: Story) -> None:
    with story.no_long_stall():
        story.field.kill(*METAS)
        time.sleep(1)
        story.field.start(*METAS)


def etcd_is_killed(story: Story) -> None:
    """A member, while a replica is lost: the smaller set has to be agreed all the same."""
    story.field.kill_etcd(story.rng.choice(SITES))
    story.field.kill(story.others()[0])
    story.goes_on()


def all_hosts_restart_one_by_one(story: Story) -> None:
    for host in HOSTS:
        story.field.terminate(host)
        story.field.start(host)
        story.goes_on()
        story.field.wait_in_sync(story.name)


def all_hosts_are_killed(story: Story) -> None:
    story.field.kill(*HOSTS)
    story.field.start(*HOSTS)
    story.goes_on()


def the_holder_and_a_replica_are_killed(story: Story) -> None:
    """What only one of three has is no quorum: it waits for another to come back."""
    old, (lost, left) = story.holder, story.others()
    story.field.kill(old, lost)
    story.pause()
    story.field.start(lost)
    story.move(left)
    story.goes_on()


def a_replica_rots(story: Story) -> None:
    """Bytes of its blocks flip at rest; a holder beside them reads from the others and repairs."""
    victim = story.others()[0]
    with story.load.resting():
        rotten = sum(flip_byte(story, victim, block) for block in range(0, BLOCKS, BLOCKS // 4))
    assert rotten, "no block of the replica was at rest"
    story.move(victim, force=True)  # reads go to the local replica
    story.goes_on(200)


def flip_byte(story: Story, host: str, block: int) -> bool:
    """In the host's replica of the block, once it has gone home. False: it is a hole."""
    place: dict[str, object] = {}

    def at_home() -> bool:
        offset = str(block * BLOCK_BYTES)
        mapped = story.field.ctl("-o", "json", "volume", "map", story.name, "--offset", offset)
        place.update(
            next(one for one in json.loads(mapped.stdout)["replicas"] if one["host"] == host)
        )
        return not place["in_journal"]

    wait_until(at_home, 40, "the block has gone home", poll=0.5)
    if not place["allocated"] or not int(str(place["crc32c"]), 16):
        return False
    at = int(str(place["device_offset_bytes"])) + 100
    with open(str(place["store_path"]), "r+b") as store:
        store.seek(at)
        byte = store.read(1)[0]
        store.seek(at)
        store.write(bytes([byte ^ 0x40]))
        store.flush()
        os.fsync(store.fileno())
    return True


SCENARIOS: dict[str, Callable[[Story], None]] = {
    scenario.__name__.replace("_", " "): scenario
    for scenario in (
        the_holder_is_killed,
        the_holder_is_frozen_replaced_and_thawed,
        the_holder_is_killed_and_restarted,
        the_holder_is_cut_off,
        the_holder_is_cut_from_the_metadata,
        the_holder_is_well_and_hands_over,
        a_replica_is_killed,
        a_replica_is_frozen,
        a_replica_hears_but_is_not_heard,
        a_replica_is_heard_but_does_not_hear,
        a_replica_has_a_slow_link,
        the_holder_has_a_slow_link,
        two_replicas_flap,
        a_site_is_cut_off_and_the_holder_moves,
        the_metadata_leader_is_killed_in_a_takeover,
        all_metadata_is_killed,
        etcd_is_killed,
        all_hosts_restart_one_by_one,
        all_hosts_are_killed,
        the_holder_and_a_replica_are_killed,
        a_replica_rots,
    )
}


def play(
    field: Field, name: str, scenario: Callable[[Story], None], seed: int, folder: Path
) -> str:
    """One scenario on a volume of its own, all faults undone afterwards.

    Returns what the checker says. The record stays in `folder` unless all is well.
    """
    volume = f"{name.replace(' ', '-')}-{seed}"
    record = folder / f"{volume}.record"
    with Load.start(record, BLOCKS, seed) as load:
        story = Story(field, volume, load, random.Random(seed))
        story.goes_on(WARM_WRITES)
        scenario(story)
        story.settle()
    verdict = check(record)
    record.unlink()
    field.detach(volume)
    field.delete(volume)
    return verdict
