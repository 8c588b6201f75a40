"""The pytest plugin: thin fixtures over a fake. Imports nothing but pytest until a fixture is asked for.

It is loaded in every pytest session of an environment that has this distribution, so it must cost nothing and need
none of the extras.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING
from weakref import WeakSet

import pytest

if TYPE_CHECKING:
    from aivvm.provider import Aivvm
    from aivvm_testing.fake import FakeAivvm
    from aivvm_testing.replay.server import FakeServer


_stopped: WeakSet[pytest.Item] = WeakSet()
"""Tests that did not run to their end: failed, skipped or expected to fail, in set-up or in the test itself."""


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> None:
    if call.excinfo is not None:
        _stopped.add(item)


@pytest.fixture
def fake_aivvm(request: pytest.FixtureRequest) -> Iterator[FakeAivvm]:
    """A fake Aivvm service with virtual time.

    At the end of a test that ran to its end, all that was scripted must have been played, and all that was asked
    answered. A test that failed, or was skipped, is not told of it too.
    """
    from aivvm_testing.fake import FakeAivvm

    fake = FakeAivvm()
    yield fake
    if request.node not in _stopped:
        fake.assert_all_played()


@pytest.fixture
def aivvm_provider(fake_aivvm: FakeAivvm) -> Aivvm:
    """The provider, connected to `fake_aivvm` without a network."""
    from aivvm.provider import Aivvm

    return Aivvm(transport=fake_aivvm.transport())


@pytest.fixture
def aivvm_server(fake_aivvm: FakeAivvm) -> Iterator[FakeServer]:
    """`fake_aivvm` as a server on loopback and a free port, for clients of any kind: `aivvm_server.url`.

    What its client cannot be told (an unmatched request, say) is reported once, by `fake_aivvm`.
    """
    server = fake_aivvm.server()
    server.start()
    yield server
    server.stop()
