"""`laconvnet kernels`: the CUDA kernels of LaConv."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from laconvnet.launch import commandline
from laconvnet.launch.commandline import Arg
from laconvnet.launch.commands.output import rows, show


def add(commands: Any) -> None:
    commandline.group(commands, "kernels", "the CUDA kernels of LaConv", "The CUDA kernels of LaConv.", build)


def build(
    *,
    arch: Annotated[
        Sequence[Literal["80", "90a", "100"]],
        Arg(
            "GPUs to compile for: 80 (A100), 90a (H100, H200), 100 (B200); several times for several (default: the "
            "GPUs of this machine, or all three where there is none)",
            append=True,
        ),
    ] = (),
    verbose: Annotated[bool, Arg("print registers, spills and memory of each kernel")] = False,
    json: Annotated[bool, Arg("print one JSON object; --verbose: one more a kernel")] = False,
) -> int:
    """Compile the kernels now.

    Compile the CUDA kernels into the cache (LACONVNET_KERNEL_CACHE, else the user's cache folder), where every run
    finds them. The first run on a GPU does the same for its own kind of GPU; a machine without a GPU can do it for
    others.
    """
    from laconvnet.kernels import cuda
    from laconvnet.kernels.cuda import resources
    from laconvnet.kernels.cuda.cache import LOG

    try:
        built = cuda.build(arch or _here(), retry=True)
    except cuda.BuildError as error:
        print(f"laconvnet: {error}", file=sys.stderr)
        return 1
    size = built.library.stat().st_size
    found = {"library": str(built.library), "architectures": list(built.architectures), "nvcc": built.nvcc}
    show({**found, "bytes": size}, json)
    if verbose:
        kernels = resources.parse((built.folder / LOG).read_text())
        names = resources.readable([one.kernel for one in kernels])
        if not json:
            print()
        rows(
            [
                {
                    "kernel": name,
                    "sm": one.architecture,
                    "registers": one.registers,
                    "stack": one.stack,
                    "spills": one.spills,
                    "shared": one.shared,
                }
                for name, one in zip(names, kernels, strict=True)
            ],
            json,
        )
    return 0


def _here() -> list[str]:
    """The architectures of this machine's GPUs; all where it has none that the kernels run on."""
    import torch

    from laconvnet.kernels.cuda.toolchain import ARCHITECTURES, architecture

    devices = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
    found = {architecture(torch.cuda.get_device_capability(index)) for index in devices}
    return sorted(name for name in found if name) or list(ARCHITECTURES)
