"""Hypothesis for every test: no deadline, as a busy machine is not a bug; what fails prints how to repeat it.

In CI (`CI` set) the examples are the same in every run, so that a change is judged by what it changes.
"""

from __future__ import annotations

import os

from hypothesis import settings

settings.register_profile("aivvm", deadline=None, print_blob=True, derandomize=bool(os.environ.get("CI")))
settings.load_profile("aivvm")
