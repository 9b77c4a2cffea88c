"""A shared machine can stall for longer than Hypothesis allows one example by default."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("no_deadline", deadline=None)
settings.load_profile("no_deadline")
