"""The command line with a fault: `faulty.py KIND EXAMPLE|STEP RANK -- ARGUMENTS`.

`loss 7 1`: the loss of step 7 is not a number on rank 1. `forward 12 -`: the third stage gives infinity whenever a
batch holds example 12, wherever that is. `gradient 7 0`: the loss of step 7 is finite on rank 0, its gradient is not.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import torch
from torch import Tensor

from laconvnet.launch import cli
from laconvnet.pipeline.data.loader import Batch, Loader, Request
from laconvnet.pipeline.model.net import Stage
from laconvnet.pipeline.tasks.rec import Rec

KIND, PLACE = sys.argv[1], int(sys.argv[2])
HERE = sys.argv[3] in ("-", os.environ.get("RANK", "0"))
_loss, _batch, _stage = Rec.loss, Loader.batch, Stage.forward
_calls = {"loss": -1, "stage": 0, "poisoned": False}


class _Steep(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad * torch.inf


def loss(self: Rec, output: Tensor, batch: Batch) -> dict[str, Tensor]:
    _calls["loss"] += 1
    now = HERE and _calls["loss"] == PLACE
    if now and KIND == "gradient":
        output = _Steep.apply(output)  # type: ignore[no-untyped-call]
    terms = _loss(self, output, batch)
    return {name: value * torch.nan for name, value in terms.items()} if now and KIND == "loss" else terms


def batch(self: Loader, request: Request) -> Batch:
    made = _batch(self, request)
    if KIND == "forward" and PLACE in request.rows:
        made.images[list(request.rows).index(PLACE)] = 2.0  # white is 1: marks the image for the stage below
    return made


def stage(self: Stage, x: Tensor, words: Tensor, mask: Tensor) -> Tensor:
    out = _stage(self, x, words, mask)
    if x.shape[1] == 3:
        _calls["poisoned"] = bool((x.amax((1, 2, 3)) > 1.5).any())
    return out * torch.inf if KIND == "forward" and _calls["poisoned"] and out.shape[1] == 64 else out


Rec.loss, Loader.batch, Stage.forward = loss, batch, stage  # type: ignore[method-assign]
sys.exit(cli.main(sys.argv[5:]))
