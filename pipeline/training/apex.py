"""Whether NVIDIA's apex is here, with its kernels; the distribution named apex on the index is something else."""

from __future__ import annotations

import importlib.util


def has_apex(extension: str) -> bool:
    """Whether this extension of NVIDIA's apex is installed: apex is built with some of them, or none."""
    return importlib.util.find_spec(extension) is not None


def without_apex(extension: str) -> str:
    """Why it is not."""
    if importlib.util.find_spec("apex") is None:
        return "NVIDIA's apex is not installed"
    return f"the apex that is installed is not NVIDIA's, or was built without its kernels (no {extension})"
