"""Bytes that the operators of a training step read and write, counted on tensors without data."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.module_tracker import ModuleTracker

from laconvnet.kernels.bench import Row
from laconvnet.kernels.bench.implementations import BASELINE
from laconvnet.pipeline.bench.rows import counted, empty_row, rows_of, surroundings
from laconvnet.pipeline.bench.speed import OURS, Network, Way, made_input
from laconvnet.pipeline.model.net import Downsample
from laconvnet.pipeline.model.norm import BatchNorm

MOVED, LEAST, DEAREST = "moved by a step", "least of a step", "dearest of a step"
TERMS = 20  # of a step that are told
WORLDS = (1, 8)  # processes
PARTS = {
    "of_norms": ("laconv::norm_", "laconv::unpack", "aten::native_batch_norm"),
    "of_mlps": ("laconv::mlp_",),
    "of_laconv": ("laconv::laconv", "laconv::dynamic_conv"),
    "of_convolutions": ("aten::convolution", "aten::mkldnn_convolution"),
}
# What a step cannot do without: products of maps, recurrences and the optimizer. All else, such as norms, sums of
# gradients, pooling and copies, would cost nothing if these operators did it on the way.
FLOOR = (
    *("aten::convolution", "aten::mm", "aten::bmm", "aten::addmm", "aten::mkldnn_rnn", "aten::_fused_adam_"),
    *("laconv::laconv", "laconv::stem", "laconv::mlp_"),
)
# What gives memory and fills none of it, and views whose schema does not tell.
_MOVES_NOTHING = {
    *(f"aten::{name}" for name in ("empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided")),
    *("aten::detach", "aten::_unsafe_view", "prim::device"),
}
# What writes without reading the tensor that it is called on.
_FILLS = ("copy_", "fill_", "zero_", "bernoulli_", "uniform_", "normal_", "random_")
# Of what only the shape is read, by operator and argument.
_SHAPES = {("max_pool2d_with_indices_backward", "self"), ("avg_pool2d_backward", "self")}
_LIKE = ("zeros_like", "ones_like", "full_like", "rand_like", "new_zeros", "new_ones", "new_full")


class Moved(TorchDispatchMode):
    """Counts, by operator, the bytes of what each reads and of what it writes, once each.

    An operator that walks its input twice moves more than is counted, and what a cache holds is not read again: for
    operators of one pass, as ours are, it is what a device must move at least. Views move nothing, an expanded tensor
    counts as the memory behind it.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.by_operator: Counter[str] = Counter()
        self.by_term: dict[tuple[str, str, str], Term] = {}  # by operator, direction and place in the network
        self.places = Places()

    @property
    def total(self) -> int:
        """Bytes of all operators."""
        return sum(self.by_operator.values())

    def of(self, *names: str) -> int:
        """Bytes of the operators whose names begin so."""
        return sum(size for name, size in self.by_operator.items() if name.startswith(names))

    def __torch_dispatch__(
        self, function: Any, types: Any, arguments: tuple[Any, ...] = (), keywords: dict[str, Any] | None = None
    ) -> Any:
        results = function(*arguments, **(keywords or {}))
        name = function._schema.name
        if name not in _MOVES_NOTHING and not _is_view(function._schema):
            moved = _moved(function._schema, arguments, keywords or {}, results)
            self.by_operator[name] += moved
            largest = max(map(_bytes, _tensors((arguments, keywords, results))), default=0)
            self.by_term.setdefault((name, *self.places.here()), Term()).add(moved, largest)
        return results

    def clear(self) -> None:
        """Forgets all that was counted."""
        self.by_operator.clear()
        self.by_term.clear()


@dataclass
class Term:
    """Calls of one operator in one place: their number, bytes, and the bytes of each one's largest tensor, in all."""

    calls: int = 0
    moved: int = 0
    largest: int = 0

    def add(self, moved: int, largest: int) -> None:
        """One call more."""
        self.calls, self.moved, self.largest = self.calls + 1, self.moved + moved, self.largest + largest

    @property
    def passes(self) -> float:
        """How often an element of the largest tensor is read or written."""
        return self.moved / self.largest if self.largest else 0.0


