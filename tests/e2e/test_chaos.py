"""Faults at random, for as long as one likes: `make soak`.

One volume, a recorder writing to it, and in each round one fault of those below; after it the
volume must serve again, hold every acknowledged write and come back to three replicas in sync. The
seed is printed; BLOCKD_SEED repeats the choices, though not the timing.
"""

import os
import random
import time
from pathlib import Path

import pytest

from blockd.model.errors import BlockdError
from tests.cluster import DevCluster, dev_cluster, wait_until
from tests.e2e.history import History, Recording, read_back, record

HOSTS = ("paris-1", "lyon-1", "marseille-1")
METAS = ("meta-paris", "meta-lyon", "meta-marseille")
BLOCKS = 8192
SECONDS = float(os.environ.get("SOAK_SECONDS", "600"))

pytestmark = [pytest.mark.soak, pytest.mark.timeout(SECONDS + 600)]


class Chaos:
    """The story of one run. holder: where the volume is attached."""

    def __init__(self, cluster: DevCluster, rng: random.Random, folder: Path) -> None:
        self.cluster = cluster
        self.rng = rng
        self.folder = folder
        self.history = History()
        self.volume = cluster.create("chaos", BLOCKS * 4096)
        self.holder = "paris-1"
        self.uri = cluster.attach("chaos", self.holder).nbd_uris[0]
        self.rounds = 0

    def other(self) -> str:
        """A host that does not hold the attachment."""
        return self.rng.choice([host for host in HOSTS if host != self.holder])

    def pause(self) -> None:
        time.sleep(self.rng.uniform(0.1, 2.0))

    def round(self) -> str:
        """One fault while the recorder writes; returns its name."""
        self.rounds += 1
        fault = self.rng.choice(FAULTS)
        first = self.history.last_number + 1
        log = self.folder / f"log{self.rounds}"
        recording = record(
            self.uri, log, BLOCKS, seconds=60, flush=0.2, seed=first, first=first, depth=24
        )
        try:
            at_least(recording, 100)
            self.pause()
            fault(self)
            if fault in HARMLESS:
                at_least(recording, recording.acknowledged() + 100)
                assert recording.process.poll() is None, "writes must go on through this"
        finally:
            recording.end()
        self.history.add(log)
        wait_until(self.serves, 60, "the volume is served")
        self.history.check(read_back(self.uri, BLOCKS))
        self.cluster.wait_in_sync("chaos", seconds=90)
        return fault.__name__

    def serves(self) -> bool:
        return self.cluster.attachment(self.holder, self.volume.id).state == "serving"

    # The faults. Each leaves all processes running.

    def kill_a_replica(self) -> None:
        victim = self.other()
        self.cluster.kill(victim)
        self.pause()
        self.cluster.start(victim)

    def freeze_a_replica(self) -> None:
        victim = self.other()
        self.cluster.dev("stop", victim)
        self.pause()
        self.cluster.dev("cont", victim)

    def kill_the_metadata_service(self) -> None:
        self.cluster.kill(*METAS)
        self.pause()
        self.cluster.start(*METAS)
        wait_until(lambda: len(self.cluster.hosts_up()) == 3, 60, "all hosts are registered")

    def kill_one_metadata_instance(self) -> None:
        victim = self.rng.choice(METAS)
        self.cluster.kill(victim)
        self.pause()
        self.cluster.start(victim)

    def replace_the_holder(self) -> None:
        old = self.holder
        self.cluster.kill(old)
        self.move()
        self.pause()
        self.cluster.start(old)

    def replace_a_frozen_holder(self) -> None:
        old = self.holder
        self.cluster.dev("stop", old)
        self.move()
        self.pause()
        self.cluster.dev("cont", old)

    def restart_the_holder(self) -> None:
        self.cluster.kill(self.holder)
        self.cluster.start(self.holder)

    def kill_all_hosts(self) -> None:
        self.cluster.kill(*HOSTS)
        self.cluster.start(*HOSTS)

    def kill_two_hosts(self) -> None:
        pair = self.rng.sample(HOSTS, 2)
        self.cluster.kill(*pair)
        self.pause()
        self.cluster.start(*pair)

    def move(self) -> None:
        """Attach at another host, as an operator does who tries until it works."""
        target = self.other()

        def attached() -> bool:
            try:
                self.uri = self.cluster.attach("chaos", target).nbd_uris[0]
            except BlockdError as error:
                print(f"  attach at {target}: {error}")
                raise
            return True

        wait_until(attached, 60, f"attached at {target}", poll=0.5)
        self.holder = target


HARMLESS = (
    Chaos.kill_a_replica,
    Chaos.freeze_a_replica,
    Chaos.kill_the_metadata_service,
    Chaos.kill_one_metadata_instance,
)
FAULTS = (
    *HARMLESS,
    Chaos.replace_the_holder,
    Chaos.replace_a_frozen_holder,
    Chaos.restart_the_holder,
    Chaos.kill_all_hosts,
    Chaos.kill_two_hosts,
)


def at_least(recording: Recording, count: int) -> None:
    wait_until(
        lambda: recording.acknowledged() >= count or recording.process.poll() is not None,
        60,
        f"{count} writes are acknowledged",
    )
    assert recording.acknowledged() >= count, "the recorder ended before its fault"


def test_faults_at_random_lose_nothing(tmp_path: Path) -> None:
    seed = int(os.environ.get("BLOCKD_SEED", time.time_ns() % 1_000_000))
    print(f"seed {seed}")
    with dev_cluster() as cluster:
        chaos = Chaos(cluster, random.Random(seed), tmp_path)
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            began = time.monotonic()
            print(f"round {chaos.rounds + 1}", end=" ", flush=True)
            fault = chaos.round()
            print(f"{fault}: well after {time.monotonic() - began:.1f} s", flush=True)
        print(f"{chaos.rounds} rounds, {chaos.history.acknowledged_count} acknowledged writes")
