"""The blocks a network can be made of, by the name that `model.block` takes. A new one is a file and a line here."""

from torch import nn

from pipeline.model.blocks.base import BlockConfig
from pipeline.model.blocks.laconv import LaConvBlock

BLOCKS: dict[str, type[nn.Module]] = {
    "laconv": LaConvBlock,
}

__all__ = ["BLOCKS", "BlockConfig"]
