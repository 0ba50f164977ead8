"""The network that a measurement is asked for, by its preset."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from laconvnet.launch.commandline import Arg
from laconvnet.pipeline.errors import ConfigError

if TYPE_CHECKING:
    import torch

    from laconvnet.pipeline.bench.speed import Network

Precision = Literal["fp32", "bf16", "fp16"]
Preset = Annotated[str, Arg("as in `laconvnet model info`", "P")]
Size = Annotated[int | None, Arg("side of the image (default: CPU 224, GPU 416)", "N")]
Batch = Annotated[int | None, Arg("images of a batch (default: CPU 4, GPU 32)", "N", at_least=1)]
Dtype = Annotated[Precision | None, Arg("number type (default: CPU fp32, GPU bf16)")]
# Of a processor and of a GPU: pixels, images of a batch, number type.
_USUAL: dict[str, tuple[int, int, str]] = {"cpu": (224, 4, "fp32"), "cuda": (416, 32, "bf16")}


def network_of(
    preset: str, size: int | None, batch: int | None, dtype: str | None, device: torch.device, task: str = "rec"
) -> Network:
    """Raises ConfigError for a network or a size that there is not, before anything is built."""
    from laconvnet.pipeline.bench.speed import Network
    from laconvnet.pipeline.model import PRESETS, ModelConfig
    from laconvnet.pipeline.model.heads import TASKS

    for name, given, known in (("preset", preset, PRESETS), ("task", task, TASKS)):
        if given not in known:
            raise ConfigError(f"command line: --{name}: {given!r}: expected one of {', '.join(known)}")
    usual_size, usual_batch, usual_dtype = _USUAL[device.type]
    size = size or usual_size
    check_size(size)
    return Network(ModelConfig(preset, task), size, batch=batch or usual_batch, precision=dtype or usual_dtype)


def check_size(size: int) -> None:
    """Raises ConfigError for a side that the strides of the network do not divide."""
    from laconvnet.pipeline.model.net import STRIDES

    if size % STRIDES[-1] or size < 1:
        raise ConfigError(f"command line: --size: expected a multiple of {STRIDES[-1]}, got {size}")
