"""A model as an ONNX file.

PyTorch's exporter by tracing writes it. The one by `torch.export` takes symbolic shapes through thousands of taps: the
demo's network took it three minutes on a busy machine, where this one needs some 5 s of a processor, and 9 s for preset
s. It also needs onnxscript. ONNX Runtime gave the same numbers of either's file.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from laconvnet.pipeline.errors import ConfigError
from laconvnet.pipeline.inference.portable import Portable
from laconvnet.pipeline.model.plain_filters import PlainFilters, replace_filters

OPSET = 17  # the first with layer norm; ONNX Runtime reads it since 1.12
INPUTS = ["images", "tokens"]


class _Outputs(nn.Module):
    """The outputs in their order, without names, and nothing of ours, as the exporter wants them."""

    def __init__(self, model: Portable) -> None:
        super().__init__()
        replace_filters(model, PlainFilters)
        self.model = model

    def forward(self, images: Tensor, tokens: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.model(images, tokens).values())


def write(model: Portable, example: tuple[Tensor, Tensor], facts: Mapping[str, str], out: Path) -> None:
    """Write the model for inputs like these, of any number of examples, with facts as its metadata_props.

    ``example``: images (B, 3, S, S) and tokens (B, L). Raises ConfigError for a network that ONNX has no words for.
    """
    import onnx

    names = [*INPUTS, *model.task.outputs]
    with torch.no_grad(), warnings.catch_warnings():
        # That it is not the other exporter, and that numbers of an example's size become constants, which they are.
        warnings.simplefilter("ignore")
        try:
            torch.onnx.export(
                _Outputs(model),
                example,
                str(out),
                dynamo=False,
                opset_version=OPSET,
                input_names=INPUTS,
                output_names=names[len(INPUTS) :],
                dynamic_axes={name: {0: "batch"} for name in names},
            )
        except torch.onnx.OnnxExporterError as error:
            raise ConfigError(f"--format: onnx: {_network(model)}: {str(error).partition(chr(10))[0]}") from error
    written = onnx.load(str(out))
    if missing := set(INPUTS) - {each.name for each in written.graph.input}:
        raise ConfigError(f"--format: onnx: {_network(model)}: it does not look at its {missing.pop()}; choose another")
    onnx.helper.set_model_props(written, dict(facts))
    onnx.save(written, str(out))


def _network(model: Portable) -> str:
    config = model.model.config
    return f"preset {config.preset}, block {config.block}, head {config.head_name()}"
