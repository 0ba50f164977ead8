"""The stem on a GPU is one operator, and the leaky ReLU a part of the norm's passes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from laconvnet.pipeline.bench.moved import Moved
from laconvnet.pipeline.model.layers import norm_act
from laconvnet.pipeline.model.net import PRESETS, Downsample
from laconvnet.pipeline.model.norm import BatchNorm


def through(on_gpu: bool, images: Tensor) -> tuple[Tensor, Tensor, set[str]]:
    """The stem's result, the gradient of its weight, and what was called."""
    torch.manual_seed(0)
    stem = Downsample(PRESETS["s"], 3, 16, stem=True)
    stem.as_on_gpu = on_gpu
    with Moved() as moved, torch.autocast("cpu", torch.bfloat16):
        out = stem(images)
        out.float().square().sum().backward()
    weight = stem.project.weight
    assert isinstance(weight, Tensor)
    assert weight.grad is not None
    return out.detach(), weight.grad, set(moved.by_operator)


def test_the_stem_is_one_operator_on_a_gpu() -> None:
    images = torch.rand(2, 3, 8, 6).to(memory_format=torch.channels_last)
    one, other = through(True, images), through(False, images)
    assert {"laconv::stem", "laconv::stem_backward"} <= one[2]
    assert not {"laconv::stem", "laconv::stem_backward"} & other[2]
    assert torch.equal(one[0], other[0])
    torch.testing.assert_close(one[1], other[1], rtol=1e-2, atol=1e-2)


def test_not_where_the_image_has_a_gradient() -> None:
    images = torch.rand(2, 3, 8, 6, requires_grad=True)
    *_, called = through(True, images)
    assert "laconv::stem" not in called
    assert images.grad is not None


@pytest.mark.parametrize("with_sum", [False, True])
@pytest.mark.parametrize("on_gpu", [False, True])
def test_the_leaky_relu_of_a_norm(on_gpu: bool, with_sum: bool) -> None:
    torch.manual_seed(0)
    norm, plain = BatchNorm(4), BatchNorm(4)
    norm.as_on_gpu = on_gpu
    x, added = (torch.randn(3, 4, 5, 5, dtype=torch.float32) for _ in range(2))
    results = []
    for act in (True, False):
        leaves = [x.clone().requires_grad_(), added.clone().requires_grad_()]
        beside = leaves[1] if with_sum else None
        out = norm_act(norm, leaves[0], "leaky_relu", beside) if act else None
        if out is None:
            inner = plain(leaves[0])
            out = F.leaky_relu(inner if beside is None else beside + inner, 0.1)
        out.square().sum().backward()
        results.append([out.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)])
    assert (results[0][0] < 0).any()
    torch.testing.assert_close(results[0], results[1])
