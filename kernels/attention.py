"""The weights of an attention: a softmax over the real words, in float32 or wider, and dropout, as one operator.

    laconv::attention_weights           scores, real, keys? -> weights; keeps only its inputs
    laconv::attention_weights_backward  its gradient, the weights made anew

scores (B, heads, L, P) of P places, of any floating-point type, which weights have, too; real (B, L) bool; a place of
an image without a real word has weights of zero. With keys (B,) int64 and p > 0 weights are dropped by the rule of
`kernels.dropout`. Bytes an element of 2 bytes on a GPU: 4 forward, 6 backward.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from laconvnet.kernels.norm import LIBRARY, on_gpu
from laconvnet.kernels.operator import keyed_dropout

for _schema in (
    "attention_weights(Tensor scores, Tensor real, Tensor? keys, float p) -> Tensor",
    "attention_weights_backward(Tensor grad, Tensor scores, Tensor real, Tensor? keys, float p) -> Tensor",
):
    LIBRARY.define(_schema, tags=(torch.Tag.pt2_compliant_tag,))


def masked_softmax(scores: Tensor, mask: Tensor, dim: int) -> Tensor:
    """Softmax of `scores` along `dim` over the positions where `mask` (broadcastable, True = real) holds.

    Returns float32, or the type of `scores` where that is wider, in their shape. A row without a real position gives
    zeros. The smallest finite number neither overflows nor makes NaN; float16 could not hold the usual -1e9.
    """
    scores = _wide(scores)
    scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    return torch.softmax(scores, dim).masked_fill(~mask, 0.0)


def forward(scores: Tensor, real: Tensor, keys: Tensor | None, p: float) -> Tensor:
    """The weights (B, heads, L, P) by PyTorch's operators."""
    weights = _of_words(scores, real)
    return _dropped(weights, keys, p).to(scores.dtype).contiguous()


def backward(grad: Tensor, scores: Tensor, real: Tensor, keys: Tensor | None, p: float) -> Tensor:
    """The gradient of scores (B, heads, L, P) by PyTorch's operators."""
    weights, above = _of_words(scores, real), _dropped(_wide(grad), keys, p)
    inner = (weights * above).sum(2, keepdim=True)
    return (weights * (above - inner)).to(scores.dtype).contiguous()


def _wide(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _of_words(scores: Tensor, real: Tensor) -> Tensor:
    return masked_softmax(scores, real[:, None, :, None], 2)


def _dropped(values: Tensor, keys: Tensor | None, p: float) -> Tensor:
    return values if keys is None else keyed_dropout(values, keys, p)


for _name, _plain, _first in (("attention_weights", forward, 0), ("attention_weights_backward", backward, 1)):
    LIBRARY.impl(_name, _plain, "CPU")
    LIBRARY.impl(_name, on_gpu(_name, _first, _plain), "CUDA")


def _fake(scores: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(scores, memory_format=torch.contiguous_format)


def _fake_backward(grad: Tensor, scores: Tensor, *_: Any) -> Tensor:
    return _fake(scores)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    scores, real, keys, ctx.p = inputs
    ctx.save_for_backward(scores, real, keys)


def _gradient(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
    scores, real, keys = ctx.saved_tensors
    return torch.ops.laconv.attention_weights_backward(grad, scores, real, keys, ctx.p), None, None, None


torch.library.register_fake("laconv::attention_weights", _fake, lib=LIBRARY)
torch.library.register_fake("laconv::attention_weights_backward", _fake_backward, lib=LIBRARY)
torch.library.register_autograd("laconv::attention_weights", _gradient, setup_context=_save, lib=LIBRARY)
