"""The CUDA kernels of the MLP on a CPU: the very source under the emulation, against float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from laconvnet.kernels.cuda.compiler import units
from laconvnet.kernels.cuda.mlp import MlpArguments
from tests.kernels import compilers
from tests.kernels.cuda_emulated import OnCpu, build_emulated
from tests.kernels.mlps import Given, errors, every_pass, exactly, given

DTYPES = (torch.float16, torch.bfloat16)
GUARD = 64


class Poisoned(OnCpu):
    """Partial sums lie in memory that begins as NaN and may not be left."""

    guards: list[Tensor]

    def _mlp_workspace(self, arguments: MlpArguments, y: Tensor) -> Tensor:
        floats = super()._mlp_workspace(arguments, y).numel()
        room = torch.full((floats + GUARD,), torch.nan)
        self.guards = [room[floats:]]
        return room[:floats]


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Poisoned:
    compilers.gxx()
    wanted = [unit for unit in units() if unit.source.startswith("mlp/") or unit.name == "dropout"]
    return Poisoned(build_emulated(tmp_path_factory.mktemp("mlp"), wanted))


def amid_nan(values: Tensor) -> Tensor:
    """The same values in the same layout with NaN before and behind."""
    room = torch.full((values.numel() + 2 * GUARD,), torch.nan, dtype=values.dtype)
    last = values.movedim(1, -1) if values.dim() == 4 else values
    inner = room[GUARD : GUARD + values.numel()].view(last.shape).copy_(last)
    return inner.movedim(-1, 1) if values.dim() == 4 else inner


def bounds(dtype: torch.dtype) -> dict[str, float]:
    """Of the largest value: half a unit where a result is rounded, sums over pixels of products of rounded numbers."""
    unit = torch.finfo(dtype).eps
    sums = dict.fromkeys(("of_w1", "of_w2", "of_weight", "of_bias"), unit)
    return {"mean": 1e-6, "var": 3e-6, "out": unit, "of_y": 2 * unit} | sums


def compare(kernels: Any, these: Given) -> None:
    found, exact = errors(every_pass(kernels, these), exactly(these)), bounds(these.y.dtype)
    assert {name: error for name, error in found.items() if error > exact[name]} == {}


SHAPES = [
    (1, 16, 4, 4),  # 16 pixels, as many as a warp takes
    (2, 16, 5, 7),  # the last 16 are not whole
    (3, 16, 13, 11),  # several blocks
    (1, 16, 3, 3),
    (1, 64, 8, 8),  # 64 pixels, as many as are summed at a time
    (3, 64, 9, 7),  # two blocks, the second not whole
    (1, 64, 3, 5),
    (1, 128, 8, 8),
    (2, 128, 9, 8),
    (1, 128, 3, 5),
    (1, 256, 5, 7),  # two blocks, the second not whole
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_pass(kernels: Poisoned, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    compare(kernels, given(shape, dtype).changed(amid_nan))
    assert kernels.guards[0].isnan().all()
