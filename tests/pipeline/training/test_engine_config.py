"""The engine's configuration and what it hands to DeepSpeed, without a run; for what it does to one: test_engine.py."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from laconvnet.pipeline.errors import ConfigError
from laconvnet.pipeline.training.engine import (
    AUTOCAST,
    Engine,
    EngineConfig,
    _deepspeed,
    allow_tf32,
    keep_out_launchers_settings,
)


@pytest.mark.parametrize("on", [True, False])
def test_tf32_is_for_products_and_convolutions_alike(on: bool) -> None:
    before = torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    try:
        allow_tf32(on)
        assert torch.backends.cudnn.allow_tf32 == on
        assert torch.backends.cuda.matmul.allow_tf32 == on
    finally:
        torch.backends.cudnn.allow_tf32 = before[0]
        torch.set_float32_matmul_precision(before[1])


def test_adam_computes_where_its_state_lies() -> None:
    """The kernels of apex and DeepSpeed reach no state in the host's memory."""
    gpu, host = torch.device("cuda"), torch.device("cpu")
    for offload, wanted in (("none", gpu), ("optimizer", host), ("all", host)):
        config = EngineConfig(zero=3, offload=offload)  # type: ignore[arg-type]
        some = SimpleNamespace(device=gpu, config=config)
        assert Engine.adam_device.fget(some) == wanted  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("output", "keys"),
    [
        ("engine.zero: 0: fp16 needs", {"precision": "fp16", "zero": 0}),
        ("engine.offload: 'optimizer': needs engine.zero of at least 1", {"offload": "optimizer", "zero": 0}),
        ("engine.offload: 'all': needs engine.zero of at least 3", {"offload": "all", "zero": 2}),
        ("engine.accumulate: 0", {"accumulate": 0}),
        (r"engine.recompute: \[6\]", {"recompute": (6,)}),
        (r"engine.recompute: \[0, 1\]", {"recompute": (0, 1)}),
        ("engine.loss_scale: 1.0: expected at least loss_scale_floor", {"loss_scale": 1.0, "loss_scale_floor": 2.0}),
        (r"loss_scale_floor \(0.0\)", {"loss_scale_floor": 0.0}),
        (r"loss_scale_growth \(0\) of at least 1", {"loss_scale_growth": 0}),
    ],
)
def test_what_does_not_go_together_is_told(output: str, keys: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=output):
        EngineConfig(**keys)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "keys",
    [
        {"recompute": (5, 4, 3, 2, 1)},
        {"offload": "optimizer", "zero": 1},
        {"offload": "all", "zero": 3},
        {"loss_scale": 0.5, "loss_scale_floor": 0.5, "loss_scale_growth": 1},
        {"precision": "bf16", "zero": 0},
    ],
)
def test_the_last_value_of_each_range_is_taken(keys: dict[str, Any]) -> None:
    EngineConfig(**keys)


def test_the_defaults_are_plain_sharding_of_adam_in_bf16_and_fp16s_usual_scale() -> None:
    found = EngineConfig()
    assert (found.zero, found.precision, found.offload, found.accumulate, found.recompute) == (1, "bf16", "none", 1, ())
    assert (found.loss_scale, found.loss_scale_growth, found.loss_scale_floor) == (2.0**16, 1000, 1.0)
    assert (found.tf32, found.compile, found.norms, found.kernels) == (False, False, "auto", "auto")


