"""Hypothesis for every test, by the profiles that users have: `aivvm-ci` where `CI` is set, else `aivvm-dev`."""

from __future__ import annotations

import os

from hypothesis import settings

from aivvm_testing.strategies import register_profiles

register_profiles()
settings.load_profile("aivvm-ci" if os.environ.get("CI") else "aivvm-dev")
