"""The excerpts of real data sets that some tests read, beside the project where somebody has put them there."""

from __future__ import annotations

from pathlib import Path

import pytest

SAMPLES = Path(__file__).resolve().parents[2] / "shared" / "data"


def needs(place: Path) -> pytest.MarkDecorator:
    """Skips where a file or folder of SAMPLES is missing, and says so in the same words for all where SAMPLES is."""
    return pytest.mark.skipif(not place.exists(), reason=f"no real samples at {place if SAMPLES.is_dir() else SAMPLES}")
