"""The bench on a GPU, and the authors' way of computing that it measures."""

from __future__ import annotations

import json
import warnings

import pytest
import torch
from torch import Tensor

from laconvnet.kernels import cuda
from laconvnet.kernels.cuda import involution
from laconvnet.kernels.plain import taps
from laconvnet.launch import cli
from tests.kernels.tensors import Shape, each

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU: torch.cuda.is_available() is False"),
]
GPU = torch.device("cuda", 0)


@pytest.fixture(scope="module")
def way() -> involution.Involution:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        found = involution.ready(GPU)
    assert found is not None, cuda.why_not(GPU)
    return found


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    "shape", [(2, 16, 208, 208, 3, 4), (2, 128, 52, 52, 7, 8), (4, 512, 13, 13, 7, 16), (1, 16, 20, 31, 9, 4)]
)
def test_the_authors_way_is_right(
    way: involution.Involution, shape: Shape, dtype: torch.dtype, interleaved: bool
) -> None:
    b, c, h, w, k, g = shape
    sizes = (k, g, interleaved)
    grad, x = (torch.randn(b, c, h, w, device=GPU).to(dtype) for _ in range(2))
    filters = torch.randn(b, k * k * g, h, w, device=GPU).to(dtype)
    exact = each(Tensor.double, (grad, x, filters))
    wanted = taps.forward(*exact[1:], k, g, interleaved), *taps.backward(*exact, *sizes)
    found = way.dynamic_conv(x, filters, *sizes), *way.dynamic_conv_backward(grad, x, filters, *sizes)
    for ours, theirs in zip(found, wanted, strict=True):
        # Summed in float32 and rounded once.
        allowed = theirs.abs() * torch.finfo(dtype).eps / 2 + 1e-4
        assert ((ours.double() - theirs).abs() <= allowed).all()


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_rows(dtype: str, way: involution.Involution, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["bench", "kernel", "--device", "cuda", "--preset", "s", "--size", "416", "--batch", "4", "--quick"]
    assert cli.main([*arguments, "--rounds", "1", "--dtype", dtype, "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {row["name"] for row in rows} == {"unfold", "taps", "involution", "laconv"}
    assert {row["cache"] for row in rows} == {"warm", "cold"}
    assert len(rows) == 4 * 2 * 2 * 5 * 3  # ways, operations, caches, layers, directions
    for row in rows:
        assert row["device"] == torch.cuda.get_device_name(0)
        assert row["note"] is None
        assert row["median"] > 0
        assert row["peak_mb"] > 0
        # Rates above what a chip can do tell of a clock that stops too early.
        assert row["of_copy"] < 20
    peaks = {(row["name"], row["stage"]): row["peak_mb"] for row in rows if row["operation"] == "laconv"}
    for stage in range(1, 6):
        assert peaks["laconv", stage] < peaks["unfold", stage]


def test_rows_of_a_networks_steps(way: involution.Involution) -> None:
    """LaConvNet-S at 416 in bf16, each way once; more is measured by `make gpu`."""
    from laconvnet.pipeline.bench import speed

    network = speed.Network(batch=4)
    found = {row["name"]: row for row in speed.rows(network, GPU, 2, 2, lambda: None)}
    unfold, ours = found["unfold"], found["laconv"]
    for row in (unfold, ours):
        assert row["note"] is None
        assert row["device"] == torch.cuda.get_device_name(0)
        assert (row["preset"], row["size"], row["precision"], row["pictures"]) == ("s", 416, "bf16", 4)
        assert row["samples_per_s"] > 0
        assert 0 <= row["data_wait"] < 1
        assert row["mfu"] is None or 0 < row["mfu"] < 1
        assert row["data"].startswith(("DALI, mixed", "memory: without"))
    assert ours["peak_mb"] < unfold["peak_mb"]


def test_channels_last_from_the_decoder_on_the_gpu() -> None:
    pytest.importorskip("nvidia.dali", reason="DALI is not installed")
    import numpy as np

    from laconvnet.pipeline.bench.made import images
    from laconvnet.pipeline.data.decode import Decoder
    from laconvnet.pipeline.data.geometry import Letterbox

    data = [np.frombuffer(one, np.uint8) for one in images(2, 96, 64)]
    letterbox = Letterbox.fit(np.full(2, 96), np.full(2, 64), 64)
    for share in (0.0, 0.65, 1.0):
        batch = Decoder(2, 1, GPU, hw_decoder_load=share).decode(data, letterbox)
        assert batch.is_contiguous(memory_format=torch.channels_last)
        assert not batch.is_contiguous()


def test_rows_of_a_network_that_answers(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "bench",
        "infer",
        "--device",
        "cuda",
        "--preset",
        "s",
        "--size",
        "224",
        "--batch",
        "4",
        "--rounds",
        "2",
    ]
    assert cli.main([*arguments, "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {(row["measure"], row["name"], row["batch"]) for row in rows} == {
        (measure, name, batch)
        for measure, batch in (("latency", 1), ("throughput", 4))
        for name in ("unfold", "laconv")
    }
    for row in rows:
        assert row["device"] == torch.cuda.get_device_name(GPU)
        assert row["median"] > 0
        assert row["precision"] == "bf16"


def test_rows_of_bytes(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["bench", "bytes", "--device", "cuda", "--preset", "s", "--size", "224", "--batch", "4"]
    assert cli.main([*arguments, "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    found = {(row["measure"], row["name"]): row for row in rows if "stage" not in row}
    saved, peak = (found[measure, "laconv"] for measure in ("saved by a step", "peak of a step"))
    assert 0 < saved["median"] < found["saved by a step", "unfold"]["median"]
    assert saved["median"] < peak["median"] < found["peak of a step", "unfold"]["median"]
    assert peak["note"] is None
