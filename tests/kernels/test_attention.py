"""The weights of an attention: the CUDA kernels under the emulation and PyTorch's operators, against float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from laconvnet.kernels.attention import backward, forward
from laconvnet.kernels.cuda.attention import AttentionArguments
from laconvnet.kernels.dropout import dropout
from tests.kernels.compiled import emulated
from tests.kernels.cuda_emulated import OnCpu

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
P = 0.3


class ByOperators:
    """PyTorch's, in the place of the compiled kernels."""

    attention_weights, attention_weights_backward = staticmethod(forward), staticmethod(backward)


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> OnCpu:
    folder = tmp_path_factory.mktemp("attention")
    return OnCpu(emulated(folder, lambda unit: unit.name in ("attention", "dropout")))


def given(dtype: torch.dtype, words: int = 5, places: int = 37) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Scores and gradient (3, 2, L, P), which words are real: all, two and none, and keys."""
    some = torch.Generator().manual_seed(words)
    scores, grad = (torch.randn(3, 2, words, places, generator=some).to(dtype) for _ in range(2))
    real = torch.arange(words) < torch.tensor([words, 2, 0])[:, None]
    return scores * 3, grad, real, torch.tensor([7, -1, 2**40])


def exactly(scores: Tensor, grad: Tensor, real: Tensor, keys: Tensor | None) -> tuple[Tensor, Tensor]:
    """Weights and the gradient of scores, in float64 by autograd."""
    leaf = scores.double().requires_grad_()
    weights = torch.softmax(leaf.masked_fill(~real[:, None, :, None], -1e9), 2) * real[:, None, :, None]
    if keys is not None:
        weights = weights * dropout(torch.ones(scores.shape, dtype=torch.float64), keys, P)
    return weights.detach(), torch.autograd.grad(weights, leaf, grad.double())[0]


@pytest.mark.parametrize("drop", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("words", [1, 5, 40])
@pytest.mark.parametrize("compiled", [True, False])
def test_weights(kernels: OnCpu, compiled: bool, words: int, dtype: torch.dtype, drop: bool) -> None:
    scores, grad, real, keys = given(dtype, words)
    passes: Any = kernels if compiled else ByOperators
    call = (real, keys if drop else None, P if drop else 0.0)
    found = passes.attention_weights(scores, *call), passes.attention_weights_backward(grad, scores, *call)
    for ours, exact in zip(found, exactly(scores, grad, real, call[1]), strict=True):
        assert ours.dtype == dtype
        assert ours.is_contiguous()
        apart = (ours.double() - exact).abs()
        assert (apart <= exact.abs() * torch.finfo(dtype).eps + 1e-6).all(), float(apart.max())
    assert not found[0][2].any()
    assert not found[1][2].any(), "an image without words"


def test_layouts_no_image_and_no_word(kernels: OnCpu) -> None:
    scores, grad, real, keys = given(torch.bfloat16)
    wanted = kernels.attention_weights(scores, real, keys, P)
    assert torch.equal(kernels.attention_weights(scores.mT.contiguous().mT, real, keys, P), wanted)
    assert kernels.attention_weights(scores[:0], real[:0], keys[:0], P).shape == (0, 2, 5, 37)
    assert kernels.attention_weights_backward(grad[:, :, :0], scores[:, :, :0], real[:, :0], None, 0.0).numel() == 0


@pytest.mark.parametrize("compiled", [True, False])
def test_what_is_no_number_spoils_its_place_alone(kernels: OnCpu, compiled: bool) -> None:
    scores, _, real, _ = given(torch.float32)
    scores[0, 1, 2, 3] = torch.nan
    scores[0, 0, 1, 5] = -torch.inf
    scores[1, 0, 4, 0] = torch.nan  # not a real word
    passes: Any = kernels if compiled else ByOperators
    found = passes.attention_weights(scores, real, None, 0.0)
    assert found[0, 1, :, 3].isnan().all()
    assert found[0, 0, 1, 5] == 0
    found[0, 1, :, 3] = 0
    assert found.isfinite().all()


def test_what_does_not_fit_is_named(kernels: OnCpu) -> None:
    scores, grad, real, keys = given(torch.float32)
    with pytest.raises(RuntimeError, match=r"attention_weights: scores: .*float64"):
        kernels.attention_weights(scores.double(), real, None, 0.0)
    with pytest.raises(RuntimeError, match=r"weights_f32: real: expected \(3, 5\) of torch.bool, got \(3, 4\)"):
        kernels.attention_weights(scores, real[:, 1:], None, 0.0)
    with pytest.raises(RuntimeError, match=r"weights_f32: keys: expected \(3,\) of torch.int64, got \(2,\)"):
        kernels.attention_weights(scores, real, keys[1:], P)
    with pytest.raises(RuntimeError, match=r"backward_f32: grad: expected \(3, 2, 5, 37\).*float16"):
        kernels.attention_weights_backward(grad.half(), scores, real, None, 0.0)
    for wrong in ({"images": -1}, {"heads": 2**40, "places": 2**40}):
        sizes = {"images": 1, "heads": 1, "words": 1, "places": 1} | wrong
        with pytest.raises(RuntimeError, match=r"\(error -1\)"):
            kernels._launch("laconv_attention_weights_f32", AttentionArguments(**sizes), scores)
    with pytest.raises(RuntimeError, match=r"\(error -4\)"):
        kernels._launch("laconv_attention_weights_f32", AttentionArguments(keys=keys.data_ptr()), scores)


@pytest.mark.parametrize("drop", [False, True])
def test_contracts_of_pytorch(drop: bool) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        scores, grad, real, keys = given(dtype)
        call = (real, keys if drop else None, P if drop else 0.0)
        scores.requires_grad_()
        torch.library.opcheck(torch.ops.laconv.attention_weights.default, (scores, *call))
        torch.library.opcheck(torch.ops.laconv.attention_weights_backward.default, (grad, scores.detach(), *call))
