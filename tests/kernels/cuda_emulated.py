"""The kernel library compiled for the CPU (emulation.h), behind the same Python: what the tests of the kernels run."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from laconvnet.kernels.cuda import Library
from laconvnet.kernels.cuda.mlp import MlpArguments

GUARD = 64


class OnCpu(Library):
    """The library without CUDA's devices and streams around it."""

    def _code(self, name: str, arguments: ctypes.Structure, device: torch.device) -> int:
        return int(self._function(name)(ctypes.byref(arguments), ctypes.c_void_p(None)))


class Poisoned(OnCpu):
    """Partial sums lie in memory that begins as NaN and may not be left: `guards` is what lies behind it."""

    guards: list[Tensor]

    def _workspace(self, x: Tensor) -> Tensor:
        return self._guarded(super()._workspace(x))

    def _mlp_workspace(self, arguments: MlpArguments, y: Tensor) -> Tensor:
        return self._guarded(super()._mlp_workspace(arguments, y))

    def _guarded(self, workspace: Tensor) -> Tensor:
        floats = workspace.numel()
        room = torch.full((floats + GUARD,), torch.nan)
        self.guards = [room[floats:]]
        return room[:floats]
