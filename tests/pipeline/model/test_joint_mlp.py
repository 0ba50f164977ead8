"""The MLP of a block without its hidden map: what the layers give one by one, and when it serves."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from laconvnet.pipeline.bench.moved import Moved
from laconvnet.pipeline.model import batch_statistics, joint_mlp
from laconvnet.pipeline.model.blocks.base import MLP, BlockConfig
from laconvnet.pipeline.model.norm import BatchNorm


def made(dim: int = 16, on_gpu: bool = True, **changes: Any) -> MLP:
    """With norms whose weights and statistics are their own; `on_gpu`: as there."""
    torch.manual_seed(dim)
    mlp = MLP(BlockConfig(dim=dim, condition=8, groups=4, packing=1, kernel_size=3, words=8, **changes))
    for norm in (mlp.expand_norm, mlp.reduce_norm):
        norm.as_on_gpu = on_gpu
        with torch.no_grad():
            norm.weight.uniform_(0.5, 1.5)
            norm.bias.uniform_(-0.5, 0.5)
    return mlp


def given(dim: int = 16, shape: tuple[int, int, int] = (3, 7, 5)) -> tuple[Tensor, Tensor]:
    """y and the gradient of the output."""
    batch, height, width = shape
    y, grad = (torch.randn(batch, dim, height, width).to(memory_format=torch.channels_last) for _ in range(2))
    return (y + 0.5).bfloat16(), grad.bfloat16()


def trained(mlp: MLP, y: Tensor, grad: Tensor) -> dict[str, Tensor]:
    """The output, all gradients and all running statistics of one step."""
    leaf = y.clone().requires_grad_()
    out = mlp(leaf)
    out.backward(grad.to(out.dtype))
    assert leaf.grad is not None
    gradients = {name: value.grad for name, value in mlp.named_parameters() if value.grad is not None}
    assert len(gradients) == 6
    return {"out": out.detach(), "y": leaf.grad, **gradients, **dict(mlp.named_buffers())}


def operators(mlp: MLP, y: Tensor) -> set[str]:
    """What a forward pass calls, under autocast."""
    with Moved() as moved, torch.autocast("cpu", torch.bfloat16):
        mlp(y)
    return set(moved.by_operator)


@pytest.mark.parametrize("dim", [16, 64])
def test_is_what_the_layers_are(dim: int) -> None:
    """No further from float64 than they are by twice, and a hair of what is largest: roundings fall elsewhere."""
    y, grad = given(dim)
    exact = trained(made(dim, on_gpu=False).double(), y.double(), grad.double())
    with torch.autocast("cpu", torch.bfloat16):
        layers, joint = (trained(made(dim, on_gpu), y, grad) for on_gpu in (False, True))
    assert joint.keys() == layers.keys() == exact.keys()
    assert joint["out"].dtype == layers["out"].dtype == torch.bfloat16
    for name, wanted in exact.items():
        near, off = ((found[name].double() - wanted).abs().max() for found in (layers, joint))
        assert joint[name].dtype == layers[name].dtype, name
        assert off <= 2 * near + 1e-3 * wanted.abs().max(), name


def test_of_as_many_processes_with_the_same_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Statistics stay, sums and counts double: all is as in one process, but for what the norms learn of the count."""
    y, grad = given()
    with torch.autocast("cpu", torch.bfloat16):
        alone = trained(made(), y, grad)
        whole = batch_statistics.global_statistics
        monkeypatch.setattr(joint_mlp, "global_statistics", lambda own: (*whole(own)[:2], 2 * whole(own)[2]))
        monkeypatch.setattr(joint_mlp, "global_sums", lambda own: 2 * own)
        joined = trained(made(), y, grad)
    for name, value in alone.items():
        if "running_var" in name:
            assert not torch.equal(joined[name], value)
        else:
            torch.testing.assert_close(joined[name], value, rtol=1e-5, atol=1e-6)


def test_where_it_serves() -> None:
    y, _ = given()
    there = {"laconv::mlp_statistics", "laconv::mlp_forward"}
    assert there <= operators(made(), y)
    assert not operators(made(), y) & {"aten::convolution", "aten::mkldnn_convolution"}
    evaluated, frozen, wide = made().eval(), made(), made(dim=24)
    frozen.expand_norm.freeze()
    for other in (made(on_gpu=False), made(activation="silu"), made(output_activation=True), evaluated, frozen):
        assert not operators(other, y) & there
    assert not operators(wide, given(24)[0]) & there
    with Moved() as moved:
        made()(y.float())
    assert not set(moved.by_operator) & there, "float32 has no kernels"


def test_two_values_a_channel_will_do_and_one_is_refused() -> None:
    assert "laconv::mlp_forward" in operators(made(), given(shape=(2, 1, 1))[0])
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        operators(made(), given(shape=(1, 1, 1))[0])


def test_norms_count_a_recomputed_pass_once() -> None:
    from laconvnet.pipeline.model.recompute import recomputed

    y, grad = given()
    mlp = made()
    with torch.autocast("cpu", torch.bfloat16):
        recomputed(mlp, y.requires_grad_()).backward(grad)
    norms = [norm for norm in mlp.modules() if isinstance(norm, BatchNorm)]
    assert [int(norm.num_batches_tracked) for norm in norms] == [1, 1]
