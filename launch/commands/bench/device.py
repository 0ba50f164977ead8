"""The device that a measurement is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def add_device(command: Any) -> None:
    command.add_argument("--device", choices=("cpu", "cuda"), help="(default: cuda where there is one)")


def device_of(name: str | None) -> torch.device:
    """Raises ConfigError for a GPU that is not there."""
    import torch

    from laconvnet.pipeline.errors import ConfigError

    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("command line: --device: 'cuda': PyTorch finds no GPU here; expected cpu")
    return torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
