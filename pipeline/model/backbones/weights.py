"""Pretrained weights of a backbone, from a local file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from laconvnet.pipeline.errors import ConfigError
from laconvnet.pipeline.model.backbones.base import Backbone
from laconvnet.pipeline.tensor_file import load_tensors

_KEY = "model.backbone_weights"


def load_weights(backbone: Backbone, file: Path) -> str:
    """Put a state dict (`.safetensors`, or what `torch.save` wrote) into the backbone; returns what was done, in words.

    Every tensor of the backbone must be in the file under its name and with its shape, and the file may hold nothing
    else but the classifier, which is dropped. Raises ConfigError naming what is missing, unknown or of another shape.
    """
    loaded = _read(file)
    left = [name for name in loaded if name.startswith(backbone.classifier)]
    wanted = backbone.state_dict()
    taken = {name: value for name, value in loaded.items() if name not in left}
    # Counts of batches are no weights, and files older than PyTorch 0.4.1 have none.
    missing = [name for name in wanted if name not in taken and not name.endswith(".num_batches_tracked")]
    unexpected = [name for name in taken if name not in wanted]
    if missing or unexpected:
        faults = " and ".join(
            f"{what} {names[0]}" + (f" and {len(names) - 1} more" if len(names) > 1 else "")
            for what, names in (("lacks", missing), ("holds", unexpected))
            if names
        )
        raise ConfigError(f"{_KEY}: {file}: {faults}; expected the state dict of the network that model.backbone names")
    for name, value in taken.items():
        if value.shape != wanted[name].shape:
            raise ConfigError(
                f"{_KEY}: {file}: {name} has shape {tuple(value.shape)}, model.backbone {tuple(wanted[name].shape)}"
            )
    backbone.load_state_dict({**wanted, **taken}, strict=True)
    classifier = f", without {' '.join(left)}" if left else ""
    return f"{len(taken)} tensors of the backbone from {file}{classifier}"


def _read(file: Path) -> dict[str, Tensor]:
    """A state dict; only tensors and plain values are unpickled."""
    # Here: networks without foreign weights are measured on machines that hold little but PyTorch.
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    expected = "expected a state dict as .safetensors or of torch.save"
    try:
        found: Any = load_file(file) if file.suffix == ".safetensors" else load_tensors(file)
    except OSError as error:
        raise ConfigError(f"{_KEY}: {file}: cannot be read ({error.strerror or error})") from error
    except SafetensorError as error:
        raise ConfigError(f"{_KEY}: {file}: holds no tensors that can be read; {expected}") from error
    except ConfigError as error:
        raise ConfigError(f"{_KEY}: {error}; {expected}") from error
    if not isinstance(found, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in found.items()):
        raise ConfigError(f"{_KEY}: {file}: is no state dict; expected a dictionary of names and tensors")
    return found
