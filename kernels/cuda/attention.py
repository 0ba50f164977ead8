"""The weights of an attention by the CUDA kernels, as Python sees them (C interface: laconv.h)."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from laconvnet.kernels.cuda.batch_norm import TYPES
from laconvnet.kernels.dropout import threshold
from laconvnet.kernels.formats import about


class AttentionArguments(ctypes.Structure):
    """laconv_attention_args."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("scores", "grad", "result", "real", "keys")),
        *((name, ctypes.c_int64) for name in ("threshold", "images", "heads", "words", "places")),
    )


class AttentionKernels:
    """For `Library`; shapes are those of `kernels.attention`. Each raises RuntimeError naming kernel and tensor where
    something does not fit; then nothing is returned.
    """

    def attention_weights(self, scores: Tensor, real: Tensor, keys: Tensor | None, p: float) -> Tensor:
        """scores (B, heads, L, P), real (B, L) -> the weights, like scores, contiguous."""
        return self._weights("attention_weights", scores, None, real, keys, p)

    def attention_weights_backward(
        self, grad: Tensor, scores: Tensor, real: Tensor, keys: Tensor | None, p: float
    ) -> Tensor:
        """The gradient of scores (B, heads, L, P), from that of the weights."""
        return self._weights("attention_weights_backward", scores, grad, real, keys, p)

    def _weights(
        self, what: str, scores: Tensor, grad: Tensor | None, real: Tensor, keys: Tensor | None, p: float
    ) -> Tensor:
        if scores.dim() != 4 or scores.dtype not in TYPES:
            known = ", ".join(map(str, TYPES))
            raise RuntimeError(f"{what}: scores: expected (B, heads, L, P) of one of {known}, got {about(scores)}")
        name, (images, heads, words, places) = f"laconv_{what}_{TYPES[scores.dtype]}", scores.shape
        wanted: list[tuple[str, Tensor, tuple[int, ...], torch.dtype]] = [("real", real, (images, words), torch.bool)]
        wanted += [] if keys is None else [("keys", keys, (images,), torch.int64)]
        wanted += [] if grad is None else [("grad", grad, tuple(scores.shape), scores.dtype)]
        for field, tensor, shape, dtype in wanted:
            if (tensor.shape, tensor.dtype, tensor.device) != (shape, dtype, scores.device):
                raise RuntimeError(f"{name}: {field}: expected {shape} of {dtype}, got {about(tensor)}")
        tensors = {"scores": scores, **{field: tensor for field, tensor, *_ in wanted}}
        dense = {field: tensor.contiguous() for field, tensor in tensors.items()}
        result = torch.empty_like(dense["scores"])
        arguments = AttentionArguments(images=images, heads=heads, words=words, places=places)
        arguments.threshold = 0 if keys is None else threshold(p)
        for field, tensor in {**dense, "result": result}.items():
            setattr(arguments, field, tensor.data_ptr())
        self._launch(name, arguments, result)
        return result

    def _launch(self, name: str, arguments: ctypes.Structure, result: Tensor) -> None:
        raise NotImplementedError
