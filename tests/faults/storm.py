"""Faults at random, several at a time: what is broken stays so until chance mends it.

The holder is replaced now and then; the target of a move is made well first, and everything if that
does not do: a volume that then cannot be served is a finding.
"""

import random
import time
from collections.abc import Callable

from tests.faults.field import HOSTS, METAS, SITES, Field
from tests.faults.scenarios import SLOW_BYTES_PER_SECOND, Story

STEPS = (4, 12)
PAUSE_S = (0.05, 1.5)
PAUSE_BEFORE_MOVE_S = 1.0
MOVE_S = 15.0  # for a move to a host that is well, whatever else is broken

Step = Callable[[Story], str]


def storm(story: Story) -> None:
    """A few steps, a pause after each; says what it does, since the timing is not the seed's."""
    told = []
    for _ in range(story.rng.randint(*STEPS)):
        step = story.rng.choice(CHOICES)
        told.append(step(story))
        print(f"    {told[-1]}", flush=True)
        time.sleep(story.rng.uniform(*PAUSE_S))


def in_state(field: Field, wanted: str, names: tuple[str, ...]) -> list[str]:
    states = field.states()
    return [name for name in names if states[name] == wanted]


def pick(rng: random.Random, names: list[str]) -> list[str]:
    """One of them, if there is one."""
    return [rng.choice(names)] if names else []


def kill(story: Story) -> str:
    victims = pick(story.rng, in_state(story.field, "running", HOSTS))
    story.field.kill(*victims)
    return f"kill {victims}"


def freeze(story: Story) -> str:
    victims = pick(story.rng, in_state(story.field, "running", HOSTS))
    story.field.freeze(*victims)
    return f"freeze {victims}"


def revive(story: Story) -> str:
    """All hosts that are dead or frozen."""
    dead, frozen = (in_state(story.field, state, HOSTS) for state in ("dead", "stopped"))
    story.field.thaw(*frozen)
    if metadata_serves(story):
        story.field.start(*dead)
    return f"thaw {frozen}, start {dead}"


def metadata_serves(story: Story) -> bool:
    """A host that starts while it does not waits for it."""
    return len(in_state(story.field, "running", METAS)) > len(METAS) // 2


def restart_metadata(story: Story) -> str:
    dead = in_state(story.field, "dead", METAS)
    if dead:
        story.field.start(*dead)
        return f"start {dead}"
    victims = story.rng.sample(METAS, story.rng.choice([1, 1, 1, 2, 3]))
    story.field.kill(*victims)
    return f"kill {victims}"


def kill_etcd(story: Story) -> str:
    site = story.rng.choice(SITES)
    if story.field.states()[f"etcd-{site}"] == "running":
        story.field.kill_etcd(site)
    return f"kill etcd-{site}"


def drop(story: Story) -> str:
    one, other = story.rng.sample(HOSTS + METAS, 2)
    story.field.network.drop([one], [other])
    return f"drop what {one} sends to {other}"


def part(story: Story) -> str:
    machines = HOSTS + METAS
    group = story.rng.sample(machines, story.rng.randint(1, len(machines) // 2))
    story.field.network.part(group, [machine for machine in machines if machine not in group])
    return f"part {group} from the others"


def slow_down(story: Story) -> str:
    machine = story.rng.choice(HOSTS)
    story.field.network.slow_down(machine, SLOW_BYTES_PER_SECOND)
    return f"slow down {machine}"


def heal_the_network(story: Story) -> str:
    story.field.network.heal()
    return "heal the network"


def move(story: Story) -> str:
    """From a holder that is well, dead, frozen or out of reach, which clients still ask."""
    target = story.others()[0]
    manner = story.rng.choice(("well", "killed", "frozen", "cut off"))
    make_well(story, target)
    old = story.holder
    running = story.field.states()[old] == "running"
    if manner == "killed" and running:
        story.field.kill(old)
    elif manner == "frozen" and running:
        story.field.freeze(old)
    elif manner == "cut off":
        story.field.cut_off(old)
    time.sleep(story.rng.uniform(0, PAUSE_BEFORE_MOVE_S))
    try:
        story.move(target, force=True, seconds=MOVE_S)
    except AssertionError as error:
        print(f"    {error}")  # too few replicas are left, perhaps
        story.field.heal()
        story.move(target, force=True)
    return f"move from {old}, {manner}, to {target}"


def make_well(story: Story, host: str) -> None:
    """The network, the metadata service and the host."""
    story.field.network.heal()
    dead_metas = in_state(story.field, "dead", METAS)
    if dead_metas:
        story.field.start(*dead_metas)
    if story.field.states()[host] == "stopped":
        story.field.thaw(host)
    if story.field.states()[host] == "dead":
        story.field.start(host)


CHOICES: tuple[Step, ...] = (
    kill,
    kill,
    freeze,
    freeze,
    revive,
    revive,
    restart_metadata,
    kill_etcd,
    drop,
    drop,
    part,
    slow_down,
    heal_the_network,
    move,
    move,
    move,
)
