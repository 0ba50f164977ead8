from __future__ import annotations

import torch
from torch import nn

from laconvnet.pipeline.training.ema import Ema


def test_floats_are_averaged_and_integers_copied() -> None:
    model = nn.BatchNorm1d(2)
    ema = Ema(model, 0.5)
    with torch.no_grad():
        model.weight.fill_(3.0)
        model.running_mean.fill_(4.0)  # type: ignore[union-attr]
        model.num_batches_tracked.fill_(7)  # type: ignore[union-attr]
    ema.update(10_000)
    assert ema.tensors["weight"].tolist() == [2.0, 2.0]
    assert ema.tensors["running_mean"].tolist() == [2.0, 2.0]
    assert ema.tensors["num_batches_tracked"].item() == 7
    assert ema.tensors["num_batches_tracked"].dtype == torch.int64


def test_the_decay_warms_up() -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    ema = Ema(model, 0.9997)
    nn.init.ones_(model.weight)
    ema.update(0)
    torch.testing.assert_close(ema.tensors["weight"], torch.tensor([[0.9]]))


def test_the_average_is_no_view_of_the_weights() -> None:
    model = nn.Linear(2, 2)
    ema = Ema(model, 0.9)
    before = ema.tensors["weight"].clone()
    nn.init.constant_(model.weight, 5.0)
    assert torch.equal(ema.tensors["weight"], before)
