"""One etcd for all tests of this folder; each test gets it empty, with a service of its own."""

from collections.abc import AsyncIterator, Iterator

import pytest

from blockd.meta import snapshots as snapshots_module
from tests.meta.etcd_process import running
from tests.meta.rig import Rig, running_rig


@pytest.fixture(scope="session")
def etcd_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running(tmp_path_factory.mktemp("etcd")) as members:
        yield members[0].endpoint


@pytest.fixture
async def rig(etcd_endpoint: str) -> AsyncIterator[Rig]:
    async with running_rig(etcd_endpoint) as rig:
        yield rig


@pytest.fixture
async def volume(rig: Rig, monkeypatch: pytest.MonkeyPatch):
    """One of a whole cluster; its openings are not waited for long."""
    monkeypatch.setattr(snapshots_module, "OPENING_SECONDS", 0.5)
    await rig.add_cluster()
    return await rig.create()
