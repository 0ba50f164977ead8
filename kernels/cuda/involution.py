"""The authors' implementation of the dynamic convolution, as a backend: only the bench takes it (involution.cuh)."""

from __future__ import annotations

import torch
from torch import Tensor

from laconvnet.kernels import cuda
from laconvnet.kernels.cuda.library import TYPES, Library
from laconvnet.kernels.filter_layout import FilterLayout


def ready(device: torch.device) -> Involution | None:
    """The backend for this device; None where the compiled library is not to be had (`cuda.why_not`)."""
    library = cuda.ready(device)
    return None if library is None else Involution(library.path)


class Involution(Library):
    """One thread an output number, planar memory (NCHW): float32, float16 and bfloat16, sums in float32."""

    family = "involution"
    layout = torch.contiguous_format

    def filter_layout(self, x: Tensor, kernel_size: int, groups: int, interleaved: bool) -> FilterLayout:
        """For x (B, C, H, W): each filter alone."""
        return FilterLayout.PIXELS

    def _kernel(self, what: str, dtype: torch.dtype, kernel_size: int) -> str:
        return f"laconv_involution_{what}_{TYPES[dtype]}"