@pytest.mark.parametrize(
    ("keys", "zero", "autocast"),
    [
        ({"zero": 0, "precision": "fp32"}, {"stage": 0}, (False, "bfloat16")),
        ({"zero": 2, "offload": "optimizer"}, {"stage": 2, "offload_optimizer": {"device": "cpu"}}, (True, "bfloat16")),
        (
            {"zero": 3, "offload": "all", "precision": "fp16"},
            {"stage": 3, "offload_optimizer": {"device": "cpu"}, "offload_param": {"device": "cpu"}},
            (True, "float16"),
        ),
    ],
)
def test_deepspeed_is_told_what_the_configuration_says(
    keys: dict[str, Any], zero: dict[str, Any], autocast: tuple[bool, str]
) -> None:
    found = _deepspeed(EngineConfig(accumulate=2, **keys), 4, 0.5)
    assert found.pop("steps_per_print") > 10**6, "it prints nothing of its own"
    assert found == {
        "train_micro_batch_size_per_gpu": 4,
        "gradient_accumulation_steps": 2,
        "gradient_clipping": 0.5,
        "zero_optimization": zero,
        "torch_autocast": dict(zip(("enabled", "dtype"), autocast, strict=True)),
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_forward_pass_without_the_wrapper_runs_in_the_same_type(precision: Any) -> None:
    some: Any = SimpleNamespace(device=torch.device("cpu"), config=EngineConfig(precision=precision))
    with Engine.autocast(some):
        assert torch.is_autocast_enabled("cpu") == (precision != "fp32")
        if precision != "fp32":
            assert torch.get_autocast_dtype("cpu") == AUTOCAST[precision]


def test_the_loss_scale_halves_at_each_overflow_down_to_the_floor_and_doubles_after_the_growth(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("deepspeed.comm.get_rank", lambda: 0)
    config = EngineConfig(precision="fp16", loss_scale=8.0, loss_scale_growth=3, loss_scale_floor=2.0)
    some: Any = SimpleNamespace(config=config)
    optimizer: Any = SimpleNamespace(torch_autocast_gradscaler="torch's", dynamic_loss_scale=False)
    Engine._scale_losses(some, optimizer)
    assert optimizer.torch_autocast_gradscaler is None
    assert optimizer.dynamic_loss_scale is True
    scales = []
    for overflow in (True, True, False, False, False, False, True):
        optimizer.loss_scaler.update_scale(overflow)
        scales.append(optimizer.loss_scaler.cur_scale)
    assert scales == [4.0, 2.0, 2.0, 2.0, 2.0, 4.0, 2.0]
    with pytest.raises(Exception, match="loss scale already at minimum"):
        optimizer.loss_scaler.update_scale(True)


@pytest.mark.parametrize("gradient", [1.0, float("nan"), float("inf")])
def test_without_zero_a_step_that_is_not_finite_is_counted_and_not_taken(gradient: float) -> None:
    """The wrapper is stepped in any case: it has the gradients to drop."""
    weight, other = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(2))
    weight.grad = torch.tensor([gradient, 0.0])
    optimizer = torch.optim.SGD([weight], lr=0.5)
    counted: list[bool] = []

    def step() -> None:
        optimizer.step()
        counted.append(True)

    some: Any = SimpleNamespace(config=EngineConfig(zero=0), _count_only=Engine._count_only)
    norm, skipped = Engine.step(some, SimpleNamespace(optimizer=optimizer, step=step), [weight, other])
    assert skipped == (gradient != 1.0)
    assert torch.equal(norm, torch.tensor(abs(gradient))) or norm.isnan()
    assert weight.tolist() == ([1.0, 1.0] if skipped else [0.5, 1.0])
    assert counted == [True]
    weight.grad = torch.ones(2)
    optimizer.step()
    assert weight.tolist() == ([0.5, 0.5] if skipped else [0.0, 0.5]), "the next one is taken"


@pytest.mark.parametrize("rank", ["0", "1"])
def test_what_a_launcher_has_set_is_taken_back_and_told_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], rank: str
) -> None:
    asked = {"ACCELERATE_USE_CPU": "true", "ACCELERATE_MIXED_PRECISION": "fp16"}
    plain = {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DYNAMO_MODE": "max", "ACCELERATE_USE_FSDP": "false"}
    for name, value in {**asked, **plain, "RANK": rank}.items():
        monkeypatch.setenv(name, value)
    keep_out_launchers_settings()
    assert not {*asked, *plain} & os.environ.keys()
    told = capsys.readouterr().err
    for name, value in asked.items():
        assert (f"{name}={value}" in told) == (rank == "0")
    assert not any(name in told for name in plain)
