"""apex's FusedAdam on a GPU: the steps of torch's Adam. Its norms: test_fused_norm_gpu.py."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from laconvnet.pipeline.training.apex import has_apex, without_apex
from laconvnet.pipeline.training.optimizer import EXTENSION, OptimizerConfig, build_optimizer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU: torch.cuda.is_available() is False"),
    pytest.mark.skipif(not has_apex(EXTENSION), reason=without_apex(EXTENSION)),
]
STEPS = 20


def trained(implementation: str, dtype: torch.dtype) -> list[Tensor]:
    """Weights of many shapes after some steps on gradients that are the same for all implementations."""
    draws = torch.Generator().manual_seed(0)
    shapes = ((512, 512), (3, 5, 7), (1,), (1000,))
    weights = [nn.Parameter(torch.randn(shape, generator=draws).to("cuda", dtype)) for shape in shapes]
    config = OptimizerConfig(lr=1e-2, implementation=implementation)  # type: ignore[arg-type]
    optimizer = build_optimizer(config, weights, torch.device("cuda", 0))
    for _ in range(STEPS):
        for weight in weights:
            weight.grad = torch.randn(weight.shape, generator=draws).to("cuda", dtype)
        optimizer.step()
    return [weight.detach() for weight in weights]


def test_adam_is_that_of_torch() -> None:
    """As near to Adam in float64 as torch's fused one is, but for a factor; another epsilon or decay is farther."""
    exact = trained("torch", torch.float64)
    for ours, theirs, true in zip(trained("apex", torch.float32), trained("torch", torch.float32), exact, strict=True):
        allowed = 4 * (theirs.double() - true).abs().max() + torch.finfo(torch.float32).eps * true.abs().max()
        assert (ours.double() - true).abs().max() <= allowed
