"""`laconvnet bench infer`."""

from __future__ import annotations

from typing import Annotated

from laconvnet.launch.commandline import Arg, JsonLines
from laconvnet.launch.commands.bench.measured import Measured
from laconvnet.launch.commands.bench.networks import Batch, Dtype, Preset, Size, network_of
from laconvnet.launch.commands.bench.options import Device, Record, device_of
from laconvnet.launch.commands.bench.progress import bar


def infer(
    *,
    device: Device = None,
    preset: Preset = "s",
    size: Size = None,
    batch: Batch = None,
    dtype: Dtype = None,
    task: Annotated[str, Arg("what is asked, such as rec or vqa", "T")] = "rec",
    rounds: Annotated[int | None, Arg("times each way runs (default: 15)", "N", at_least=1)] = None,
    quick: Annotated[bool, Arg("5 rounds")] = False,
    json: JsonLines = False,
    record: Record = None,
) -> None:
    """Latency and throughput of a network that answers.

    Time a network that answers, on random images and words: the latency of one image, and the throughput of
    a batch; the operator (laconv) beside unfold + einsum in eager PyTorch (the baseline), in turn, with the same
    weights. A row tells the median over rounds in ms a batch, the distance of the quartiles, the ratio (baseline's
    median / median) and images a second. Decoding is not in it: `laconvnet bench data`.

    For example:
      laconvnet bench infer --preset s --batch 32 --quick
    """
    from laconvnet.pipeline.bench import infer as bench

    where = device_of(device)
    network = network_of(preset, size, batch, dtype, where, task)
    with Measured(json, record) as measured:
        parts = bench.rows(network, where, rounds or (5 if quick else 15))
        for found in bar(parts, total=2, desc="bench infer", unit="part"):
            measured.add(found)
