"""Batch norm's kernels on a GPU: the answers of float64, the same bits on every run, whatever the stream."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from laconvnet.kernels import cuda
from laconvnet.kernels.plain import norm_cuda
from laconvnet.pipeline.model.norm import BatchNorm
from tests.kernels.norms import EPS, Found, exactly, given
from tests.kernels.test_cuda_norm import agree, compare, every_pass

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU: torch.cuda.is_available() is False"),
]
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
SHAPES = [
    (16, 64, 104, 104),
    (64, 16, 52, 52),
    (64, 512, 13, 13),
    (65, 640, 7, 7),
    (3, 136, 13, 9),
    (5, 37, 11, 3),
    (2, 1, 33, 65),
    (64, 256, 1, 1),
    (0, 16, 3, 3),
]


class ByTorch:
    """PyTorch's CUDA kernels, in the place of the compiled ones."""

    def __getattr__(self, name: str) -> Any:
        return getattr(norm_cuda, name.removeprefix("norm_"))


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("with_sum", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_pass(way: cuda.Library, shape: tuple[int, ...], dtype: torch.dtype, with_sum: bool, relu: bool) -> None:
    these = given(shape, dtype, with_sum, relu, "cuda")
    found = every_pass(way, these)
    if not shape[0]:
        assert not any(found.statistics.tolist() + found.sums.tolist())
        return
    compare(found, these)
    assert found.out.stride() == found.grad_x.stride() == these.x.stride()


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("with_sum", [False, True])
@pytest.mark.parametrize("dtype", [*DTYPES, torch.float64])
@pytest.mark.parametrize("shape", [(16, 64, 52, 52), (3, 37, 13, 9), (64, 256, 1, 1), (0, 16, 3, 3)])
def test_pytorchs_kernels_in_their_place(
    shape: tuple[int, ...], dtype: torch.dtype, with_sum: bool, relu: bool
) -> None:
    these = given(shape, dtype, with_sum, relu, "cuda")
    if dtype == torch.float64:
        these = these.changed(lambda t: t, Tensor.double)
    found = every_pass(ByTorch(), these)
    if shape[0]:
        compare(found, these, torch.finfo(dtype).eps if dtype.itemsize == 2 and with_sum else 0.0)
    assert found.out.dtype == found.grad_x.dtype == dtype


def test_statistics_of_several_processes(way: cuda.Library) -> None:
    own = [
        way.norm_statistics(given((2 + rank, 640, 7, 5), torch.float32, False, False, "cuda").x) for rank in range(9)
    ]
    every = torch.stack(own)
    wanted = torch.ops.laconv.norm_combine(every.double().cpu())
    torch.testing.assert_close(way.norm_combine(every).double().cpu(), wanted, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_same_bits_on_every_run(way: cuda.Library, dtype: torch.dtype) -> None:
    these = given((16, 128, 52, 52), dtype, True, True, "cuda")
    first = every_pass(way, these)
    for _ in range(20):
        again = every_pass(way, these)
        for name, value in vars(first).items():
            assert torch.equal(value, getattr(again, name)), name


def test_two_streams_at_once(way: cuda.Library) -> None:
    """Each with inputs that come late: on another stream the kernels would see the zeros, and share workspaces."""
    some = [given((16, channels, 52, 52), torch.bfloat16, True, True, "cuda") for channels in (64, 128)]
    wanted = [every_pass(way, these) for these in some]
    late = [torch.zeros_like(these.x) for these in some]
    streams = [torch.cuda.Stream() for _ in some]
    torch.cuda.synchronize()
    found: list[list[Found]] = [[], []]
    for stream in streams:
        with torch.cuda.stream(stream):
            torch.cuda._sleep(50_000_000)
    for _ in range(5):
        for number, (these, x, stream) in enumerate(zip(some, late, streams, strict=True)):
            with torch.cuda.stream(stream):
                x.copy_(these.x)
                found[number].append(every_pass(way, replace(these, x=x)))
    torch.cuda.synchronize()
    for each, exact in zip(found, wanted, strict=True):
        for one in each:
            for name, value in vars(exact).items():
                assert torch.equal(value, getattr(one, name)), name


def test_captured_in_a_graph(way: cuda.Library) -> None:
    these = given((4, 64, 26, 26), torch.bfloat16, True, True, "cuda")
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        every_pass(way, these)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = every_pass(way, these)
    for _ in range(2):
        these.x.normal_()
        graph.replay()
        for name, value in vars(every_pass(way, these)).items():
            assert torch.equal(value, getattr(found, name)), name


def test_more_than_two_to_the_31_values(way: cuda.Library) -> None:
    shape = (520, 256, 128, 128)  # 2.18e9
    if torch.cuda.mem_get_info()[0] < 12 * 2**31:
        pytest.skip(f"needs {12 * 2**31 / 2**30:.0f} GiB of free GPU memory")
    x = torch.empty(shape[0], *shape[2:], shape[1], device="cuda", dtype=torch.bfloat16).normal_().permute(0, 3, 1, 2)
    own = way.norm_statistics(x)
    parts = [way.norm_statistics(x[part]) for part in (slice(0, 260), slice(260, 520))]
    agree(own[:256], (parts[0][:256].double() + parts[1][:256].double()) / 2, 1e-6)
    assert own[-1] == x.numel() / 256
    weight, bias = torch.randn(2, 256, device="cuda")
    channels = (own[:256], own[256:-1], weight, bias)
    out = way.norm_apply(x, None, *channels, EPS, True)
    assert torch.equal(out[519:], way.norm_apply(x[519:], None, *channels, EPS, True))


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("with_sum", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_layer_takes_the_kernels(
    way: cuda.Library, dtype: torch.dtype, with_sum: bool, relu: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine that fell back in silence would pass every other test of values."""
    asked: list[str] = []
    launch = cuda.Library._launch

    def watched(self: cuda.Library, name: str, *rest: Any) -> None:
        asked.append(name)
        launch(self, name, *rest)

    monkeypatch.setattr(cuda.Library, "_launch", watched)
    these = given((8, 64, 26, 26), dtype, with_sum, relu, "cuda")
    norm = BatchNorm(64).cuda()
    with torch.no_grad():
        norm.weight.copy_(these.weight)
        norm.bias.copy_(these.bias)
    leaves = [leaf.requires_grad_() for leaf in (these.x, these.beside) if leaf is not None]
    out = norm(these.x, these.beside, relu=relu)
    grads = torch.autograd.grad(out, [*leaves, norm.weight, norm.bias], these.grad)
    kind = {torch.float32: "f32", torch.float16: "f16", torch.bfloat16: "bf16"}[dtype]
    passes = ("statistics", "apply", "backward_reduce", "backward_apply")
    assert asked == [f"laconv_norm_{name}_{kind}" for name in passes]
    detached = these.changed(Tensor.detach)
    exact = exactly(detached)
    own = exact.statistics.float()
    torch.testing.assert_close(norm.running_mean, 0.1 * own[:64], rtol=1e-5, atol=1e-5)
    sums = torch.cat([grads[-1], grads[-2]])
    compare(Found(own, out.detach(), sums, grads[1] if with_sum else None, grads[0]), detached)


def test_compiled() -> None:
    norm, plain = BatchNorm(64).cuda(), BatchNorm(64).cuda()

    def step(norm: BatchNorm, x: Tensor, beside: Tensor) -> Tensor:
        out: Tensor = norm(x * 2, beside, relu=True)
        return out.float().square().mean()

    compiled = torch.compile(step, fullgraph=True)
    these = given((4, 64, 26, 26), torch.bfloat16, True, True, "cuda")
    assert these.beside is not None
    inputs = [leaf.requires_grad_() for leaf in (these.x, these.beside)]
    found = torch.autograd.grad(compiled(norm, *inputs), inputs)
    for ours, theirs in zip(found, torch.autograd.grad(step(plain, *inputs), inputs), strict=True):
        torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(norm.running_var, plain.running_var)


def test_another_device(way: cuda.Library) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("there is one GPU: cuda:1 cannot be tried")
    these = given((4, 64, 26, 26), torch.bfloat16, True, True, "cuda")
    there = these.changed(lambda t: t.to("cuda:1"), lambda t: t.to("cuda:1"))
    second = cuda.ready(torch.device("cuda", 1))
    for name, value in vars(every_pass(second, there)).items():
        assert torch.equal(value.cpu(), getattr(every_pass(way, these), name).cpu()), name
