"""Hypothesis for every test: no deadline, as a busy machine is not a bug; what fails prints how to repeat it."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("aivvm", deadline=None, print_blob=True)
settings.load_profile("aivvm")
