"""The bench's kernel in Triton computes what the operator does."""

from __future__ import annotations

import pytest
import torch

from laconvnet.kernels.bench import triton_rival
from laconvnet.kernels.plain import taps

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not triton_rival.ready(), reason="no Triton, or no GPU for it"),
]


@pytest.mark.parametrize(("kernel_size", "condition", "channels", "groups"), [(3, 64, 16, 4), (7, 128, 64, 4)])
def test_its_results(kernel_size: int, condition: int, channels: int, groups: int) -> None:
    draws = torch.Generator("cuda").manual_seed(0)
    filters = kernel_size**2 * groups

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=draws, device="cuda", dtype=torch.bfloat16)

    x, cond = (draw(2, n, 13, 11).contiguous(memory_format=torch.channels_last) for n in (channels, condition))
    weight, bias = draw(filters, condition) / condition**0.5, draw(filters)
    made = torch.einsum("bmhw,fm->bfhw", cond.double(), weight.double()) + bias.double()[:, None, None]
    exact = taps.forward(x.double(), made, kernel_size, groups, False)
    found = triton_rival.laconv(x, cond, weight, bias, kernel_size, groups)
    assert ((found.double() - exact).abs().max() / exact.abs().max()).item() < 4 * torch.finfo(torch.bfloat16).eps
