"""One cluster in network namespaces for a module's tests."""

from collections.abc import Iterator

import pytest

from tests.faults.field import Field, fault_field
from tests.faults.recording import build_checker


@pytest.fixture(scope="session")
def checker() -> None:
    build_checker()


@pytest.fixture(scope="module")
def shared() -> Iterator[Field]:
    with fault_field() as field:
        yield field


@pytest.fixture
def field(shared: Field, checker: None) -> Iterator[Field]:
    """All faults undone afterwards, also when the test has failed."""
    yield shared
    shared.heal()
