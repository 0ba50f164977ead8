"""`laconvnet bench kernel`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from laconvnet.launch.commandline import Arg, JsonLines
from laconvnet.launch.commands.bench.layers import layers_of
from laconvnet.launch.commands.bench.measured import Measured
from laconvnet.launch.commands.bench.networks import Precision
from laconvnet.launch.commands.bench.options import Device, Record, device_of, end_of
from laconvnet.launch.commands.bench.progress import bar
from laconvnet.launch.commands.bench.tables import check_plot
from laconvnet.launch.commands.bench.tables import plot as draw
from laconvnet.pipeline.errors import ConfigError
from laconvnet.terminal import complain

if TYPE_CHECKING:
    import torch

    from laconvnet.kernels.bench import Case

# The tensor of unfold decides what fits: bytes for it, of which the baseline holds about four. On a GPU below 2^31
# numbers of any type, too.
_UNFOLD_BYTES = {"cpu": 320 * 2**20, "cuda": 4 * 2**30}
_LARGEST_BATCH = {"cpu": 32, "cuda": 64}


def kernel(
    *,
    device: Device = None,
    dtype: Annotated[Sequence[Precision], Arg("number types")] = (),
    preset: Annotated[Sequence[str], Arg("networks, as in `laconvnet model info`", "P")] = (),
    size: Annotated[Sequence[int], Arg("sides of the image (64 for tiny)", "N", at_least=1)] = (),
    batch: Annotated[int | None, Arg("images (default: as many as there is room for)", "N", at_least=1)] = None,
    stage: Annotated[Sequence[int], Arg("stages of the network (default: all)", "N", at_least=1)] = (),
    without: Annotated[Sequence[str], Arg("ways to leave out", "WAY")] = (),
    rounds: Annotated[int | None, Arg("times each way runs (default: 9)", "N", at_least=1)] = None,
    quick: Annotated[bool, Arg("3 rounds, nothing compiled, on a CPU 2 images at most")] = False,
    minutes: Annotated[float | None, Arg("begin no layer after these", "N", above=0)] = None,
    dispatch: Annotated[Path | None, Arg("keep here which path was faster", "FILE")] = None,
    plot: Annotated[Path | None, Arg("draw a roofline of what was measured, as PNG", "FILE")] = None,
    json: JsonLines = False,
    record: Record = None,
) -> int:
    """The LaConv operator against unfold + einsum.

    Time the LaConv operator at every stage of a network, beside what it replaces.

    Each layer is measured as `dynamic_conv` (filters given) and as `laconv` (filters projected from the condition),
    forward and backward apart and together. The ways:
      unfold           unfold + einsum in eager PyTorch; the baseline of every ratio
      unfold_compiled  the same under torch.compile (minutes of compiling; --quick leaves it out)
      taps             our loop over taps in plain PyTorch, used where no compiled kernel is
      involution       one thread an output number, as the authors' kernel (GPU, where it is built)
      triton           a kernel in Triton that makes filters and uses them, forward alone (GPU, where Triton is)
      fused, chunks    its two paths, filters made on the chip or for a chunk of images at a time (GPU)
      laconv           what the operator uses on this device
    All ways run once a round, so that a busy machine slows all of them alike. A row tells the median over rounds in
    ms, the distance of the quartiles, the ratio (baseline's median / median, each by its number of images: unfold takes
    fewer where it has no room for all), GB/s over the bytes that must move at least, the part of the rate of a copy
    measured in the same run, and the memory taken. A GPU is timed by its own events, with warm and with flushed cache.
    float32 is without TF32 in every way. Where the baseline is left out there are no ratios.

    Defaults: on a CPU preset s, 416 pixels, fp32; on a GPU presets s and b, 224 and 416 pixels, bf16 and fp32.

      laconvnet bench kernel --preset tiny --quick
      laconvnet bench kernel --device cuda --preset s b --dtype bf16 --json > kernel.jsonl
      laconvnet bench show kernel.jsonl
    """
    import torch

    from laconvnet.kernels import bench
    from laconvnet.kernels.bench.implementations import WAYS
    from laconvnet.kernels.bench.run import DTYPES, OPERATIONS
    from laconvnet.kernels.dispatch import keep

    check_plot(plot)
    if not set(without) < set(WAYS):
        raise ConfigError(f"command line: --without: {', '.join(without)}: expected some of {', '.join(WAYS)}, not all")
    where = device_of(device)
    on_gpu = where.type == "cuda"
    names = dtype or (["bf16", "fp32"] if on_gpu else ["fp32"])
    layers = layers_of(preset or (["s", "b"] if on_gpu else ["s"]), size, [224, 416] if on_gpu else [416])
    known = sorted({case.stage for case in layers})
    if not set(stage) <= set(known):
        asked, numbers = (", ".join(map(str, some)) for some in (stage, known))
        raise ConfigError(f"command line: --stage: {asked}: expected some of {numbers}")
    layers = [case for case in layers if not stage or case.stage in stage]
    largest = max((DTYPES[name] for name in names), key=lambda kind: kind.itemsize)
    free = torch.cuda.mem_get_info(where)[0] if on_gpu else None
    cases = [_sized(case, batch, largest, free, quick) for case in layers]
    total = len(cases) * len(names) * len(OPERATIONS)
    with Measured(json, record) as measured:
        end = end_of(minutes)
        lists = bench.rows(cases, names, where, rounds or (3 if quick else 9), not quick, quick, without)
        begun = 0
        for found in bar(lists, total=total, unit="layer", desc="bench"):
            measured.add(found)
            begun += 1
            if time.monotonic() > end:
                break
    if not measured.table:
        raise ConfigError(f"command line: --without: {', '.join(without)}: {where} has no other way")
    if begun < total:
        words = f"{total - begun} of {total} layers were not begun within {minutes:g} minutes"
        complain(f"laconvnet: {words}")
    if dispatch:
        complain(f"laconvnet: {keep(measured.table, dispatch)} layers in {dispatch}")
    if plot:
        draw(measured.table, plot)
    return measured.failed()


def _sized(case: Case, batch: int | None, dtype: torch.dtype, free: int | None, quick: bool) -> Case:
    """The layer with its images, and as many of them as unfold has room for; ``free`` bytes on a GPU, None on a CPU."""
    from dataclasses import replace

    room = _UNFOLD_BYTES["cpu"] if free is None else min(_UNFOLD_BYTES["cuda"], free // 8)
    fitting = max(1, room // case.unfold_bytes(dtype))
    if free is None:
        batch = batch or min(fitting, 2 if quick else _LARGEST_BATCH["cpu"])
        return replace(case, batch=batch, unfold_batch=batch)
    # Inputs, results and gradients of the other ways, in several layouts.
    ours = max(1, free // (4 * case.bytes("dynamic_conv", "both", dtype)))
    batch = batch or min(ours, _LARGEST_BATCH["cuda"])
    return replace(case, batch=batch, unfold_batch=min(batch, fitting))
