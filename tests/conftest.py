"""For every test: hypothesis by the profiles that users have, `aivvm-ci` where `CI` is set, else `aivvm-dev`.

Many tests collect garbage, to see what was left open. What other modules have made is out of its way, as looking through it
each time would take longer than most tests.
"""

from __future__ import annotations

import gc
import os

import pytest
from hypothesis import settings

from aivvm_testing.strategies import register_profiles

register_profiles()
settings.load_profile("aivvm-ci" if os.environ.get("CI") else "aivvm-dev")


@pytest.fixture(autouse=True, scope="module")
def _what_came_before_is_no_garbage_of_this_module():
    gc.freeze()
    yield
    gc.unfreeze()
