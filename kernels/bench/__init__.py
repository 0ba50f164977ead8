"""Measurements of the operator beside what it replaces; `compare` serves any other measurement."""

from __future__ import annotations

from laconvnet.kernels.bench.cases import Case
from laconvnet.kernels.bench.run import rows
from laconvnet.kernels.bench.timing import Row, Step, compare, spread

__all__ = ["Case", "Row", "Step", "compare", "rows", "spread"]
