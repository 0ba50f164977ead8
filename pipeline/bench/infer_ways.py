"""What a network of ours that answers is set beside: the same weights by other means, and networks of others.

Each is made for images (B, 3, S, S) and words (B, L) like the ones it is given, and is called with them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from laconvnet.pipeline.bench.speed import WORDS, Network
from laconvnet.pipeline.data.text import Vocabulary
from laconvnet.pipeline.model import Model, build_model

ANSWERS = 28  # of a head that chooses: CLEVR's
Forward = Callable[[Tensor, Tensor], object]
Make = Callable[[Network, tuple[Tensor, Tensor]], Forward]


def built(network: Network, device: torch.device) -> Model:
    """The network with random weights, the same at each call."""
    torch.manual_seed(0)
    return build_model(network.model, WORDS, ANSWERS).to(device).eval()


def compiled(network: Network, inputs: tuple[Tensor, Tensor]) -> Forward:
    """Our operator in a network that torch.compile has made of ours: (B, 3, S, S), (B, L)."""
    return cast(Forward, torch.compile(built(network, inputs[0].device)))


def onnxruntime(network: Network, inputs: tuple[Tensor, Tensor]) -> Forward:
    """The exported ONNX file on a CPU, with as many threads as PyTorch: (B, 3, S, S), (B, L)."""
    from onnxruntime import InferenceSession, SessionOptions

    from laconvnet.pipeline.inference import onnx_file
    from laconvnet.pipeline.inference.portable import Portable
    from laconvnet.pipeline.tasks import TASKS

    if inputs[0].device.type != "cpu":
        raise RuntimeError("the onnxruntime that is measured is that of a CPU")
    model = built(network, inputs[0].device)
    options = SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    task = TASKS[network.model.task](network.model, Vocabulary((), ("",) * ANSWERS))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        onnx_file.write(Portable(model, task), inputs, {}, file)
        session = InferenceSession(file, options)
    return lambda images, tokens: session.run(None, {"images": images.contiguous().numpy(), "tokens": tokens.numpy()})


def film_over_darknet(network: Network, inputs: tuple[Tensor, Tensor]) -> Forward:
    """Of MCN's make: CSPDarkNet-53, which sees no words, six FiLM blocks over it, our head: (B, 3, S, S), (B, L)."""
    made = replace(network, model=replace(network.model, block="film", backbone="csp_darknet53"))
    return built(made, inputs[0].device)


def vilt(network: Network, inputs: tuple[Tensor, Tensor]) -> Forward:
    """ViLT-B/32 of transformers, with random weights and without a head: (B, 3, S, S), (B, L)."""
    from transformers import ViltConfig, ViltModel

    images = inputs[0]
    torch.manual_seed(0)
    config = ViltConfig(vocab_size=WORDS, image_size=images.shape[-1], max_image_length=-1)
    model: Any = ViltModel(config)
    model = model.to(images.device).eval()
    everywhere = torch.ones(len(images), *images.shape[2:], dtype=torch.int64, device=images.device)
    return lambda images, tokens: model(input_ids=tokens, pixel_values=images, pixel_mask=everywhere)


# By name, each with the package that it needs besides PyTorch.
OTHERS: dict[str, tuple[Make, str | None]] = {
    "compiled": (compiled, None),
    "onnxruntime": (onnxruntime, "onnxruntime"),
    "film-over-darknet": (film_over_darknet, None),
    "vilt": (vilt, "transformers"),
}
