"""A network that answers: the time of one image, and of many at once, the operator beside eager unfold."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from laconvnet.kernels.bench import Row, Step, compare
from laconvnet.kernels.bench.implementations import BASELINE
from laconvnet.kernels.bench.run import DTYPES
from laconvnet.pipeline.bench.rows import surroundings
from laconvnet.pipeline.bench.speed import OURS, WORDS, Network, made_input, unfolded
from laconvnet.pipeline.model import build_model
from laconvnet.pipeline.model.model import Model

ANSWERS = 28  # of a head that chooses: CLEVR's
_KEPT = ("name", "baseline", "ratio", "median", "spread", "q1", "q3", "rounds", "unit", "note")
_CPU = torch.device("cpu")


def rows(network: Network, device: torch.device, rounds: int) -> Iterator[list[Row]]:
    """Yields the rows of ``latency`` (one image at a time) and of ``throughput`` (a batch at a time), a row a way.

    Times are of one forward pass from images and words on the device to the head's output there, in ms by the clock
    on the wall, launching included; pictures_per_s follow from the median. Both ways have the same weights.
    """
    models = {name: _model(network, device, name == BASELINE) for name in (BASELINE, OURS)}
    for measure, batch in (("latency", 1), ("throughput", network.batch)):
        inputs = made_input(network, batch, device)
        made = {name: {"forward": _forward(model, inputs, network, device)} for name, model in models.items()}
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


def _model(network: Network, device: torch.device, reference: bool) -> Model:
    torch.manual_seed(0)
    model = build_model(network.model, WORDS, ANSWERS)
    return (unfolded(model) if reference else model).to(device).eval()


def _forward(model: Model, inputs: tuple[Tensor, Tensor], network: Network, device: torch.device) -> Step:
    dtype = DTYPES[network.precision]

    @torch.inference_mode()
    def forward(_: object) -> None:
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            model(*inputs)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return forward
