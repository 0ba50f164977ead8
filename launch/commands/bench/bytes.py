"""`laconvnet bench bytes`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal, get_args

from laconvnet.launch.commandline import Arg, JsonLines
from laconvnet.launch.commands.bench.layers import layers_of
from laconvnet.launch.commands.bench.measured import Measured
from laconvnet.launch.commands.bench.networks import Batch, Dtype, Preset, Size, network_of
from laconvnet.launch.commands.bench.options import Device, Record, device_of
from laconvnet.launch.commands.bench.progress import bar

Part = Literal["kept", "moved"]


def bytes_(
    *,
    device: Device = None,
    preset: Preset = "s",
    size: Size = None,
    batch: Batch = None,
    dtype: Dtype = None,
    part: Annotated[Sequence[Part], Arg("what to count (default: all)")] = get_args(Part),
    rounds: Annotated[int, Arg("times each of kept is counted", "N", at_least=1)] = 2,
    json: JsonLines = False,
    record: Record = None,
) -> None:
    """Memory that the operator and a step keep and move.

    Count the bytes of training, with the operator (laconv) and with unfold + einsum in eager PyTorch (the baseline), in
    parts:
      kept   saved by the operator  what one layer keeps for backward, its inputs included (input_bytes: these alone)
             saved by a step        what a step of the whole network keeps for backward, beside weights and input
             peak of a step         the most that a training step takes on top of what stays between steps (GPU only)
      moved  moved by a step        what all operators of a step read and write, once each, on a GPU, in one process and
                                    as one of 8 (of_norms, of_mlps, of_laconv, of_convolutions: shares of it)
             least of a step        what of it no other operator can do on its way: products of maps, the optimizer
             dearest of a step      the terms that move most: operator, place in the network, direction, calls, passes
                                    (how often an element of the largest tensor is read or written)
    What is kept is counted in a real step: storages once, whoever keeps them, and whole. What is moved is counted on
    tensors without data, so any network and batch can be asked about anywhere.

    Counts do not depend on how busy the machine is; those of kept are made --rounds times all the same, and the
    quartiles tell whether it was another.

      laconvnet bench bytes --part kept --dtype bf16
      laconvnet bench bytes --part moved --preset s --size 416 --batch 64 --dtype bf16
    """
    from laconvnet.pipeline.bench import held, moved

    where = device_of(device)
    network = network_of(preset, size, batch, dtype, where)
    layers = layers_of([preset], [network.size], [])
    parts: dict[Part, list[Iterator[dict[str, Any]]]] = {
        "kept": [
            held.operator_rows(layers, network.precision, network.batch, where, rounds),
            held.step_rows(network, where, rounds),
        ],
        "moved": [moved.step_rows(network, where)],
    }
    with Measured(json, record) as measured:
        for rows in bar([rows for name in part for rows in parts[name]], desc="bench bytes", unit="part"):
            measured.add(list(rows))
