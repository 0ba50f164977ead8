"""Every collective of the pipeline: the values that processes of one command exchange, and how they join and leave.

The functions on tensors work in whatever process group is there (none: one process); `Ranks` is for work that is shared
out and ends together.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from laconvnet.pipeline.errors import WRONG_PATH, ConfigError, TrainingError
from laconvnet.shards.errors import InputError

T = TypeVar("T")

_LOOK_SECONDS = 2.0
_AWAITED = itertools.count()  # all processes await the same things, in the same order


def world_size() -> int:
    """The number of processes, 1 where none were joined."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def stack(own: Tensor) -> Tensor:
    """The vectors (N,) of all processes, by rank: (world, N). Over gloo it takes half the time of an all-reduce.

    For small worlds: each process makes and copies a tensor for every other one.
    """
    if world_size() == 1:
        return own[None]
    every = [torch.empty_like(own) for _ in range(world_size())]
    dist.all_gather(every, own)
    return torch.stack(every)


def sum_(value: Tensor) -> Tensor:
    """The sum over all processes, in place, of a tensor of any shape, which is the same on all of them.

    Nothing waits for the device.
    """
    if world_size() > 1:
        dist.all_reduce(value)
    return value


def maximum(number: int, device: torch.device) -> Callable[[], int]:
    """The highest of the processes' numbers, waited for only when what comes back is called.

    Every process must call this at the same point of its work.
    """
    if world_size() == 1:
        return lambda: number
    raised = torch.full((1,), number, device=device)
    work = dist.all_reduce(raised, dist.ReduceOp.MAX, async_op=True)

    def answer() -> int:
        # On a stream of its own: not behind all that the GPU has been given to do since.
        aside = torch.cuda.stream(torch.cuda.Stream(device)) if device.type == "cuda" else nullcontext()
        with aside:
            work.wait()
            return int(raised.item())

    return answer


_Reason = tuple[str, str] | None  # the kind of a failure and its message; None of a process that has not failed


class Ranks:
    """This process among its peers. Every method is a collective: all processes call it, in the same order."""

    def __init__(self, rank: int, world: int) -> None:
        self.rank, self.world = rank, world

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def each(self, work: Callable[[], T]) -> T:
        """Do one's own part. Where one process fails, all raise: that one its own error, the others its message.

        A mistake of the user's, of a set too, stays one (ConfigError) and an interruption too; anything else is a
        TrainingError.
        """
        if self.world == 1:
            return work()
        failure: BaseException | None = None
        try:
            done = work()
        except (Exception, KeyboardInterrupt) as error:
            failure = error
        reasons: list[_Reason] = [None] * self.world
        dist.all_gather_object(reasons, failure and (_kind(failure), f"{failure}" or type(failure).__name__))
        if failure:
            raise failure
        for rank, reason in enumerate(reasons):
            if reason:
                _raise(rank, *reason)
        return done

    def from_main(self, work: Callable[[], T]) -> T:
        """What the main process finds, on all of them; where it raises, all do, as with `each`.

        It may take longer than a collective waits: the others look for its end in the store that they met by.
        """
        if self.world == 1:
            return work()
        found = [self.each(lambda: self._awaited(work))]
        dist.broadcast_object_list(found)
        return cast("T", found[0])

    def _awaited(self, work: Callable[[], T]) -> T | None:
        store, ended = dist.distributed_c10d._get_default_store(), f"laconvnet/main/{next(_AWAITED)}"
        if self.is_main:
            try:
                return work()
            finally:
                store.set(ended, "")
        pause = 0.01
        while not store.check([ended]):
            time.sleep(pause)
            pause = min(2 * pause, _LOOK_SECONDS)
        return None

    def gather(self, value: T) -> list[T]:
        """The values of all processes by rank, on the main one; nothing on the others."""
        if self.world == 1:
            return [value]
        found: list[T] | None = [value] * self.world if self.is_main else None
        dist.gather_object(value, found)
        return found or []

    def same(self, what: str, value: object) -> None:
        """Raises ConfigError on every process where they hold different values."""
        if self.world == 1:
            return
        found: list[object] = [None] * self.world
        dist.all_gather_object(found, value)
        for rank, other in enumerate(found):
            if other != found[0]:
                raise ConfigError(
                    f"{what}: {found[0]} on process 0, {other} on process {rank}; expected the same on all"
                )


ALONE = Ranks(0, 1)


def world() -> int:
    """How many processes were started for this command, by whoever sets WORLD_SIZE; 1 where nobody does.

    Raises ConfigError under a bare srun of several tasks: they would not know of each other, and all do the same work.
    """
    if "WORLD_SIZE" in os.environ:
        return int(os.environ["WORLD_SIZE"])
    tasks = os.environ.get("SLURM_STEP_NUM_TASKS", "1")
    if tasks != "1":
        raise ConfigError(
            f"SLURM_STEP_NUM_TASKS: srun has started {tasks} tasks and WORLD_SIZE is not set, so they do not know of "
            f"each other; expected one task a node (--ntasks-per-node 1) that runs torchrun, as "
            "`laconvnet train --help` writes it, or `laconvnet launch`"
        )
    return 1


def is_first_of_node() -> bool:
    """Whether this process does what one on each node has to, by the LOCAL_RANK that its launcher has set."""
    return os.environ.get("WORLD_SIZE", "1") == "1" or os.environ.get("LOCAL_RANK", "0") == "0"


@contextmanager
def joined() -> Iterator[Ranks]:
    """The processes that torchrun, srun or `laconvnet launch` has started for one command, joined while it runs.

    They talk through the host's memory (gloo); on GPUs each has the one of its local rank.
    """
    count = world()
    if count == 1:
        yield ALONE
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    dist.init_process_group("gloo")
    try:
        yield Ranks(dist.get_rank(), count)
        dist.barrier()  # a process that exits while another is still in a collective aborts it
    finally:
        dist.destroy_process_group()


def _kind(failure: BaseException) -> str:
    if isinstance(failure, (ConfigError, InputError, *WRONG_PATH)):
        return "mistake"
    return "interruption" if isinstance(failure, KeyboardInterrupt) else "failure"


def _raise(rank: int, kind: str, message: str) -> None:
    if kind == "interruption":
        raise KeyboardInterrupt
    raise (ConfigError if kind == "mistake" else TrainingError)(f"process {rank}: {message}")
