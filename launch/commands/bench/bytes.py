"""`laconvnet bench bytes`."""

from __future__ import annotations

from typing import Annotated

from laconvnet.launch.commandline import Arg, JsonLines
from laconvnet.launch.commands.bench.layers import layers_of
from laconvnet.launch.commands.bench.measured import Measured
from laconvnet.launch.commands.bench.networks import Batch, Dtype, Preset, Size, network_of
from laconvnet.launch.commands.bench.options import Device, Record, device_of
from laconvnet.launch.commands.bench.progress import bar


def bytes_(
    *,
    device: Device = None,
    preset: Preset = "s",
    size: Size = None,
    batch: Batch = None,
    dtype: Dtype = None,
    rounds: Annotated[int, Arg("times each is counted", "N", at_least=1)] = 2,
    json: JsonLines = False,
    record: Record = None,
) -> None:
    """Memory that the operator and a step keep.

    Count the bytes that training keeps, with the operator (laconv) and with unfold + einsum in eager PyTorch
    (the baseline):
      saved by the operator  what one layer keeps for backward, its inputs included (input_bytes: the inputs alone)
      saved by a step        what a step of the whole network keeps for backward, beside weights and input
      peak of a step         the most that a training step takes on top of what stays between steps (GPU only)
    Storages are counted once, whoever keeps them, and whole. Counts do not depend on how busy the machine is; each is
    made --rounds times all the same, and the quartiles tell whether it was another.
    """
    from laconvnet.pipeline.bench import held

    where = device_of(device)
    network = network_of(preset, size, batch, dtype, where)
    layers = layers_of([preset], [network.size], [])
    parts = (
        held.operator_rows(layers, network.precision, network.batch, where, rounds),
        held.step_rows(network, where, rounds),
    )
    with Measured(json, record) as measured:
        for part in bar(parts, desc="bench bytes", unit="part"):
            measured.add(list(part))
