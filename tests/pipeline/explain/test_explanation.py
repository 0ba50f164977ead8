"""What an explanation says is what the network computed: its affinities, its filters, and its answer to the bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from laconvnet.pipeline.data.geometry import Letterbox
from laconvnet.pipeline.errors import ConfigError
from laconvnet.pipeline.explain.explanation import Block, Explanation
from laconvnet.pipeline.inference.predictor import Predictor
from laconvnet.pipeline.model import Model
from laconvnet.pipeline.model.backbones import BACKBONES
from laconvnet.pipeline.model.backbones.resnet import ResNet
from laconvnet.pipeline.model.blocks import laconv
from laconvnet.pipeline.model.blocks.laconv import Affinity, Filters
from laconvnet.pipeline.model.norm import BatchNorm
from tests.messages import tells
from tests.pipeline.explain.asked import TEXT, asked, image

WORDS = ("the", "red", "zyzzyva", "left")


@pytest.fixture(scope="module")
def made() -> tuple[Predictor, Model]:
    return asked()


@pytest.fixture(scope="module")
def found(made: tuple[Predictor, Model]) -> Explanation:
    return made[0].explain(image(), TEXT)


def calls(
    model: Model, kind: type[nn.Module], run: Callable[[], Any]
) -> list[tuple[nn.Module, tuple[Any, ...], Tensor]]:
    """Every call of the modules of this kind while it runs: the module, its inputs, its output."""
    seen: list[tuple[nn.Module, tuple[Any, ...], Tensor]] = []
    hooks = [
        module.register_forward_hook(lambda *call: seen.append(call))
        for module in model.modules()
        if type(module) is kind
    ]
    run()
    for hook in hooks:
        hook.remove()
    return seen


def by_hand(module: Affinity, image: Tensor, words: Tensor) -> Tensor:
    """v2 Eq. 4 for the first image, (heads, L, h, w), word by word and head by head."""
    query, key = module.query, module.key
    assert query.bias is not None
    queries = torch.einsum("mc,chw->mhw", query.weight[:, :, 0, 0].double(), image[0].double())
    queries = queries + query.bias[:, None, None]
    keys = words[0].double() @ key.weight.double().T + key.bias
    width = len(queries) // module.heads
    parts = [slice(head * width, (head + 1) * width) for head in range(module.heads)]
    scores = [[torch.einsum("m,mhw->hw", one[part], queries[part]) / width**0.5 for one in keys] for part in parts]
    return torch.stack([torch.stack(each).exp() / torch.stack(each).exp().sum(0) for each in scores])


def test_affinities_are_those_of_the_equation(made: tuple[Predictor, Model], found: Explanation) -> None:
    seen = calls(made[1], Affinity, lambda: made[0](image(), TEXT))
    assert [(block.stage, block.place) for block in found.blocks] == [(stage, 1) for stage in (1, 2, 3, 4, 5)]
    for block, (module, (pixels, words, _), _) in zip(found.blocks, seen, strict=True):
        assert isinstance(module, Affinity)
        with torch.no_grad():
            expected = by_hand(module, pixels, words[:, : len(WORDS)])
        assert block.affinity.dtype == np.float32
        np.testing.assert_allclose(block.affinity, expected, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(block.affinity.sum(1), 1.0, rtol=1e-5)
        assert block.affinity.std() > 0.001


def test_words_are_those_that_the_model_reads(made: tuple[Predictor, Model], found: Explanation) -> None:
    """No padding, none beyond `data.words`; one that is not known stands as it was written, but for its case."""
    assert found.words == WORDS
    assert found.answer.unknown == ("zyzzyva",)
    long = made[0].explain(image(), "the red circle left of " * 3)
    assert long.words == ("the", "red", "circle", "left", "of") * 2 + ("the", "red")
    assert [block.affinity.shape[1] for block in long.blocks] == [12] * 5
    assert made[0].explain(image(), "?! &").words == ("&",)


def test_the_answer_is_that_of_a_call_to_the_bit(made: tuple[Predictor, Model], found: Explanation) -> None:
    answer = made[0](image(), TEXT)
    assert found.answer == answer
    assert found.answer.image.tobytes() == answer.image.tobytes()
    assert not any(module._forward_pre_hooks for module in made[1].modules())


@pytest.mark.parametrize("reads", [False, True], ids=["unpacked", "read packed"])
def test_by_the_operators_of_a_gpu_it_is_the_same(
    found: Explanation, monkeypatch: pytest.MonkeyPatch, reads: bool
) -> None:
    """Where the condition stays packed, and where the convolution takes it so."""
    predictor, model = asked()
    for module in model.modules():
        if isinstance(module, BatchNorm):
            module.as_on_gpu = True
    monkeypatch.setattr(laconv, "reads_packed", lambda *_: reads)
    packed = predictor.explain(image(), TEXT)
    for one, other in zip(packed.blocks, found.blocks, strict=True):
        np.testing.assert_allclose(one.affinity, other.affinity, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(one.condition, other.condition, rtol=1e-3, atol=1e-3)


def applied(block: Block, pixels: Tensor, row: int, column: int, interleaved: bool) -> Tensor:
    """v2 Eq. 2 at one pixel of x (1, C, H, W): every channel's neighbourhood by its group's filter, (C,)."""
    filters = torch.from_numpy(block.filters(row, column).copy())
    groups, side, _ = filters.shape
    reach = side // 2
    padded = nn.functional.pad(pixels[0], (reach,) * 4)
    near = padded[:, row : row + side, column : column + side]
    channels = torch.arange(len(near))
    of_channel = channels % groups if interleaved else channels // (len(near) // groups)
    return (near * filters[of_channel]).sum((1, 2))


@pytest.mark.parametrize("preset", ["tiny", "s_released"])
def test_filters_give_the_operator_s_output(preset: str) -> None:
    """At a corner, at an edge and inside; s_released deals channels to groups by turns."""
    predictor, model = asked("--model.preset", preset)
    explained: list[Explanation] = []
    seen = calls(model, Filters, lambda: explained.append(predictor.explain(image(), TEXT)))
    for block, (module, (pixels, *_), output) in zip(explained[0].blocks, seen, strict=True):
        assert isinstance(module, Filters)
        height, width = output.shape[2:]
        for row, column in ((0, 0), (height - 1, width // 2), (height // 2, width // 3)):
            expected = output[0, :, row, column]
            ours = applied(block, pixels, row, column, module.interleaved)
            torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def hot(stage: int, row: int, column: int, sides: tuple[int, int]) -> Block:
    """A block of two heads whose second word has all weight in one cell of head 0."""
    affinity = np.zeros((2, 2, *sides), np.float32)
    affinity[:, 0] = 1
    affinity[0, :, row, column] = 0, 1
    nothing = np.zeros((1, 1), np.float32)
    return Block(stage, 1, affinity, nothing[..., None], nothing, nothing[0], 1)


def test_over_undoes_the_letterbox(found: Explanation) -> None:
    """An image of 40 x 20 pixels is put on 64 x 64 as 64 x 32, 16 pixels from the top: 1.6 pixels a pixel."""
    letterbox = Letterbox.fit(np.array([40]), np.array([20]), 64)
    blocks = (hot(1, 1, 2, (4, 4)), hot(5, 1, 1, (2, 2)))
    one = Explanation(found.answer, ("a", "b"), blocks, letterbox)
    fine, coarse = np.zeros((20, 40)), np.zeros((20, 40))
    fine[:10, 20:30] = 1  # rows 16 to 32 of the square, columns 32 to 48
    coarse[10:, 20:] = 1
    np.testing.assert_array_equal(one.over(1, stage=1, head=0), fine)
    np.testing.assert_array_equal(one.over(1, stage=5, head=0), coarse)
    np.testing.assert_array_equal(one.over(1, stage=1), fine / 2)
    np.testing.assert_array_equal(one.over(1, head=0), (fine + coarse) / 2)
    np.testing.assert_array_equal(one.over(1), (fine + coarse) / 4)
    assert not one.over(1, head=1).any()
    assert one.over(1).dtype == np.float32


def test_the_words_share_every_pixel(found: Explanation) -> None:
    assert found.over(0).shape == (60, 90)
    total = np.sum([found.over(word) for word in range(len(WORDS))], 0)
    np.testing.assert_allclose(total, 1.0, rtol=1e-5)


def test_a_plug_in_is_explained_from_stage_3(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BACKBONES, "small", lambda: ResNet("bottleneck", (1, 1, 1, 1), width=4))
    predictor, _ = asked("--model.backbone", "small")
    explained = predictor.explain(image(), TEXT)
    places = [(stage, place) for stage in (3, 4, 5) for place in (1, 2)]
    assert [(block.stage, block.place) for block in explained.blocks] == places
    assert explained.answer == predictor(image(), TEXT)
    assert explained.stages == (3, 4, 5)
    assert explained.over(1, stage=4).shape == (60, 90)
    with pytest.raises(ConfigError) as caught:
        explained.over(0, stage=2)
    assert tells(str(caught.value), "stage 2", "3 4 5")


@pytest.mark.parametrize(
    ("block", "generator"),
    [("laconv", "words"), ("film", "affinity"), ("qghc", "affinity"), ("group_conv", "affinity")],
)
def test_a_model_that_weighs_no_words_is_refused(block: str, generator: str) -> None:
    predictor, _ = asked("--model.block", block, "--model.generator", generator)
    predictor(image(), TEXT)
    with pytest.raises(ConfigError) as caught:
        predictor.explain(image(), TEXT)
    assert tells(str(caught.value), f"block {block}", f"generator {generator}")
    assert "\n" not in str(caught.value)


def test_what_is_not_there_is_refused(made: tuple[Predictor, Model], found: Explanation) -> None:
    wrong: list[tuple[Callable[[], Any], tuple[str, ...]]] = [
        (lambda: found.over(4), ("word 4", "0 1 2 3")),
        (lambda: found.over(-1), ("word -1",)),
        (lambda: found.over(0, stage=6), ("stage 6", "1 2 3 4 5")),
        (lambda: found.over(0, head=4), ("head 4", "0 1 2 3")),
        (lambda: made[0].explain([image()], "a"), ("one image",)),  # type: ignore[arg-type]
        (lambda: made[0].explain(image(), ["a"]), ("one text",)),  # type: ignore[arg-type]
        (lambda: made[0].explain(image(), "?!"), ("holds no word",)),
    ]
    for run, parts in wrong:
        with pytest.raises(ConfigError) as caught:
            run()
        assert tells(str(caught.value), *parts)
    assert not any(module._forward_pre_hooks for module in made[1].modules())
