"""Filters from the condition, and their dropout."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

import kernels


def inputs(side: int = 6) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(2, 4, side, side), torch.randn(2, 3, side, side), torch.randn(18, 3), torch.randn(18)


def test_projects_the_condition_and_convolves() -> None:
    x, cond, weight, bias = inputs()
    filters = torch.einsum("bmhw,om->bohw", cond, weight) + bias[:, None, None]
    torch.testing.assert_close(kernels.laconv(x, cond, weight, bias, 3, 2), kernels.dynamic_conv(x, filters, 3, 2))
    without = kernels.laconv(x, cond, weight, None, 3, 2)
    torch.testing.assert_close(without, kernels.dynamic_conv(x, filters - bias[:, None, None], 3, 2))


def test_one_condition_for_all_pixels() -> None:
    x, cond, weight, bias = inputs()
    shared = cond[:, :, :1, :1]
    expected = kernels.laconv(x, shared.expand_as(cond), weight, bias, 3, 2)
    torch.testing.assert_close(kernels.laconv(x, shared, weight, bias, 3, 2), expected)
    # The same filters everywhere make it an ordinary grouped convolution of each picture.
    filters = F.conv2d(shared, weight[:, :, None, None], bias)[0].view(9, 2).T.view(2, 1, 3, 3)
    ordinary = F.conv2d(x[:1], filters.repeat_interleave(2, 0), padding=1, groups=4)
    torch.testing.assert_close(kernels.laconv(x, shared, weight, bias, 3, 2)[:1], ordinary)


def test_dropout_follows_the_seed_and_nothing_else() -> None:
    x, cond, weight, bias = inputs()
    first = kernels.laconv(x, cond, weight, bias, 3, 2, dropout_p=0.3, seed=5)
    state = torch.get_rng_state()
    again = kernels.laconv(x, cond, weight, bias, 3, 2, dropout_p=0.3, seed=torch.tensor(5))
    assert torch.equal(first, again)
    assert torch.equal(state, torch.get_rng_state())
    assert not torch.equal(first, kernels.laconv(x, cond, weight, bias, 3, 2, dropout_p=0.3, seed=6))


def test_dropout_keeps_and_scales() -> None:
    ones = torch.ones(200, 500, requires_grad=True)
    out = torch.ops.laconv.seeded_dropout(ones, torch.tensor(1), 0.1)
    kept = out != 0
    assert kept.float().mean().item() == pytest.approx(0.9, abs=0.005)
    torch.testing.assert_close(out[kept], torch.full_like(out[kept], 1 / 0.9))
    out.backward(torch.ones_like(out))
    assert torch.equal(ones.grad, out)  # the same mask forward and backward


def test_dropout_keeps_no_mask_for_backward() -> None:
    kept: list[Tensor] = []
    x = torch.ones(50, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        torch.ops.laconv.seeded_dropout(x, torch.tensor(1), 0.1)
    assert [t.numel() for t in kept] == [1]


def test_a_recomputed_forward_sees_the_same_mask() -> None:
    x, cond, weight, bias = inputs()
    weight.requires_grad_()

    def run() -> Tensor:
        seed = torch.randint(2**62, ())
        return kernels.laconv(x, cond, weight, bias, 3, 2, dropout_p=0.5, seed=seed).square().sum()

    torch.manual_seed(3)
    (plain,) = torch.autograd.grad(run(), weight)
    torch.manual_seed(3)
    (recomputed,) = torch.autograd.grad(checkpoint(run, use_reentrant=False), weight)
    assert torch.equal(plain, recomputed)


@pytest.mark.parametrize(
    ("argument", "change"),
    [
        ("weight", {"weight": torch.zeros(18, 4)}),
        ("weight", {"weight": torch.zeros(18, 3, 1, 1)}),
        ("dropout_p", {"dropout_p": 1.0}),
        ("seed", {"dropout_p": 0.1}),
        ("seed", {"dropout_p": 0.1, "seed": 0.5}),
        ("filters", {"weight": torch.zeros(19, 3), "bias": None}),
    ],
)
def test_what_does_not_fit_is_named(argument: str, change: dict[str, Any]) -> None:
    x, cond, weight, bias = inputs()
    arguments: dict[str, Any] = {"x": x, "cond": cond, "weight": weight, "bias": bias, "kernel_size": 3, "groups": 2}
    with pytest.raises(ValueError, match=f"^{argument}: "):
        kernels.laconv(**arguments | change)
