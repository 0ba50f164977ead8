"""The operators under `torch.func` and forward-mode differentiation: right or refused, never zero."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

from laconvnet import kernels

KEYS = torch.tensor([3, -(2**63)])


def draw(*shape: int) -> Tensor:
    torch.manual_seed(sum(shape))
    return torch.randn(*shape)


X, COND, WEIGHT, BIAS, FILTERS = draw(2, 8, 5, 6), draw(2, 4, 5, 6), draw(18, 4), draw(18), draw(2, 18, 5, 6)


def laconv(x: Tensor, cond: Tensor = COND, weight: Tensor = WEIGHT, bias: Tensor | None = BIAS) -> Tensor:
    return kernels.laconv(x, cond, weight, bias, 3, 2, 0.25, KEYS)


def dynamic_conv(x: Tensor, filters: Tensor = FILTERS) -> Tensor:
    return kernels.dynamic_conv(x, filters, 3, 2)


def dropout(values: Tensor) -> Tensor:
    return kernels.keyed_dropout(values, KEYS, 0.5)


ALL = [laconv, dynamic_conv, dropout]


@pytest.mark.parametrize("function", ALL)
def test_forward_mode_is_refused(function: Callable[[Tensor], Tensor]) -> None:
    name = function.__name__.replace("dropout", "keyed_dropout")
    with pytest.raises(RuntimeError, match=f"{name}: .*forward-mode"):
        torch.func.jvp(function, (X,), (torch.ones_like(X),))
    with forward_ad.dual_level(), pytest.raises(RuntimeError, match=f"{name}: .*forward-mode"):
        function(forward_ad.make_dual(X, torch.ones_like(X)))


@pytest.mark.parametrize("bias", [BIAS, None])
def test_gradients_are_those_of_backward(bias: Tensor | None) -> None:
    def loss(x: Tensor, cond: Tensor, weight: Tensor, offset: Tensor | None = None) -> Tensor:
        return laconv(x, cond, weight, offset).sin().sum()

    inputs = [X, COND, WEIGHT, *([] if bias is None else [bias])]
    found = torch.func.grad(loss, tuple(range(len(inputs))))(*inputs)
    leaves = [one.clone().requires_grad_() for one in inputs]
    loss(*leaves).backward()
    for ours, leaf in zip(found, leaves, strict=True):
        assert leaf.grad is not None
        assert torch.equal(ours, leaf.grad)


@pytest.mark.parametrize("function", [dynamic_conv, dropout])
def test_gradients_of_the_others(function: Callable[[Tensor], Tensor]) -> None:
    leaf = X.clone().requires_grad_()
    function(leaf).sin().sum().backward()
    assert leaf.grad is not None
    assert torch.equal(torch.func.grad(lambda x: function(x).sin().sum())(X), leaf.grad)


def test_calls_under_vmap_are_one_batch() -> None:
    several = torch.stack([X, 2 * X, -X], 1)
    found = torch.func.vmap(laconv, 1)(several)
    for call in range(3):
        torch.testing.assert_close(found[call], laconv(several[:, call]))
    found = torch.func.vmap(lambda x, cond: laconv(x, cond), (1, None), 1)(several, COND)
    torch.testing.assert_close(found[:, 1], laconv(2 * X))
    keys = torch.stack([KEYS, KEYS + 1])
    found = torch.func.vmap(lambda k: kernels.keyed_dropout(X, k, 0.5))(keys)
    assert torch.equal(found[1], kernels.keyed_dropout(X, KEYS + 1, 0.5))
    assert not torch.equal(found[0], found[1])


def test_what_is_not_known_is_refused() -> None:
    with pytest.raises(RuntimeError, match=r"laconv: no vmap but over images: .*weights"):
        torch.func.vmap(lambda weight: laconv(X, COND, weight))(torch.stack([WEIGHT, WEIGHT]))
    with pytest.raises(RuntimeError, match=r"laconv: no vmap over its gradients"):
        torch.func.jacrev(lambda x: laconv(x).sum((0, 2, 3)))(X)
    with pytest.raises(RuntimeError, match=r"laconv: differentiable once"):
        torch.func.grad(lambda x: torch.func.grad(lambda y: laconv(y).sin().sum())(x).sum())(X)


def test_a_condition_without_channels_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"cond: .*\(2, 0, 5, 6\)"):
        kernels.laconv(X, COND[:, :0], WEIGHT[:, :0], BIAS, 3, 2)
