"""Adam, by the fastest implementation that this machine really has."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch

from laconvnet.pipeline.errors import ConfigError
from laconvnet.pipeline.training.apex import has_apex, without_apex

EXTENSION = "amp_C"  # of apex, with its Adam


@dataclass(frozen=True)
class OptimizerConfig:
    """Adam and what stands around it.

    Args:
        lr: Peak learning rate.
        betas: Adam's two decay rates.
        eps: Adam's epsilon.
        clip: Largest norm of the gradient; it is scaled down to that before the step.
        ema: Decay of the EMA weights that evaluation uses; 0 keeps none.
        freeze_norms: Batch norms use the statistics they start with and are not trained.
        implementation: `auto` takes apex's FusedAdam on a GPU where NVIDIA's apex is installed, else torch's fused one;
            `deepspeed` is DeepSpeed's FusedAdam for GPUs, which is compiled at its first use.
    """

    lr: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1e-9
    clip: float = 0.15
    ema: float = 0.9997
    freeze_norms: bool = False
    implementation: Literal["auto", "apex", "deepspeed", "torch"] = "auto"

    def __post_init__(self) -> None:
        if not 0 < self.lr < float("inf"):
            raise ConfigError(f"optimizer.lr: {self.lr}: expected more than 0, such as 1e-4")
        if not 0 <= self.ema < 1:
            raise ConfigError(f"optimizer.ema: {self.ema}: expected at least 0 and less than 1")
        if self.clip <= 0:
            raise ConfigError(f"optimizer.clip: {self.clip}: expected more than 0; a large number clips nothing")


def build_optimizer(
    config: OptimizerConfig, parameters: Iterable[torch.nn.Parameter], device: torch.device
) -> torch.optim.Optimizer:
    """Adam over these parameters, without weight decay, for a state that lies on ``device``.

    Raises ConfigError for an implementation that is not to be had there.
    """
    chosen = config.implementation
    on_gpu = device.type == "cuda"
    if chosen == "auto":
        chosen = "apex" if on_gpu and has_apex(EXTENSION) else "torch"
    if chosen in ("apex", "deepspeed") and not on_gpu:
        raise ConfigError(
            f"optimizer.implementation: {chosen!r}: runs on a GPU only, and not with engine.offload, which keeps "
            "Adam's state in the host's memory; use 'auto' or 'torch'"
        )
    recipe: dict[str, Any] = {"lr": config.lr, "betas": config.betas, "eps": config.eps}
    if chosen == "apex":
        if not has_apex(EXTENSION):
            raise ConfigError(f"optimizer.implementation: 'apex': {without_apex(EXTENSION)}; use 'auto' or 'torch'")
        from apex.optimizers import FusedAdam

        fused: torch.optim.Optimizer = FusedAdam(parameters, adam_w_mode=False, **recipe)
        return fused
    if chosen == "deepspeed":
        from deepspeed.ops.adam import FusedAdam as DeepSpeedAdam

        ours: torch.optim.Optimizer = DeepSpeedAdam(parameters, adam_w_mode=False, **recipe)
        return ours
    return torch.optim.Adam(parameters, fused=True, **recipe)
