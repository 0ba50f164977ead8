"""The condition that stays packed: what its passes give beside merge, pixel shuffle and batch norm one by one."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from laconvnet.pipeline.model.blocks import laconv
from laconvnet.pipeline.model.blocks.base import BlockConfig
from laconvnet.pipeline.model.blocks.laconv import ConditionGenerator, LaConvBlock
from laconvnet.pipeline.model.draws import Dropout
from laconvnet.pipeline.model.norm import BatchNorm
from laconvnet.pipeline.model.recompute import recomputed

CONFIG = BlockConfig(
    dim=8, condition=12, groups=2, packing=2, kernel_size=3, words=10, heads=3, affinity_dropout=0.2, filter_dropout=0.3
)


def block(config: BlockConfig, packed: bool, dtype: torch.dtype = torch.float64) -> LaConvBlock:
    torch.manual_seed(2)
    made = LaConvBlock(config).to(dtype)
    for name, parameter in made.named_parameters():
        if "norm" in name:
            torch.nn.init.uniform_(parameter, -1.0, 1.5)
    norm_of(made).running_mean.fill_(0.3)
    norm_of(made).as_on_gpu = packed
    return made


def norm_of(made: LaConvBlock) -> BatchNorm:
    assert isinstance(made.generator, ConditionGenerator)
    return made.generator.norm


def inputs(
    config: BlockConfig, batch: int = 4, dtype: torch.dtype = torch.float64, sides: tuple[int, int] = (6, 4)
) -> tuple[Tensor, ...]:
    some = torch.Generator().manual_seed(7)
    x = torch.randn(batch, config.dim, *sides, dtype=torch.float64, generator=some)
    words = torch.randn(batch, 5, config.words, dtype=torch.float64, generator=some)
    mask = torch.arange(5) < torch.tensor([5, 2, 3, 1, 4] * batch)[:batch, None]
    grad = torch.randn(x.shape, dtype=torch.float64, generator=some)
    return x.to(dtype).contiguous(memory_format=torch.channels_last), words.to(dtype), mask, grad.to(dtype)


def results(made: LaConvBlock, given: tuple[Tensor, ...], again: bool = False) -> dict[str, Tensor]:
    """Output, gradients and what the norms learned, by name."""
    x, words, mask, grad = given
    leaves = {"x": x.clone().requires_grad_(), "words": words.clone().requires_grad_()}
    for module in made.modules():
        if isinstance(module, Dropout):
            module.keys = torch.arange(len(x))
    call = (leaves["x"], leaves["words"], mask)
    out = recomputed(made, *call) if again else made(*call)
    out.backward(grad)
    found = {"out": out.detach(), **dict(made.named_buffers())}
    for name, leaf in {**leaves, **dict(made.named_parameters())}.items():
        if leaf.requires_grad:
            assert leaf.grad is not None, name
            found[f"gradient of {name}"] = leaf.grad
    return found


KEY = "gradient of generator.affinity.key"


def assert_alike(ours: dict[str, Tensor], theirs: dict[str, Tensor], tolerance: float) -> None:
    """Within the tolerance of the largest value of each."""
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert (value.dtype, value.shape) == (theirs[name].dtype, theirs[name].shape), name
        # A softmax knows no shift: the gradient of the keys' bias is nothing but rounding.
        scale = float(theirs[f"{KEY}.weight" if name == f"{KEY}.bias" else name].abs().max())
        apart = float((value - theirs[name]).abs().max())
        assert apart <= tolerance * max(scale, 1e-3), f"{name}: {apart}"


@pytest.fixture(params=[False, True], ids=["unpacked", "read packed"])
def read_packed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether LaConv takes the map as it lies: by the shape of this test in place of stage 1's."""
    monkeypatch.setattr(laconv, "reads_packed", lambda *_: request.param)


def settled(made: LaConvBlock, mode: str) -> LaConvBlock:
    if mode == "frozen":
        norm_of(made).freeze()
    return made.eval() if mode == "eval" else made.train()


@pytest.mark.usefixtures("read_packed")
@pytest.mark.parametrize("packing", [1, 2])
@pytest.mark.parametrize("mode", ["train", "recompute", "frozen", "eval"])
def test_is_the_composition(mode: str, packing: int) -> None:
    """In float64."""
    config = replace(CONFIG, packing=packing)
    found = [settled(block(config, packed), mode) for packed in (True, False)]
    ours, theirs = (results(made, inputs(config), mode == "recompute") for made in found)
    assert_alike(ours, theirs, 1e-9)
    torch.testing.assert_close(ours["out"], theirs["out"], rtol=1e-11, atol=1e-11)
    learned = ours["generator.norm.running_mean"] != 0.3
    assert learned.all() == learned.any() == (mode in ("train", "recompute"))
    assert ours["generator.norm.num_batches_tracked"] == int(mode in ("train", "recompute"))


@pytest.mark.usefixtures("read_packed")
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_type_is_within_rounding(dtype: torch.dtype, autocast: bool) -> None:
    """No farther from float64 than twice the composition in the same type, or than that is anywhere of its kind."""
    exact = results(block(CONFIG, False), inputs(CONFIG))
    held = torch.float32 if autocast else dtype
    found = []
    for packed in (True, False):
        with torch.autocast("cpu", dtype, enabled=autocast and dtype != torch.float32):
            found.append(results(block(CONFIG, packed, held), inputs(CONFIG, dtype=held)))
    apart = [{name: far(each[name], value) for name, value in exact.items()} for each in found]
    for name, ours in apart[0].items():
        kind = apart[1] if name == f"{KEY}.bias" else (name,)
        assert ours <= 2 * max(apart[1][one] for one in kind) + torch.finfo(torch.float32).eps, name


def far(found: Tensor, exact: Tensor) -> float:
    """The largest difference, as a share of the largest value."""
    return float((found.double() - exact).abs().max() / exact.abs().max().clamp_min(1e-3))


def process(rank: int, folder: str) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    found = []
    for cut in (1, 3):
        part = slice(0, cut) if rank == 0 else slice(cut, None)
        found.append(results(block(replace(CONFIG, affinity_dropout=0.0, filter_dropout=0.0), True), _part(part)))
    torch.save(found, f"{folder}/{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


def _part(part: slice) -> tuple[Tensor, ...]:
    return tuple(each[part] for each in inputs(CONFIG))


def test_two_processes_equal_one(tmp_path: Path) -> None:
    mp.spawn(process, args=(str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    one = results(block(replace(CONFIG, affinity_dropout=0.0, filter_dropout=0.0), False), inputs(CONFIG))
    for a, b in zip(first, second, strict=True):
        joined = {}
        for name in one:
            if name in ("out", "gradient of x", "gradient of words"):
                joined[name] = torch.cat([a[name], b[name]])
            else:
                assert "gradient" in name or torch.equal(a[name], b[name]), "every process learned the same"
                joined[name] = a[name] + b[name] if "gradient" in name else a[name]
        assert_alike(joined, one, 1e-6)


def test_one_value_a_channel_is_refused() -> None:
    made = block(replace(CONFIG, packing=1), True)
    x, words, mask, _ = inputs(CONFIG, 1)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        made(x[:, :, :1, :1], words, mask)


@pytest.mark.usefixtures("read_packed")
def test_compiles_as_a_whole() -> None:
    given, found = inputs(CONFIG), []
    for compiled in (False, True):
        made = block(CONFIG, True)
        if compiled:
            made.compile(backend="aot_eager", fullgraph=True)
        found.append(results(made, given))
    assert_alike(found[0], found[1], 1e-6)
