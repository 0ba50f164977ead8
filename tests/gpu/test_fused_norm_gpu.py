"""apex's batch norm, sum and ReLU on a GPU: the layer of PyTorch, to the rounding of the maps' type."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from laconvnet.pipeline.model import fused_norm
from laconvnet.pipeline.model.norm import BatchNorm
from laconvnet.pipeline.training.apex import has_apex, without_apex

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU: torch.cuda.is_available() is False"),
    pytest.mark.skipif(not has_apex(fused_norm.EXTENSION), reason=without_apex(fused_norm.EXTENSION)),
]


def trained(norm: BatchNorm, x: Tensor, beside: Tensor | None, relu: bool, grad: Tensor) -> dict[str, Tensor]:
    given = {"x": x, "beside": beside}
    leaves = {name: leaf.detach().clone().requires_grad_() for name, leaf in given.items() if leaf is not None}
    out = norm(leaves["x"], leaves.get("beside"), relu=relu)
    out.backward(grad.to(out.dtype))
    grads = {name: leaf.grad for name, leaf in {**leaves, **dict(norm.named_parameters())}.items()}
    assert all(grad is not None for grad in grads.values())
    found = {name: grad for name, grad in grads.items() if grad is not None}
    return {"out": out.detach(), **found, **dict(norm.named_buffers())}


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("with_sum", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("shape", [(8, 64, 52, 52), (4, 24, 13, 13), (2, 512, 1, 1)])
def test_is_the_layer_of_pytorch(shape: tuple[int, ...], dtype: torch.dtype, with_sum: bool, relu: bool) -> None:
    torch.manual_seed(0)
    x, beside, grad = (
        torch.randn(shape, device="cuda").to(dtype).contiguous(memory_format=torch.channels_last) for _ in range(3)
    )
    found = []
    for exact in (False, True):
        norm = BatchNorm(shape[1]).cuda()
        with torch.no_grad():
            norm.weight.copy_(torch.linspace(-1, 2, shape[1]))
            norm.bias.copy_(torch.linspace(1, -1, shape[1]))
        norm.fused = not exact
        given = [each.double() if exact else each for each in (x, beside, grad)]
        assert exact or fused_norm.takes(x, beside)
        found.append(
            trained(norm.double() if exact else norm, given[0], given[1] if with_sum else None, relu, given[2])
        )
    ours, theirs = found
    for name, value in ours.items():
        scale = theirs[name].abs().max().clamp_min(1e-6).double()
        bound = 2e-3 if dtype == torch.float16 else 1e-5
        far = (value.double() - theirs[name].double()).abs() / scale > bound
        assert float(far.double().mean()) <= 1e-5, name  # an output may round to the other side of the ReLU's zero
