"""The condition that stays packed, on a GPU: kernels beside float64, and a block beside the same on the CPU."""

from __future__ import annotations

import pytest
import torch

from laconvnet.kernels import cuda
from laconvnet.pipeline.model.blocks.base import BlockConfig
from tests.kernels import test_attention
from tests.kernels.test_packed import SHAPES, ByTorch, Found, Given, Sizes, compare, every_pass, given
from tests.pipeline.model.test_packed_condition import block, far, inputs, results

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU: torch.cuda.is_available() is False"),
]
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def on_gpu(these: Given) -> Given:
    packed, grad, weight, bias = (t.cuda() for t in (these.packed, these.grad, these.weight, these.bias))
    return Given(packed, grad, weight, bias, these.packing)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sizes", [*SHAPES, (8, 64, 13, 13, 8), (8, 128, 26, 26, 4)])
def test_kernels(way: cuda.Library, sizes: Sizes, dtype: torch.dtype) -> None:
    these = given(sizes, dtype)
    for passes in (way, ByTorch()):
        found = every_pass(passes, on_gpu(these))
        compare(Found(*(tensor.cpu() for tensor in vars(found).values())), these)
    first, second = (every_pass(way, on_gpu(these)) for _ in range(2))
    assert torch.equal(first.sums, second.sums)
    assert torch.equal(first.grad_packed, second.grad_packed)


@pytest.mark.parametrize("drop", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_attention_weights(way: cuda.Library, dtype: torch.dtype, drop: bool) -> None:
    scores, grad, real, keys = test_attention.given(dtype, 15, 676)
    call = (real.cuda(), keys.cuda() if drop else None, test_attention.P if drop else 0.0)
    found = (
        way.attention_weights(scores.cuda(), *call),
        way.attention_weights_backward(grad.cuda(), scores.cuda(), *call),
    )
    exact = test_attention.exactly(scores, grad, real, keys if drop else None)
    for ours, theirs in zip(found, exact, strict=True):
        apart = (ours.double().cpu() - theirs).abs()
        assert (apart <= theirs.abs() * torch.finfo(dtype).eps + 1e-6).all(), float(apart.max())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("config", [BlockConfig(16, 64, 4, 8, 3, 10), BlockConfig(64, 128, 4, 4, 7, 10)])
def test_a_block_is_that_of_the_cpu(config: BlockConfig, dtype: torch.dtype) -> None:
    """Within twice what the composition in the same type, on the CPU, is off from float64."""
    given = inputs(config, sides=(32, 32))
    exact = results(block(config, False), given)
    theirs = results(block(config, False, dtype), inputs(config, dtype=dtype, sides=(32, 32)))
    ours = results(
        block(config, False, dtype).cuda(), tuple(t.cuda() for t in inputs(config, dtype=dtype, sides=(32, 32)))
    )
    worst = max(far(theirs[name], value) for name, value in exact.items())
    for name, value in exact.items():
        assert far(ours[name].cpu(), value) <= 2 * worst, name
