"""What the tests of compiled kernels share."""

from __future__ import annotations

import warnings

import pytest
import torch

from laconvnet.kernels import cuda


@pytest.fixture(scope="module")
def way() -> cuda.Library:
    """The compiled library; a machine that cannot compile it fails here, by name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        found = cuda.ready(torch.device("cuda", 0))
    assert found is not None, cuda.why_not(torch.device("cuda", 0))
    return found
