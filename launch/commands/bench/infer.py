"""`laconvnet bench infer`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from laconvnet.launch.commandline import Arg, JsonLines
from laconvnet.launch.commands.bench.measured import Measured
from laconvnet.launch.commands.bench.networks import Batch, Dtype, Preset, Size, network_of
from laconvnet.launch.commands.bench.options import Device, Record, device_of
from laconvnet.launch.commands.bench.progress import bar
from laconvnet.pipeline.errors import ConfigError

Other = Literal["compiled", "onnxruntime", "film-over-darknet", "vilt"]


def infer(
    *,
    device: Device = None,
    preset: Preset = "s",
    size: Size = None,
    batch: Batch = None,
    dtype: Dtype = None,
    task: Annotated[str, Arg("what is asked, such as rec or vqa", "T")] = "rec",
    beside: Annotated[Sequence[Other], Arg("what else is timed in turn with them")] = (),
    plot: Annotated[Path | None, Arg("draw time against memory, as v2 Fig. 5, as PNG or SVG", "FILE")] = None,
    rounds: Annotated[int | None, Arg("times each way runs (default: 15)", "N", at_least=1)] = None,
    quick: Annotated[bool, Arg("5 rounds")] = False,
    json: JsonLines = False,
    record: Record = None,
) -> None:
    """Latency and throughput of a network that answers.

    Time a network that answers, on random images and words: the latency of one image, and the throughput of
    a batch; the operator (laconv) beside unfold + einsum in eager PyTorch (the baseline), in turn, with the same
    weights. A row tells the median over rounds in ms a batch, the distance of the quartiles, the ratio (baseline's
    median / median), images a second, and the memory of a pass (peak_mb). Decoding is not in it: `laconvnet bench
    data`.

    --beside adds to them:
      compiled           the same network by torch.compile
      onnxruntime        its exported ONNX file, on a CPU
      film-over-darknet  of MCN's make: CSPDarkNet-53 with six FiLM blocks over it, the same head
      vilt               ViLT-B/32 of transformers, random weights, no head
    What cannot be measured here has no numbers, and a note.

    For example:
      laconvnet bench infer --preset s --batch 32 --quick
      laconvnet bench infer --beside onnxruntime vilt --plot infer.svg
    """
    from laconvnet.pipeline.bench import infer as bench

    if plot is not None and plot.suffix not in (".png", ".svg"):
        raise ConfigError(f"command line: --plot: {plot}: expected a name that ends in .png or .svg")
    where = device_of(device)
    network = network_of(preset, size, batch, dtype, where, task)
    with Measured(json, record) as measured:
        parts = bench.rows(network, where, rounds or (5 if quick else 15), list(dict.fromkeys(beside)))
        for found in bar(parts, total=2, desc="bench infer", unit="part"):
            measured.add(found)
        if plot is not None:
            bench.plot(measured.table, plot)
