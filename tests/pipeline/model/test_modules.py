"""`laconvnet.LaConv` and `LaConvBlock`: the page's examples, and the same numbers as in the network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import laconvnet
from laconvnet.pipeline.model.net import PRESETS
from tests.docs.pages import DOCS, blocks

_, *EXAMPLES = [block.text for block in blocks(DOCS / "python.md") if block.language == "python"]


def test_the_page_s_examples_run(capsys: pytest.CaptureFixture[str]) -> None:
    for example in EXAMPLES:
        exec(example, {})
    one = "torch.Size([2, 64, 26, 26])"
    assert capsys.readouterr().out.splitlines() == [f"{one} {one}", one]


def test_the_layer_projects_filters_and_convolves_with_them() -> None:
    torch.manual_seed(0)
    layer = laconvnet.LaConv(6, 5, groups=2, kernel_size=3)
    x, condition = torch.randn(2, 6, 4, 5), torch.randn(2, 5, 4, 5)
    weight, bias = layer.filters.weight, layer.filters.bias
    filters = torch.einsum("om,bmhw->bohw", weight, condition) + bias[:, None, None]
    patches = F.unfold(x, 3, padding=1).view(2, 2, 3, 9, 4, 5)  # (B, g, channels of a group, taps, H, W)
    expected = torch.einsum("bgcthw,btghw->bgchw", patches, filters.view(2, 9, 2, 4, 5)).flatten(1, 2)
    torch.testing.assert_close(layer(x, condition), expected)
    layer(x, condition[:, :, :1, :1]).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in layer.parameters())


def test_the_block_is_the_network_s() -> None:
    torch.manual_seed(0)
    net = PRESETS["tiny"]
    theirs = net.make_block(2, 5).eval()
    sizes = {"condition": net.conditions[2], "groups": net.groups[2], "packing": net.packing[2], "heads": net.heads}
    ours = laconvnet.LaConvBlock(net.dims[2], net.words, kernel_size=5, **sizes).eval()
    ours.block.load_state_dict(theirs.state_dict())
    x, words = torch.randn(2, net.dims[2], 8, 8), torch.randn(2, 6, net.words)
    mask = torch.ones(2, 6, dtype=torch.bool)
    assert torch.equal(ours(x, words), theirs(x, words, mask))
    mask[:, 4:] = False
    assert torch.equal(ours(x, words, mask), theirs(x, words, mask))
    assert torch.equal(ours(x, words, mask), ours(x, words + ~mask[:, :, None], mask))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: laconvnet.LaConv(6, 5, groups=4), "groups: 4: expected a divisor of channels, 6"),
        (lambda: laconvnet.LaConv(6, 0), "condition 0: expected at least 1"),
        (lambda: laconvnet.LaConv(6, 5, kernel_size=4), "kernel_size: 4: expected an odd number"),
        (lambda: laconvnet.LaConv(6, 5, dropout=1.5), "dropout"),
        (lambda: laconvnet.LaConvBlock(6, 8, condition=5), "heads: 8: expected a divisor of condition, 5"),
        (lambda: laconvnet.LaConvBlock(8, 0), "words 0"),
        (lambda: laconvnet.LaConvBlock(8, 4, packing=2)(torch.zeros(1, 8, 3, 4), torch.zeros(1, 2, 4)), "packing, 2"),
        (lambda: laconvnet.LaConvBlock(8, 4)(torch.zeros(1, 8, 4, 4), torch.zeros(1, 2, 5)), r"expected \(1, L, 4\)"),
        (
            lambda: laconvnet.LaConvBlock(8, 4)(torch.zeros(1, 8, 4, 4), torch.zeros(1, 2, 4), torch.ones(1, 3)),
            r"mask: expected \(1, 2\)",
        ),
    ],
)
def test_sizes_that_do_not_fit_are_named(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
