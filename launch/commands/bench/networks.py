"""The network that a measurement is asked for, by its preset."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from laconvnet.pipeline.bench.speed import Network

PRECISIONS = ("fp32", "bf16", "fp16")
# Of a processor and of a GPU: pixels, images of a batch, number type.
_USUAL: dict[str, tuple[int, int, str]] = {"cpu": (224, 4, "fp32"), "cuda": (416, 32, "bf16")}


def add_network(command: Any) -> None:
    command.add_argument("--preset", default="s", metavar="P", help="as in `laconvnet model info` (default: s)")
    command.add_argument("--size", type=int, metavar="N", help="side of the image (default: CPU 224, GPU 416)")
    command.add_argument("--batch", type=int, metavar="N", help="images of a batch (default: CPU 4, GPU 32)")
    command.add_argument("--dtype", choices=PRECISIONS, help="number type (default: CPU fp32, GPU bf16)")


def network_of(arguments: argparse.Namespace, device: torch.device, task: str = "rec") -> Network:
    """Raises ConfigError for a network or a size that there is not, before anything is built."""
    from laconvnet.pipeline.bench.speed import Network
    from laconvnet.pipeline.errors import ConfigError
    from laconvnet.pipeline.model import PRESETS, ModelConfig
    from laconvnet.pipeline.model.heads import TASKS
    from laconvnet.pipeline.model.net import STRIDES

    for name, given, known in (("preset", arguments.preset, PRESETS), ("task", task, TASKS)):
        if given not in known:
            raise ConfigError(f"command line: --{name}: {given!r}: expected one of {', '.join(known)}")
    size, batch, dtype = _USUAL[device.type]
    size, batch = arguments.size or size, arguments.batch or batch
    if size % STRIDES[-1] or size < 1:
        raise ConfigError(f"command line: --size: expected a multiple of {STRIDES[-1]}, got {size}")
    return Network(ModelConfig(arguments.preset, task), size, batch=batch, precision=arguments.dtype or dtype)


def check_positive(arguments: argparse.Namespace, *names: str) -> None:
    """Raises ConfigError for a number that was given and is below 1."""
    from laconvnet.pipeline.errors import ConfigError

    for name in names:
        value = getattr(arguments, name)
        if value is not None and value < 1:
            option = name.replace("_", "-")
            raise ConfigError(f"command line: --{option}: {value}: expected at least 1")
