"""The mask of the filters' dropout, by itself."""

from __future__ import annotations

import math

import pytest
import torch

from laconvnet.kernels import cpu, dropout


def test_the_mask_is_independent_of_layout_and_of_what_lies_before_in_the_batch() -> None:
    whole = torch.ones(5, 18, 4, 3)
    dropout.dropout_(whole, torch.tensor([8]), 10, 0.3)
    last = torch.ones(2, 18, 4, 3).contiguous(memory_format=torch.channels_last)
    dropout.dropout_(last, torch.tensor(8), 13, 0.3)
    assert torch.equal(whole[3:], last)
    assert not torch.equal(whole[0], whole[1])


def test_the_compiled_kernel_drops_what_plain_pytorch_drops() -> None:
    native = cpu.ready()
    if native is None:
        pytest.skip("no C++ compiler here")
    torch.manual_seed(0)
    for seed in (0, -1, 2**62 + 12345):
        for filters in (torch.rand(3, 18, 7, 5) + 1, (torch.rand(18, 3, 7, 5) + 1).transpose(0, 1)):
            expected, found = filters.clone(), filters.clone()
            dropout.dropout_(expected, torch.tensor([seed]), 4, 0.3)
            native.dropout_(found, torch.tensor([seed]), 4, 0.3)
            assert torch.equal(found, expected)


def test_dropout_keeps_and_scales() -> None:
    filters = torch.ones(4, 49, 40, 40)
    dropout.dropout_(filters, torch.tensor(1), 0, 0.1)
    kept = filters != 0
    n = kept.numel()
    assert kept.float().mean().item() == pytest.approx(0.9, abs=4 * math.sqrt(0.09 / n))
    torch.testing.assert_close(filters[kept], torch.full_like(filters[kept], 1 / 0.9))
    # Independent between neighbours, planes and images: as often together as by chance.
    dropped = (~kept).float()
    for a, b in (
        (dropped[..., 1:], dropped[..., :-1]),
        (dropped[:, 1:], dropped[:, :-1]),
        (dropped[1:], dropped[:-1]),
    ):
        assert (a * b).mean().item() == pytest.approx(0.01, abs=4 * math.sqrt(0.01 / a.numel()))
