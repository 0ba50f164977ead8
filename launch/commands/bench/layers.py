"""The layers of networks, to be measured one by one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from laconvnet.launch.commands.bench.networks import check_size
from laconvnet.pipeline.errors import ConfigError

if TYPE_CHECKING:
    from laconvnet.kernels.bench import Case


def layers_of(presets: Sequence[str], sizes: Sequence[int] | None, usual: Sequence[int]) -> list[Case]:
    """The distinct layers of the presets, of one image; one that several have is there once, under all their names.

    Without ``sizes`` images are as ``usual``, those of tiny 64 pixels. Raises ConfigError.
    """
    from dataclasses import replace

    from laconvnet.kernels.bench import Case
    from laconvnet.pipeline.model import PRESETS
    from laconvnet.pipeline.model.net import STRIDES

    found: dict[Case, list[str]] = {}
    for preset in dict.fromkeys(presets):
        if preset not in PRESETS:
            raise ConfigError(f"command line: --preset: {preset!r}: expected some of {', '.join(PRESETS)}")
        net = PRESETS[preset]
        for size in dict.fromkeys(sizes or ([64] if preset == "tiny" else usual)):
            check_size(size)
            for stage, stride in enumerate(STRIDES):
                for kernel_size in dict.fromkeys(net.kernels[stage]):
                    case = Case(
                        label="",
                        size=size,
                        stage=stage + 1,
                        batch=1,
                        unfold_batch=1,
                        channels=net.dims[stage],
                        condition=net.conditions[stage],
                        side=size // stride,
                        kernel_size=kernel_size,
                        groups=net.groups[stage],
                    )
                    found.setdefault(case, []).append(preset)
    return [replace(case, label=",".join(names)) for case, names in found.items()]
