"""What only a GPU can show: the same answers there as on the CPU."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from laconvnet import kernels
from laconvnet.pipeline.model import ModelConfig, build_model

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU: torch.cuda.is_available() is False"),
]


@pytest.mark.parametrize(("kernel_size", "groups", "side"), [(3, 4, 33), (7, 8, 13), (7, 16, 7)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dynamic_convolution_agrees_with_the_cpu(kernel_size: int, groups: int, side: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 32, side, side).to(dtype)
    filters = torch.randn(2, kernel_size**2 * groups, side, side).to(dtype)
    here = x.clone().requires_grad_(), filters.clone().requires_grad_()
    there = x.cuda().requires_grad_(), filters.cuda().requires_grad_()
    expected = kernels.dynamic_conv(*here, kernel_size, groups)
    found = kernels.dynamic_conv(*there, kernel_size, groups)
    weight = torch.randn_like(expected)
    expected.backward(weight)
    found.backward(weight.cuda())
    bound = {torch.float32: 1e-4, torch.bfloat16: 2e-2}[dtype]
    for ours, theirs in ((found, expected), (there[0].grad, here[0].grad), (there[1].grad, here[1].grad)):
        assert ours is not None
        assert theirs is not None
        scale = theirs.float().abs().max()
        torch.testing.assert_close(ours.float().cpu() / scale, theirs.float() / scale, rtol=0, atol=bound)


@pytest.mark.parametrize("task", ["rec", "vqa"])
def test_the_network_agrees_with_the_cpu(task: str) -> None:
    torch.manual_seed(0)
    model = build_model(ModelConfig(preset="s", task=task), 50, 10).eval()
    images, tokens = torch.rand(2, 3, 224, 224), torch.randint(2, 50, (2, 15))
    with torch.inference_mode():
        expected = model(images, tokens)
        found = model.cuda()(images.cuda(), tokens.cuda()).cpu()
    scale = expected.abs().max()
    torch.testing.assert_close(found / scale, expected / scale, rtol=0, atol=2e-3)


def test_a_run_trains_evaluates_and_resumes(tmp_path: Path) -> None:
    for name in ("deepspeed", "accelerate", "nvidia.dali", "jsonargparse"):
        pytest.importorskip(name, reason=f"{name} is not installed")

    def laconvnet(*arguments: object) -> None:
        subprocess.run(
            [sys.executable, "-m", "laconvnet.launch.cli", *map(str, arguments)], cwd=ROOT, check=True, timeout=300
        )

    laconvnet("shards", "generate", "--out", tmp_path / "raw", "--pictures", 64)
    laconvnet("shards", "build", "refcoco", "--root", tmp_path / "raw/refer", "--out", tmp_path / "refcoco")
    run = tmp_path / "run"
    train = ["train", "--config", "configs/demo/pretrain.yaml", "--run", run, "--data.folder", tmp_path / "refcoco"]
    train += ["--engine.precision", "bf16", "--log.every", "1", "--checkpoint.every", "4"]
    laconvnet(*train)
    newest = max((run / "checkpoints").glob("step-*/COMMIT"))
    newest.unlink()
    laconvnet(*train)
    laconvnet("eval", run, "--data", tmp_path / "refcoco", "--split", "val")
    assert newest.exists()
