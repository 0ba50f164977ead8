"""Other ways to apply a block's filters than our operator, in evaluation."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from laconvnet.kernels.plain import exported
from laconvnet.pipeline.model.blocks.laconv import Filters


class OtherFilters(nn.Module):
    """What stands in for a block's `Filters`, with their weights."""

    def __init__(self, inner: Filters) -> None:
        super().__init__()
        self.inner = inner

    def reads_packed(self, x: Tensor, packing: int) -> bool:
        """Never, for no x (B, d, H, W): only kernels of ours know packed maps."""
        return False


class PlainFilters(OtherFilters):
    """By PyTorch's own operators, as exporters take them."""

    def forward(self, x: Tensor, condition: Tensor, norm: None = None) -> Tensor:
        """The same as `Filters`: x (B, d, H, W), condition (B, c, H, W) or (B, c, 1, 1) -> (B, d, H, W)."""
        inner = self.inner
        sizes = (inner.kernel_size, inner.groups, inner.interleaved)
        return exported.laconv(x, condition, inner.weight, inner.bias, *sizes)


def replace_filters(model: nn.Module, make: Callable[[Filters], OtherFilters]) -> None:
    """Puts what `make` makes of them in place of the filters of every block."""
    for block in list(model.modules()):
        if isinstance(getattr(block, "filters", None), Filters):
            block.filters = make(block.filters)  # type: ignore[arg-type]
