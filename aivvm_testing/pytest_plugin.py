"""The pytest plugin: thin fixtures over a fake. Imports nothing but pytest until a fixture is asked for.

It is loaded in every pytest session of an environment that has this distribution, so it must cost nothing and need
none of the extras.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from aivvm.provider import Aivvm
    from aivvm_testing.fake import FakeAivvm
    from aivvm_testing.replay.server import FakeServer


@pytest.fixture
def fake_aivvm() -> Iterator[FakeAivvm]:
    """A fake Aivvm service with virtual time. At the end of the test all that was scripted must have been played."""
    from aivvm_testing.fake import FakeAivvm

    fake = FakeAivvm()
    yield fake
    fake.assert_all_played()


@pytest.fixture
def aivvm_provider(fake_aivvm: FakeAivvm) -> Aivvm:
    """The provider, connected to `fake_aivvm` without a network."""
    from aivvm.provider import Aivvm

    return Aivvm(transport=fake_aivvm.transport())


@pytest.fixture
def aivvm_server(fake_aivvm: FakeAivvm) -> Iterator[FakeServer]:
    """`fake_aivvm` as a server on loopback and a free port, for clients of any kind: `aivvm_server.url`."""
    with fake_aivvm.server() as server:
        yield server