class Places:
    """Where in the network an operator is called: by the module it is in; backward, by that of the forward call."""

    def __init__(self) -> None:
        self._tracker = ModuleTracker()
        self._of_nodes: dict[int, str] = {}  # by sequence number in the graph of gradients

    def __enter__(self) -> None:
        self._tracker.__enter__()

    def __exit__(self, *error: Any) -> None:
        self._tracker.__exit__(*error)

    def here(self) -> tuple[str, str]:
        """Direction and place; numbers of blocks are left out, so that a stage's are one."""
        node = torch._C._current_autograd_node()
        if node is not None:
            return "backward", self._of_nodes.get(node._sequence_nr(), "-")
        place = max(self._tracker.parents, key=len, default="Global")
        place = re.sub(r"\.blocks\.\d+", ".blocks", place.partition(".")[2]) or "-"
        # The node of this call or, inside a function with gradients of its own, of that, is the last that was made.
        self._of_nodes.setdefault(torch.autograd._get_sequence_nr() - 1, place)
        return "forward", place


def _is_view(schema: Any) -> bool:
    aliases = [result.alias_info for result in schema.returns]
    return bool(aliases) and all(alias is not None and not alias.is_write for alias in aliases)


def _moved(schema: Any, arguments: tuple[Any, ...], keywords: dict[str, Any], results: Any) -> int:
    name = schema.name.split("::")[1]
    read: list[Tensor] = []
    written = {id(tensor): tensor for tensor in _tensors(results)}
    for number, argument in enumerate(schema.arguments):
        tensors = _tensors(arguments[number] if number < len(arguments) else keywords.get(argument.name))
        alias = argument.alias_info
        is_written = alias is not None and alias.is_write
        if is_written:
            written |= {id(tensor): tensor for tensor in tensors}
        only_shape = name in _LIKE or (name, argument.name) in _SHAPES
        is_read = not (only_shape or argument.is_out or (is_written and name in _FILLS))
        read += tensors if is_read else []
    return sum(map(_bytes, read)) + sum(map(_bytes, written.values()))


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _bytes(tensor: Tensor) -> int:
    behind = (size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride or size == 0)
    return math.prod(behind) * tensor.element_size()


def step_rows(network: Network, device: torch.device, worlds: Sequence[int] = WORLDS) -> Iterator[Row]:
    """What the operators of a training step read and write, as one process and as one of several.

    Counted for a GPU on tensors without data: neither a GPU nor memory is needed, and ``device`` is only what the rows
    tell of this machine. A row has the bytes of all operators, and of them those of batch norms (with what is added and
    the ReLU where they take it), of the MLPs
    that keep no hidden map, of LaConv, and of convolutions. Of the operator's way in the first world it also tells what
    a step moves at least, and its dearest terms, with how often an element of the largest tensor is read or written.
    """
    shape = {"preset": network.model.preset, "size": network.size, "dtype": network.precision, "batch": network.batch}
    common = {"bench": "bytes", **shape, **surroundings(device)}
    first: Moved | None = None
    for world in worlds:
        found = {name: _step(network, world, name == BASELINE) for name in (BASELINE, OURS)}
        first = found[OURS] if first is None else first
        for row in rows_of({name: [moved.total] for name, moved in found.items()}, BASELINE, "bytes"):
            moved = found[row["name"]]
            bare = {key: value for key, value in row.items() if not key.startswith("over_")}
            parts = {part: moved.of(*operators) for part, operators in PARTS.items()}
            yield {"measure": MOVED, **bare, "world": world, **parts, **common}
    if first is None:
        return
    yield {**_bare(OURS), **counted(OURS, LEAST, first.of(*FLOOR), "bytes"), **common}
    terms = sorted(first.by_term.items(), key=lambda item: item[1].moved, reverse=True)
    for (operator, direction, place), term in terms[:TERMS]:
        told = {"place": place, "direction": direction, "calls": term.calls, "passes": round(term.passes, 2)}
        yield {**_bare(operator), **counted(operator, DEAREST, term.moved, "bytes"), **told, **common}


def _bare(name: str) -> Row:
    """The keys of a row that is compared with nothing."""
    keys = {key: value for key, value in empty_row(name, "").items() if not key.startswith("over_")}
    return {**keys, "note": None, "rounds": 1}


def _step(network: Network, world: int, reference: bool) -> Moved:
    cpu, moved = torch.device("cpu"), Moved()
    with _pretended(world), FakeTensorMode(), moved, moved.places:
        way = Way(network, cpu, reference)
        for module in way.model.modules():
            if isinstance(module, BatchNorm | Downsample):
                module.as_on_gpu = True
        inputs = made_input(network, network.batch, cpu)
        moved.clear()  # what it took to make them
        way.step(*inputs)
    return moved


@contextmanager
def _pretended(world: int) -> Iterator[None]:
    """The first of so many processes, whose exchanges come back at once."""
    if world == 1:
        yield
        return
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=world)
    try:
        yield
    finally:
        dist.destroy_process_group()
