"""The blocks a network can be made of, by the name that `model.block` takes. A new one is a file and a line here.

A block that has no use for some of the ablations of v2 Tab. 10 names those keys of `ModelConfig` in its class attribute
`ignores`: asking for them is then refused. (Dropout of what a block does not have is nothing, and recipes set it.)
"""

from torch import nn

from laconvnet.pipeline.model.blocks.base import BlockConfig
from laconvnet.pipeline.model.blocks.film import FilmBlock
from laconvnet.pipeline.model.blocks.group_conv import GroupConvBlock
from laconvnet.pipeline.model.blocks.laconv import LaConvBlock
from laconvnet.pipeline.model.blocks.qghc import QghcBlock

BLOCKS: dict[str, type[nn.Module]] = {
    "laconv": LaConvBlock,
    "film": FilmBlock,
    "qghc": QghcBlock,
    "group_conv": GroupConvBlock,
}

__all__ = ["BLOCKS", "BlockConfig"]
