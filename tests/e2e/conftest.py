"""Clusters for the acceptance tests; starting one takes seconds, so a module shares one."""

from collections.abc import Iterator
from itertools import count

import pytest

from tests.cluster import DevCluster, dev_cluster


@pytest.fixture(scope="module")
def shared() -> Iterator[DevCluster]:
    """Three sites, one host each; tests leave all processes running."""
    with dev_cluster() as cluster:
        yield cluster


@pytest.fixture
def cluster(shared: DevCluster) -> Iterator[DevCluster]:
    """The shared cluster, with everything that a test has killed started again."""
    yield shared
    dead = [p["name"] for p in shared.status().values() if p["state"] == "dead"]
    dead = [name for name in dead if not name.startswith("etcd-")]
    if dead:
        shared.start(*dead)


_names = (f"v{number}" for number in count(1))


@pytest.fixture
def name() -> str:
    """A volume name that no other test uses."""
    return next(_names)
