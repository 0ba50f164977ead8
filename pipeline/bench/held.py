"""Bytes that training keeps: for backward, by the operator and by a whole step; and a step's peak on a GPU.

Bytes are counted, not timed: the same code on the same input gives the same number each time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from weakref import WeakSet

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from laconvnet.kernels.bench import Case, Row
from laconvnet.kernels.bench.implementations import BASELINE, implementations
from laconvnet.kernels.bench.run import DTYPES, OPERATIONS
from laconvnet.kernels.bench.timing import peak_bytes
from laconvnet.pipeline.bench.rows import empty_row, rows_of, surroundings
from laconvnet.pipeline.bench.speed import OURS, Network, Way, made_input

OPERATOR, STEP, PEAK = "saved by the operator", "saved by a step", "peak of a step"
_NO_PEAK = "left out: only CUDA's allocator counts its peak, and this is a CPU"


class _Kept:
    """A tensor that a graph holds, for as long as it does."""

    __slots__ = ("__weakref__", "tensor")

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def saved_bytes(work: Callable[[], Tensor], beside: Iterable[Tensor] = ()) -> int:
    """Bytes of the distinct storages that the graph of work's result keeps for backward, without those of ``beside``.

    Tensors may be of any shape. A view keeps the whole of its storage, and a storage that several nodes keep is there
    once.
    """
    kept: WeakSet[_Kept] = WeakSet()

    def pack(tensor: Tensor) -> _Kept:
        holder = _Kept(tensor.detach())  # a result that its own node keeps would keep that node for ever
        kept.add(holder)
        return holder

    with saved_tensors_hooks(pack, lambda holder: holder.tensor):
        result = work()
    assert result.requires_grad, "there is no graph to look at"
    known = {tensor.untyped_storage().data_ptr() for tensor in beside}
    storages = {holder.tensor.untyped_storage().data_ptr(): holder.tensor.untyped_storage().nbytes() for holder in kept}
    return sum(size for place, size in storages.items() if place not in known)


def operator_rows(layers: Sequence[Case], dtype: str, batch: int, device: torch.device, rounds: int) -> Iterator[Row]:
    """What one layer keeps for backward, its inputs included; input_bytes are those of the inputs alone."""
    where = surroundings(device)
    for layer in layers:
        case = replace(layer, batch=batch, unfold_batch=batch)
        for operation in OPERATIONS:
            made = implementations(case, operation, device, DTYPES[dtype], False)
            given = case.bytes(operation, "forward", DTYPES[dtype])  # inputs and the result, which is as large as x
            given -= batch * case.channels * case.side**2 * DTYPES[dtype].itemsize
            shape = {
                "preset": case.label,
                "size": case.size,
                "dtype": dtype,
                "stage": case.stage,
                "kernel_size": case.kernel_size,
                "operation": operation,
                "batch": batch,
                "input_bytes": given,
            }
            counts = {name: partial(saved_bytes, partial(made[name]["forward"], None)) for name in (BASELINE, OURS)}
            for row in _counted(counts, rounds):
                yield {"measure": OPERATOR, **row, **shape, **where}


def step_rows(network: Network, device: torch.device, rounds: int) -> Iterator[Row]:
    """What a training step of the whole network keeps for backward beside its weights, and the most that it takes.

    The peak is on top of what stays between steps: weights, the optimizer's state and the input.
    """
    inputs = made_input(network, network.batch, device)
    trained = {name: Way(network, device, name == BASELINE) for name in (BASELINE, OURS)}
    shape = {"preset": network.model.preset, "size": network.size, "dtype": network.precision, "batch": network.batch}
    told = {**shape, **surroundings(device)}
    saved = {name: partial(_saved, way, inputs) for name, way in trained.items()}
    for row in _counted(saved, rounds):
        yield {"measure": STEP, **row, **told}
    if device.type == "cuda":
        peaks = {name: partial(_peak, way, inputs) for name, way in trained.items()}
        found = _counted(peaks, rounds)
    else:
        found = [_empty(name, _NO_PEAK) for name in trained]
    for row in found:
        yield {"measure": PEAK, **row, **told}


def _saved(way: Way, inputs: tuple[Tensor, Tensor]) -> int:
    return saved_bytes(partial(way.loss, *inputs), [*way.model.parameters(), *way.model.buffers(), *inputs])


def _peak(way: Way, inputs: tuple[Tensor, Tensor]) -> int:
    if not way.optimizer.state:
        way.step(*inputs)  # makes it
    taken = peak_bytes(way.device)
    way.step(*inputs)
    return taken()


def _counted(counts: Mapping[str, Callable[[], int]], rounds: int) -> list[Row]:
    """A row a way; one without numbers for a way that has no room."""
    values: dict[str, list[int]] = {}
    notes: dict[str, str] = {}
    for name, count in counts.items():
        try:
            values[name] = [count() for _ in range(rounds)]
        except torch.OutOfMemoryError:
            notes[name] = "out of memory"
    found = rows_of(values, BASELINE if BASELINE in values else OURS, "bytes") if OURS in values else []
    return [*map(_bare, found), *(_empty(name, note) for name, note in notes.items())]


def _empty(name: str, note: str) -> Row:
    return _bare(empty_row(name, note))


def _bare(row: Row) -> Row:
    """Without what counts that are the same each time have no need of."""
    return {"bench": "bytes", **{key: value for key, value in row.items() if not key.startswith("over_")}}
