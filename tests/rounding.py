"""The measure of rounding: what a run makes of weights that begin a unit in the last place elsewhere.

Two ways to compute the same may add up in another order. Each step makes more of it, through the network's kinks and
Adam's division by gradients of hardly any size, and how much more depends on the processor. So what is allowed is no
number: a test runs the plain way again from weights that are `nudged`, on the same machine, and asks that the other way
be no farther from the plain one than TIMES the farthest of these. test_rounding.py shows that real faults are.

Batch norm over the eight small images of a test makes a thousand times more of a nudge than the rest of the network:
where a test is not about it, `--optimizer.freeze_norms true` lets the same comparison see a thousand times less.

As a script this is the command line, from nudged weights where NUDGE asks for it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import torch
from torch import nn

from laconvnet.pipeline.config import TrainConfig
from laconvnet.pipeline.model.model import Model

SEEDS = (1, 2, 3)  # of the nudges: one of them may happen to change little
TIMES = 10.0


def nudged(model: nn.Module, seed: int, dtype: torch.dtype = torch.float32) -> nn.Module:
    """Every weight times 1 + or - the smallest step of this type above 1, the sign by lot."""
    draws = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(1 + (torch.randint(2, weight.shape, generator=draws) * 2 - 1) * torch.finfo(dtype).eps)
    return model


def nudge(seed: int, dtype: torch.dtype = torch.float32) -> str:
    """The value of NUDGE that asks for this nudge."""
    return f"{seed}:{str(dtype).removeprefix('torch.')}"


def begin_nudged() -> None:
    """Have new runs of this process begin on nudged weights where NUDGE is set; a resumed run's stay as they are."""
    if not (given := os.environ.get("NUDGE")):
        return
    from laconvnet.pipeline.training import start
    from laconvnet.pipeline.training.start import Learned

    seed, name = given.split(":")
    fresh = start._fresh

    def begun_nudged(config: TrainConfig, made: Learned) -> Model:
        model = fresh(config, made)
        nudged(model, int(seed), getattr(torch, name))
        return model

    start._fresh = begun_nudged


def apart(some: Sequence[float], others: Sequence[float]) -> list[float]:
    """The relative difference of each pair."""
    return [abs(a - b) / abs(b) for a, b in zip(some, others, strict=True)]


def allowed(plain: Sequence[float], controls: Sequence[Sequence[float]], times: float = TIMES) -> list[float]:
    """For each number: `times` the farthest that a control has been from it or from one before it.

    At least one unit in the last place of float32 counts as that far: in it the numbers are computed.
    """
    found, farthest = [], torch.finfo(torch.float32).eps
    for differences in zip(*(apart(control, plain) for control in controls), strict=True):
        farthest = max(farthest, *differences)
        found.append(times * farthest)
    return found


def assert_rounding(
    found: Sequence[float], plain: Sequence[float], controls: Sequence[Sequence[float]], times: float = TIMES
) -> None:
    """Fails unless every number (a loss a step, say) is as near to that of the plain way as rounding explains."""
    assert len(found) == len(plain) > 0
    bounds = allowed(plain, controls, times)
    for number, (difference, bound) in enumerate(zip(apart(found, plain), bounds, strict=True)):
        assert difference <= bound, f"number {number} is {difference:.2e} apart; rounding explains {bound:.2e}"


if __name__ == "__main__":
    from laconvnet.launch import cli

    begin_nudged()
    sys.exit(cli.main(sys.argv[1:]))
