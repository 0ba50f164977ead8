"""`laconvnet kernels`: the compiled kernels of LaConv."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from laconvnet.launch import commandline
from laconvnet.launch.commandline import Arg
from laconvnet.launch.commands.output import rows, show
from laconvnet.terminal import complain, say


def add(commands: Any) -> None:
    commandline.group(commands, "kernels", "the compiled kernels of LaConv", "The compiled kernels of LaConv.", build)


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

    Compile the CUDA kernels, and the C++ kernel of this machine's CPU, into the cache (LACONVNET_KERNEL_CACHE, else the
    user's cache folder), where every run finds them, and try them on what this machine has. The first run on a GPU
    does the same for its own kind of GPU; a machine without a GPU can do it for others. Ends with 1 where the CUDA
    kernels cannot be compiled or fail.

    For example:
      laconvnet kernels build
    """
    from laconvnet.kernels import cuda
    from laconvnet.kernels.cuda import resources
    from laconvnet.kernels.cuda.cache import LOG

    cpu = _cpu()
    try:
        built = cuda.build(arch or _here(), retry=True)
    except cuda.BuildError as error:
        complain(f"laconvnet: {error}")
        return 1
    probes = _probes(built.architectures)
    found = {
        "library": str(built.library),
        "architectures": list(built.architectures),
        "codes": list(built.codes),
        "nvcc": built.nvcc,
        "bytes": built.library.stat().st_size,
        "sha256": built.checksum,
        "probe": probes,
        "cpu": cpu,
    }
    show(found if json else {**found, "probe": "; ".join(f"{k}: {v}" for k, v in probes.items()) or "no GPU"}, json)
    if verbose:
        kernels = resources.parse((built.folder / LOG).read_text())
        names = resources.readable([one.kernel for one in kernels])
        if not json:
            say()
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
    return int(any(result != _OK for result in probes.values()))


_OK = "ok"


def _cpu() -> str:
    """The library of the CPU, built and tried, or why there is none."""
    from laconvnet.kernels import cpu
    from laconvnet.kernels.cpu import build

    try:
        stored = build.build(retry=True)
    except cpu.BuildError as error:
        return f"plain PyTorch: {error}"
    found = cpu.outcome()
    return f"plain PyTorch: {found}" if isinstance(found, str) else f"{stored.path}, by {stored.made_from['compiler']}"


def _probes(built: Sequence[str]) -> dict[str, str]:
    """What became of a small launch on each GPU of this machine that was compiled for: ok, or the reason."""
    import torch

    from laconvnet.kernels import cuda

    here = [index for index, name in _devices().items() if name in built]
    found = {f"cuda:{index}": cuda.outcome(torch.device("cuda", index)) for index in here}
    return {name: outcome if isinstance(outcome, str) else _OK for name, outcome in found.items()}


def _here() -> list[str]:
    """The architectures of this machine's GPUs; all where it has none that the kernels run on."""
    from laconvnet.kernels.cuda.toolchain import ARCHITECTURES

    return sorted({name for name in _devices().values() if name}) or list(ARCHITECTURES)


def _devices() -> dict[int, str | None]:
    """This machine's GPUs, and what to compile for each; None for one that the kernels do not run on."""
    import torch

    from laconvnet.kernels.cuda.toolchain import architecture

    devices = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
    return {index: architecture(torch.cuda.get_device_capability(index)) for index in devices}
