"""Adam's state of a whole model, whatever ZeRO stage and number of processes hold their pieces.

At some 35 M parameters the consolidated fp32 state is small, so one file serves every world size and stage;
DeepSpeed's own files would have to be converted whenever either changes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

Moments = dict[str, dict[str, Tensor]]
_NAMES = ("exp_avg", "exp_avg_sq")


@contextmanager
def whole(model: nn.Module, zero: int) -> Iterator[None]:
    """Within, every process sees every weight in full; a collective under ZeRO 3, nothing otherwise."""
    if zero < 3:
        yield
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters(list(model.parameters())):
        yield


def gather_optimizer_state(model: nn.Module, wrapped: Any, zero: int) -> Moments:
    """Adam's moments of every trained weight by its name, in fp32 and of the weight's shape.

    A collective under ZeRO 1-3: call it on all ranks. The tensors may be views of what the next step writes.
    """
    from deepspeed.utils import safe_get_full_optimizer_state

    moments: Moments = {}
    for name, parameter in _trained(model):
        if zero:
            found = {key: safe_get_full_optimizer_state(parameter, key) for key in _NAMES}
        else:
            state = wrapped.optimizer.state[parameter]
            found = {key: state[key] for key in _NAMES}
        moments[name] = {key: value.detach().float() for key, value in found.items()}
    return moments


def scatter_optimizer_state(model: nn.Module, wrapped: Any, zero: int, moments: Moments, step: int) -> None:
    """Put moments that `gather_optimizer_state` returned back in their places, and Adam's step count with them.

    Each is of its weight's shape, also where this process holds a piece of it. Raises KeyError for a trained weight
    that has none. Call it on all ranks.
    """
    from deepspeed.utils import safe_set_full_optimizer_state, safe_set_local_optimizer_state

    adam = wrapped.optimizer.optimizer if zero else wrapped.optimizer
    # ZeRO 3 hands Adam its partitions only while it steps.
    held = [weight for group in adam.param_groups for weight in group["params"]]
    for weight in wrapped.optimizer.fp32_partitioned_groups_flat if zero == 3 else held:
        adam.state[weight] = {**_count(adam, step, weight), **{key: torch.zeros_like(weight) for key in _NAMES}}
    if zero in (1, 2):
        # Otherwise these stages learn where Adam keeps its state only at the first step.
        wrapped.optimizer._lazy_init_hp_params_optimizer_state()
    for name, parameter in _trained(model):
        for key in _NAMES:
            value = moments[name][key].to(parameter.device)
            if zero == 3:
                # The setter of full states refuses a weight whose size the number of processes does not divide.
                safe_set_local_optimizer_state(parameter, _partition(value, parameter), key)
            elif zero:
                safe_set_full_optimizer_state(parameter, value, key)
            else:
                adam.state[parameter][key].copy_(value)


def _count(adam: torch.optim.Optimizer, step: int, weight: Tensor) -> dict[str, Any]:
    """Adam's step count where its implementation looks for it: bias correction must not begin again."""
    if isinstance(adam, torch.optim.Adam):
        return {"step": torch.tensor(float(step), device=weight.device)}
    for group in adam.param_groups:
        group["step"] = step  # apex keeps it here only
    return {"step": step}  # DeepSpeed passes it to its kernel, which takes no tensor


def _partition(value: Tensor, parameter: Any) -> Tensor:
    """This process's piece of a full state: ZeRO 3 pads weights to pieces of one length."""
    length, world = parameter.ds_tensor.ds_numel, torch.distributed.get_world_size()
    padded = torch.nn.functional.pad(value.flatten(), (0, length * world - value.numel()))
    return padded.view(world, length)[torch.distributed.get_rank()]


def _trained(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    return ((name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad)
