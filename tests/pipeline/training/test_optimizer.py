"""Every implementation of Adam takes the step of torch's in float64; the wrong apex is told from NVIDIA's."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from laconvnet.pipeline.errors import ConfigError
from laconvnet.pipeline.training.apex import has_apex
from laconvnet.pipeline.training.optimizer import EXTENSION, OptimizerConfig, build_optimizer
from laconvnet.pipeline.training.state import gather_optimizer_state, scatter_optimizer_state

GPU = torch.device("cuda")
HERE = GPU if torch.cuda.is_available() else torch.device("cpu")
RECIPE = OptimizerConfig(lr=1e-2)
STEPS = 4


def gradient(step: int, size: int = 4096) -> torch.Tensor:
    """Of sizes from 1e-7 to 1e2, as they come up, and nothing at all for the first quarter."""
    some = torch.Generator().manual_seed(step)
    values = torch.randn(size, generator=some) * torch.logspace(-7, 2, size)
    values[: size // 4] = 0
    return values


@pytest.mark.parametrize("implementation", ["auto", "torch", "deepspeed", "apex"])
def test_steps_are_those_of_adam_in_float64(implementation: Any) -> None:
    start_state = torch.randn(4096, generator=torch.Generator().manual_seed(9))
    weight = torch.nn.Parameter(start_state.to(HERE, copy=True))
    exact = torch.nn.Parameter(start_state.double())
    try:
        adam = build_optimizer(OptimizerConfig(lr=1e-2, implementation=implementation), [weight], HERE)
    except ConfigError as error:
        pytest.skip(str(error))
    reference = torch.optim.Adam([exact], lr=1e-2, betas=RECIPE.betas, eps=RECIPE.eps, weight_decay=0)
    for step in range(STEPS):
        weight.grad, exact.grad = gradient(step).to(HERE), gradient(step).double()
        adam.step()
        reference.step()
        moved, wanted = weight.detach().cpu().double() - start_state.double(), exact.detach() - start_state.double()
        # Four fp32 roundings of weights up to 4 a step, and the relative error of a quotient and a square root.
        assert float((moved - wanted).abs().max()) < (step + 1) * 1e-6
        assert torch.equal(moved[:1024], torch.zeros(1024).double())  # nothing decays
        if not step:  # both moments corrected for their bias, the first step is the rate, whatever the gradient
            assert moved[2048:].abs().tolist() == pytest.approx([1e-2] * 2048, rel=2e-4)


def test_the_distribution_that_is_only_called_apex_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if has_apex(EXTENSION):
        pytest.skip("NVIDIA's apex is installed here")
    asked = OptimizerConfig(implementation="apex")
    weights = [torch.nn.Parameter(torch.zeros(2))]
    with pytest.raises(ConfigError, match=r"optimizer\.implementation: 'apex': NVIDIA's .*not installed; use"):
        build_optimizer(asked, weights, GPU)
    (tmp_path / "apex").mkdir()
    (tmp_path / "apex" / "__init__.py").write_text("raise RuntimeError('a toolkit for web sites')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=r"'apex': .* not NVIDIA's, or .*no amp_C"):
        build_optimizer(asked, weights, GPU)
    assert type(build_optimizer(OptimizerConfig(), weights, GPU)) is torch.optim.Adam


@pytest.fixture
def nvidias(monkeypatch: pytest.MonkeyPatch) -> None:
    """Modules by the names of NVIDIA's apex, whose Adam counts its steps as that one does: in the group."""

    class FusedAdam(torch.optim.Optimizer):
        def __init__(self, params: Any, lr: float, betas: Any, eps: float, adam_w_mode: bool, weight_decay: float = 0):
            assert not adam_w_mode
            super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

        @torch.no_grad()
        def step(self) -> None:  # type: ignore[override]
            for group in self.param_groups:
                group["step"] = group.get("step", 0) + 1
                first, second = group["betas"]
                for weight in group["params"]:
                    state = self.state[weight]
                    if not state:
                        state |= {"exp_avg": torch.zeros_like(weight), "exp_avg_sq": torch.zeros_like(weight)}
                    state["exp_avg"].lerp_(weight.grad, 1 - first)
                    state["exp_avg_sq"].lerp_(weight.grad**2, 1 - second)
                    mean = state["exp_avg"] / (1 - first ** group["step"])
                    spread = (state["exp_avg_sq"] / (1 - second ** group["step"])).sqrt() + group["eps"]
                    weight -= group["lr"] * mean / spread

    apex, optimizers, kernels = (ModuleType(name) for name in ("apex", "apex.optimizers", "amp_C"))
    optimizers.FusedAdam = FusedAdam  # type: ignore[attr-defined]
    for module in (apex, optimizers, kernels):
        module.__spec__ = SimpleNamespace()  # type: ignore[assignment]
        monkeypatch.setitem(sys.modules, module.__name__, module)


@pytest.mark.usefixtures("nvidias")
def test_auto_takes_nvidias_apex_where_the_state_lies_on_a_gpu() -> None:
    weights = [torch.nn.Parameter(torch.zeros(2))]
    assert type(build_optimizer(RECIPE, weights, GPU)).__name__ == "FusedAdam"
    assert type(build_optimizer(RECIPE, weights, torch.device("cpu"))) is torch.optim.Adam


@pytest.mark.parametrize("implementation", ["apex", "deepspeed"])
def test_what_needs_a_gpu_is_refused_beside_a_cpu(implementation: Any) -> None:
    weights = [torch.nn.Parameter(torch.zeros(2))]
    with pytest.raises(ConfigError, match=rf"'{implementation}': .*GPU only, .*engine\.offload"):
        build_optimizer(OptimizerConfig(implementation=implementation), weights, torch.device("cpu"))


@pytest.mark.usefixtures("nvidias")
@pytest.mark.parametrize("device", [GPU, torch.device("cpu")], ids=["apex", "torch"])
def test_the_step_after_a_resume_is_the_next_one(device: torch.device) -> None:
    """Bias correction goes on where it was: a second first step would be 1.4 times as long as it should be."""

    def step(model: torch.nn.Linear, adam: torch.optim.Optimizer, number: int) -> None:
        model.weight.grad = gradient(number, 64).view_as(model.weight)
        adam.step()

    model = torch.nn.Linear(64, 1, bias=False)
    adam = build_optimizer(RECIPE, model.parameters(), device)
    for number in range(STEPS):
        step(model, adam, number)
    kept = gather_optimizer_state(model, SimpleNamespace(optimizer=adam), zero=0)
    again = torch.nn.Linear(64, 1, bias=False)
    again.load_state_dict(model.state_dict())
    resumed = build_optimizer(RECIPE, again.parameters(), device)
    scatter_optimizer_state(again, SimpleNamespace(optimizer=resumed), 0, kept, STEPS)
    for number in range(STEPS, STEPS + 2):
        step(model, adam, number)
        step(again, resumed, number)
        assert torch.equal(model.weight, again.weight), f"step {number}"
