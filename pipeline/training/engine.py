"""accelerate and DeepSpeed, started so that several processes really train one model."""

from __future__ import annotations

import os
import socket
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pipeline.errors import ConfigError


@dataclass(frozen=True)
class EngineConfig:
    """Precision and sharding.

    Args:
        zero: DeepSpeed's ZeRO stage: 0 replicates, 1 shards optimizer state, 2 gradients as well, 3 weights as well.
        precision: `bf16` computes in bfloat16 with fp32 weights (autocast); `fp32` computes in fp32.
    """

    zero: Literal[0, 1, 2, 3] = 1
    precision: Literal["bf16", "fp32"] = "bf16"


class Engine:
    """The processes of a run, and the model once it is wrapped.

    accelerate starts the process group and the trackers and hands model and optimizer to DeepSpeed. Its own loader
    and scheduler wrappers stay unused: they shard a second time and step once a process.
    """

    def __init__(self, config: EngineConfig, batch: int, clip: float, folder: Path) -> None:
        os.environ["ACCELERATE_USE_DEEPSPEED"] = "true"
        if "WORLD_SIZE" not in os.environ:
            os.environ.update(
                RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT=_free_port()
            )
        import deepspeed.ops
        from accelerate import Accelerator, InitProcessGroupKwargs
        from accelerate.utils import DeepSpeedPlugin

        on_gpu = torch.cuda.is_available()
        # DeepSpeed's own call, nothing a user could mend.
        warnings.filterwarnings("ignore", "`torch.distributed.all_gather_into_tensor` is deprecated", FutureWarning)
        # Built at start-up by a C++ compiler and of use on a CPU only; gloo does the same without one.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        world = int(os.environ["WORLD_SIZE"])
        if batch % world:
            raise ConfigError(
                f"data.batch: {batch} does not divide among {world} processes; choose a multiple of {world}"
            )
        plugin = DeepSpeedPlugin(hf_ds_config=_deepspeed(config, batch // world, clip))
        # Without the explicit backend accelerate runs every process as rank 0 of 1 on a CPU, and says nothing.
        group = InitProcessGroupKwargs(backend="nccl" if on_gpu else "gloo")
        self.accelerator = Accelerator(
            deepspeed_plugin=plugin, kwargs_handlers=[group], log_with="tensorboard", project_dir=folder
        )
        if self.accelerator.num_processes != world:
            raise RuntimeError(f"{self.accelerator.num_processes} processes were joined, {world} were started")
        self.config = config
        self.rank, self.world, self.device = self.accelerator.process_index, world, self.accelerator.device

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def wrap(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> Any:
        """The DeepSpeed engine of this model: call it, then its `backward` and `step`."""
        wrapped, _ = self.accelerator.prepare(model, optimizer)
        return wrapped

    def step(self, wrapped: Any, trained: list[nn.Parameter]) -> Tensor:
        """The optimizer's step, clipped before it; returns the norm of the whole gradient as it was."""
        if self.config.zero:
            wrapped.step()
            return torch.as_tensor(wrapped.get_global_grad_norm(), device=self.device)
        # Without ZeRO the engine keeps no norm; the gradients are whole and averaged after `backward`.
        norm = torch.nn.utils.get_total_norm([weight.grad for weight in trained if weight.grad is not None])
        wrapped.step()
        return norm

    def agree(self, flag: bool) -> bool:
        """Whether the flag is raised on any process; every process must ask at the same step."""
        if self.world == 1:
            return flag
        raised = torch.tensor([int(flag)], device=self.device)
        torch.distributed.all_reduce(raised, torch.distributed.ReduceOp.MAX)
        return bool(raised.item())

    def close(self) -> None:
        """Leave together: a process that exits while another is still in a collective aborts it."""
        self.accelerator.end_training()
        if torch.distributed.is_initialized():
            torch.distributed.barrier()
            torch.distributed.destroy_process_group()


def _deepspeed(config: EngineConfig, micro_batch: int, clip: float) -> dict[str, Any]:
    return {
        "train_micro_batch_size_per_gpu": micro_batch,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": clip,
        "zero_optimization": {"stage": config.zero},
        # Not the `bf16` section: that casts weights and batch norms as well, and under ZeRO 0 steps once on its own.
        "torch_autocast": {"enabled": config.precision == "bf16", "dtype": "bfloat16"},
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 10**9,
    }


def _free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])
