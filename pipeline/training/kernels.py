"""Which implementation of LaConv a run trains with: the same kind on every process, settled before the first step."""

from __future__ import annotations

import torch
from torch import nn

from laconvnet.kernels import backend
from laconvnet.pipeline.distributed import Ranks
from laconvnet.pipeline.errors import ConfigError
from laconvnet.pipeline.model.blocks.laconv import Filters
from laconvnet.pipeline.training.engine import Engine


def settle(model: nn.Module, engine: Engine) -> backend.InUse | None:
    """Choose what `engine.kernels` asks for, compile and try it; what runs. None: the model has no LaConv.

    All processes must call it. Raises ConfigError on every one of them where one lacks what is required.
    """
    backend.choose(engine.config.kernels)
    if not any(isinstance(module, Filters) for module in model.modules()):
        return None
    try:
        # A process that compiles for minutes is waited for here, and one that cannot stops them all.
        found = Ranks(engine.rank, engine.world).each(lambda: _checked(engine.config.kernels, engine.device))
    except Exception:
        engine.leave()
        raise
    if engine.agree(int(not found.compiled)) and found.compiled:
        # Its own warning may stand in a log that nobody reads, and the pace is that of the slowest.
        words = f"{found.words}; but a process beside this one runs in plain PyTorch, and all wait for it"
        return backend.InUse(False, words, "a process beside this one runs in plain PyTorch")
    return found


def _checked(choice: backend.Choice, device: torch.device) -> backend.InUse:
    found = backend.in_use(device)
    if choice == "require" and not found.compiled:
        compiler = "nvcc, or run `laconvnet kernels build`," if device.type == "cuda" else "a C++ compiler (g++),"
        raise ConfigError(
            f"engine.kernels: 'require': no compiled LaConv kernels on {device}: {found.reason}; install {compiler} or "
            "train several times slower with --engine.kernels plain"
        )
    return found
