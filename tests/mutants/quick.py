"""A plugin of pytest: hypothesis tells that it has found a failure, and does not look for the smallest one."""

from __future__ import annotations

from hypothesis import Phase, settings

settings.register_profile(
    "mutants", database=None, deadline=None, derandomize=True, phases=[Phase.explicit, Phase.generate]
)
settings.load_profile("mutants")
