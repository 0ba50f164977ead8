"""A network that answers: the time of one image, and of many at once, the operator beside eager unfold and others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from laconvnet.kernels.bench import Row, Step, compare
from laconvnet.kernels.bench.implementations import BASELINE
from laconvnet.kernels.bench.run import DTYPES
from laconvnet.pipeline.bench.infer_ways import OTHERS, Forward, built
from laconvnet.pipeline.bench.rows import missing, surroundings
from laconvnet.pipeline.bench.speed import OURS, Network, made_input, unfolded

_KEPT = ("name", "baseline", "ratio", "median", "spread", "q1", "q3", "rounds", "unit", "peak_mb", "note")
_CPU = torch.device("cpu")


def rows(network: Network, device: torch.device, rounds: int, beside: Sequence[str] = ()) -> Iterator[list[Row]]:
    """Yields the rows of ``latency`` (one image at a time) and of ``throughput`` (a batch at a time), a row a way.

    Times are of one forward pass from images and words on the device to the head's output there, in ms by the clock
    on the wall, launching included; pictures_per_s follow from the median; peak_mb is memory on top of what stood there
    before the first pass. Both ways have the same weights; ``beside`` are names of `OTHERS`.
    """
    for measure, batch in (("latency", 1), ("throughput", network.batch)):
        inputs = made_input(network, batch, device)
        ways = _ways(network, inputs, beside)
        made = {name: {"forward": _step(forward, inputs, network, device)} for name, forward in ways.items()}
        shape = {**network.described, "task": network.model.task, "batch": batch}
        described = {"bench": "infer", "measure": measure, **shape, **surroundings(device)}
        yield [
            {
                **{key: row[key] for key in _KEPT},
                "pictures_per_s": 1e3 * batch / row["median"] if row["median"] else None,
                **described,
            }
            for row in compare(made, BASELINE, _CPU, rounds)
        ]


def _ways(network: Network, inputs: tuple[Tensor, Tensor], beside: Sequence[str]) -> dict[str, Forward]:
    device = inputs[0].device
    ways: dict[str, Forward] = {BASELINE: unfolded(built(network, device)), OURS: built(network, device)}
    for name in beside:
        make, needed = OTHERS[name]
        ways[name] = _absent(needed) if needed and missing([needed]) else make(network, inputs)
    return ways


def _absent(package: str) -> Forward:
    def forward(*_: Tensor) -> None:
        raise RuntimeError(f"{package} is not installed here")

    return forward


def _step(forward: Forward, inputs: tuple[Tensor, Tensor], network: Network, device: torch.device) -> Step:
    dtype = DTYPES[network.precision]

    @torch.inference_mode()
    def step(_: object) -> None:
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            forward(*inputs)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return step


def plot(table: Sequence[Row], file: Path) -> None:
    """Draw time against memory of a way of answering, a panel a measure, as v2 Fig. 5; as PNG or SVG by its name."""
    from matplotlib.figure import Figure

    measures = list(dict.fromkeys(row["measure"] for row in table))
    figure = Figure(figsize=(5 * len(measures), 4), layout="constrained")
    for place, measure in enumerate(measures, start=1):
        drawn = [row for row in table if row["measure"] == measure and None not in (row["median"], row["peak_mb"])]
        axes = figure.add_subplot(1, len(measures), place)
        for row in drawn:
            sides = [[row["median"] - row["q1"]], [row["q3"] - row["median"]]]
            axes.errorbar(row["median"], row["peak_mb"], xerr=sides, fmt="o")
            point = (row["median"], row["peak_mb"])
            axes.annotate(row["name"], point, xytext=(0, 6), textcoords="offset points", ha="center")
        axes.margins(x=0.2, y=0.15)
        axes.set(xlabel="ms a batch, median and quartiles", ylabel="MB on top of the weights", ylim=(0, None))
        first = table[0]
        axes.set_title(
            f"{measure}, batch {next(row['batch'] for row in table if row['measure'] == measure)}: preset "
            f"{first['preset']}, {first['size']} pixels\n{first['device']}, load {first['load']}",
            fontsize="small",
        )
    figure.savefig(file, dpi=120)
