"""accelerate and DeepSpeed, started so that several processes really train one model."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from laconvnet.pipeline import distributed
from laconvnet.pipeline.distributed import maximum
from laconvnet.pipeline.errors import ConfigError, TrainingError
from laconvnet.terminal import complain

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class EngineConfig:
    """Precision, sharding and memory. Of what a step computes only its rounding depends on them, but for `accumulate`.

    Batch norm sees one micro-batch at a time: another `accumulate` gives other statistics, so another result, though
    the gradient is averaged over the same examples: alone of these keys a run keeps it. Less memory without another
    result is what `recompute`, `zero` and more processes are for.

    Args:
        zero: DeepSpeed's ZeRO stage: 0 replicates, 1 shards optimizer state, 2 gradients as well, 3 weights as well.
        precision: `bf16` and `fp16` compute in that type with fp32 weights (autocast); `fp32` computes in fp32.
        offload: Keeps Adam's state in the host's memory (`optimizer`, ZeRO 1-3), or the weights too (`all`, ZeRO 3).
        accumulate: Micro-batches a step is cut into. It changes what batch norm sees: one micro-batch at a time.
        recompute: Stages (1 to 5) whose activations are computed again in the backward pass in place of being kept.
        loss_scale: First loss scale of fp16; it halves at each overflow.
        loss_scale_growth: Steps without overflow after which the scale doubles.
        loss_scale_floor: An overflow at this scale ends the run.
        tf32: Let fp32 matrix products and convolutions use TensorFloat-32 on GPUs that have it.
        compile: Compile the model with torch.compile.
        norms: `auto` takes apex's fused batch norm, sum and ReLU on a GPU in fp16 or fp32 where NVIDIA's apex is
            installed and the model is not compiled, else `torch`: this package's own, in every precision.
        kernels: What LaConv runs in: `require` stops before the first step where its compiled kernels (CUDA's on a GPU,
            the C++ kernel on a CPU) cannot be had, `auto` then takes plain PyTorch, several times slower, after one
            warning, and `plain` takes it anyway.
    """

    zero: Literal[0, 1, 2, 3] = 1
    precision: Literal["bf16", "fp16", "fp32"] = "bf16"
    offload: Literal["none", "optimizer", "all"] = "none"
    accumulate: int = 1
    recompute: tuple[int, ...] = ()
    loss_scale: float = 65536.0
    loss_scale_growth: int = 1000
    loss_scale_floor: float = 1.0
    tf32: bool = False
    compile: bool = False
    norms: Literal["auto", "apex", "torch"] = "auto"
    kernels: Literal["auto", "require", "plain"] = "auto"

    def __post_init__(self) -> None:
        if self.precision == "fp16" and not self.zero:
            raise ConfigError("engine.zero: 0: fp16 needs ZeRO 1, 2 or 3, which skip the steps that overflow")
        least = {"none": 0, "optimizer": 1, "all": 3}[self.offload]
        if self.zero < least:
            raise ConfigError(
                f"engine.offload: {self.offload!r}: needs engine.zero of at least {least}, got {self.zero}"
            )
        if self.accumulate < 1:
            raise ConfigError(f"engine.accumulate: {self.accumulate}: expected at least 1")
        if not set(self.recompute) <= {1, 2, 3, 4, 5}:
            raise ConfigError(f"engine.recompute: {list(self.recompute)}: expected stages from 1 to 5")
        if not 0 < self.loss_scale_floor <= self.loss_scale or self.loss_scale_growth < 1:
            raise ConfigError(
                f"engine.loss_scale: {self.loss_scale}: expected at least loss_scale_floor ({self.loss_scale_floor}), "
                f"which is above 0, and loss_scale_growth ({self.loss_scale_growth}) of at least 1"
            )


class Engine:
    """The processes of a run, and the model once it is wrapped.

    accelerate starts the process group and hands model and optimizer to DeepSpeed. Its own loader
    and scheduler wrappers stay unused: they shard a second time and step once a process.

    Used by `with`, it leaves its process as it was found: another may be made in it afterwards.
    """

    def __init__(self, config: EngineConfig, batch: int, clip: float) -> None:
        world = distributed.world()
        pieces = world * config.accumulate
        if batch % pieces:
            cut = f"{world} processes" + (f" of {config.accumulate} micro-batches" if config.accumulate > 1 else "")
            raise ConfigError(f"data.batch: {batch} does not divide among {cut}; choose a multiple of {pieces}")
        self._environment = dict(os.environ)
        keep_out_launchers_settings()
        os.environ["ACCELERATE_USE_DEEPSPEED"] = "true"
        if "WORLD_SIZE" not in os.environ:
            # Port 0: whichever is free when it is bound. Nobody else has to know.
            os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT="0")
        import deepspeed.ops
        from accelerate import Accelerator, InitProcessGroupKwargs
        from accelerate.utils import DeepSpeedPlugin

        on_gpu = torch.cuda.is_available()
        # DeepSpeed's own call, nothing a user could mend.
        warnings.filterwarnings("ignore", "`torch.distributed.all_gather_into_tensor` is deprecated", FutureWarning)
        # Built at start-up by a C++ compiler and of use on a CPU only; gloo does the same without one.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        allow_tf32(config.tf32)
        plugin = DeepSpeedPlugin(hf_ds_config=_deepspeed(config, batch // pieces, clip))
        # Without the explicit backend accelerate runs every process as rank 0 of 1 on a CPU, and says nothing.
        group = InitProcessGroupKwargs(backend="nccl" if on_gpu else "gloo")
        self.accelerator = Accelerator(deepspeed_plugin=plugin, kwargs_handlers=[group])
        if self.accelerator.num_processes != world:
            raise RuntimeError(f"{self.accelerator.num_processes} processes were joined, {world} were started")
        self.config = config
        self.rank: int = self.accelerator.process_index
        self.world, self.device = world, self.accelerator.device
        self.ranks = distributed.Ranks(self.rank, world)

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    @property
    def adam_device(self) -> torch.device:
        """Where Adam's state lies, and its step is computed."""
        return self.device if self.config.offload == "none" else torch.device("cpu")

    def wrap(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> Any:
        """The DeepSpeed engine of this model: call it, then its `backward` and `step`."""
        if self.config.compile:
            model.compile()
        wrapped, _ = self.accelerator.prepare(model, optimizer)
        if self.config.precision == "fp16":
            self._scale_losses(wrapped.optimizer)
        return wrapped

    def _scale_losses(self, optimizer: Any) -> None:
        """Have DeepSpeed's own dynamic scaler scale the losses.

        With autocast it would take torch's GradScaler, but skips the steps that overflow before that one hears of
        them: its scale never falls, and no step is taken any more.
        """
        from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler

        optimizer.torch_autocast_gradscaler = None
        optimizer.loss_scaler = DynamicLossScaler(
            init_scale=self.config.loss_scale,
            scale_window=self.config.loss_scale_growth,
            min_scale=self.config.loss_scale_floor,
            delayed_shift=1,
            consecutive_hysteresis=False,
        )
        optimizer.dynamic_loss_scale = True

    def autocast(self) -> AbstractContextManager[Any]:
        """What a forward pass of the wrapped model runs in, for one that is run without the wrapper."""
        dtype = AUTOCAST.get(self.config.precision)
        return torch.autocast(self.device.type, dtype or torch.bfloat16, enabled=dtype is not None)

    def step(self, wrapped: Any, trained: list[nn.Parameter]) -> tuple[Tensor, bool]:
        """The optimizer's step, behind clipping: the gradient's norm before it, a scalar, and whether it was skipped.

        A step whose norm is not finite is skipped, on every process alike: the weights and moments stay as they were.
        Raises TrainingError for an overflow of fp16 at the lowest loss scale.
        """
        if not self.config.zero:
            # Without ZeRO the engine keeps no norm; the gradients are whole and averaged after `backward`.
            norm = torch.nn.utils.get_total_norm([weight.grad for weight in trained if weight.grad is not None])
            skipped = not bool(norm.isfinite())
            if skipped:
                self._count_only(wrapped)
            else:
                wrapped.step()
            return norm, skipped
        scale = wrapped.optimizer.loss_scale
        try:
            wrapped.step()
        except Exception as error:
            if "loss scale already at minimum" not in str(error):
                raise
            raise TrainingError(
                f"fp16 overflowed at the lowest loss scale, {scale:g}; the run resumes from its last checkpoint: "
                "train with --engine.precision bf16, or a lower optimizer.lr"
            ) from error
        return torch.as_tensor(wrapped.get_global_grad_norm(), device=self.device), bool(wrapped.optimizer.overflow)

    @staticmethod
    def _count_only(wrapped: Any) -> None:
        """Have the engine count a step and drop its gradients, but the optimizer not take it."""
        taken = wrapped.optimizer.step
        wrapped.optimizer.step = lambda: None
        try:
            wrapped.step()
        finally:
            wrapped.optimizer.step = taken

    def agree(self, signal: int) -> int:
        """The highest of the processes' numbers; every process must ask at the same step."""
        return self.ask(signal)()

    def ask(self, signal: int) -> Callable[[], int]:
        """As `agree`, but the answer is waited for only when what comes back is called."""
        return maximum(signal, self.device)

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Leave together at the end; after an exception others may stand in a collective, and are not waited for."""
        from accelerate.state import AcceleratorState

        if kind is None or self.world == 1:
            self.leave()
        AcceleratorState._reset_state(reset_partial_state=True)
        for name in os.environ.keys() | self._environment.keys():
            if name not in self._environment:
                del os.environ[name]
            elif os.environ.get(name) != self._environment[name]:
                os.environ[name] = self._environment[name]

    def leave(self) -> None:
        """Leave together: a process that exits while another is still in a collective aborts it."""
        from deepspeed import comm

        if comm.is_initialized():
            comm.barrier()
            comm.destroy_process_group()  # DeepSpeed's: torch's would leave it with groups that are no more


def keep_out_launchers_settings() -> None:
    """Take back what `accelerate launch` has set, and say so: the configuration alone says how a run is computed.

    Left in place, ACCELERATE_USE_CPU would have DeepSpeed's engine replaced by DistributedDataParallel.
    """
    variables = {name: os.environ.pop(name) for name in sorted(os.environ) if name.startswith("ACCELERATE_")}
    plain = ("", "no", "NO", "False", "false", "default")  # what it sets where nothing was asked of it
    ignored = [
        f"{name}={value}"
        for name, value in variables.items()
        if value not in plain and name not in ("ACCELERATE_USE_DEEPSPEED", "ACCELERATE_DYNAMO_MODE")
    ]
    if ignored and os.environ.get("RANK", "0") == "0":
        complain(f"left aside, for engine.* of the configuration decides: {', '.join(ignored)}")


def allow_tf32(on: bool) -> None:
    """Lets fp32 products and convolutions use TensorFloat-32, or keeps both from it: PyTorch lets cuDNN by default."""
    torch.set_float32_matmul_precision("high" if on else "highest")
    torch.backends.cudnn.allow_tf32 = on


def _deepspeed(config: EngineConfig, micro_batch: int, clip: float) -> dict[str, Any]:
    zero: dict[str, Any] = {"stage": config.zero}
    if config.offload != "none":
        zero["offload_optimizer"] = {"device": "cpu"}
    if config.offload == "all":
        zero["offload_param"] = {"device": "cpu"}
    dtype = AUTOCAST.get(config.precision)
    return {
        "train_micro_batch_size_per_gpu": micro_batch,
        "gradient_accumulation_steps": config.accumulate,
        "gradient_clipping": clip,
        "zero_optimization": zero,
        # Not the `bf16` section: that casts weights and batch norms as well, and under ZeRO 0 steps once on its own.
        "torch_autocast": {"enabled": dtype is not None, "dtype": str(dtype or torch.bfloat16).removeprefix("torch.")},
        "zero_allow_untested_optimizer": True,
        # Ours is torch's Adam, which runs where its state lies.
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 10**9,
    }
