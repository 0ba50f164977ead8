"""A model as a program of `torch.export`."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx

from laconvnet.kernels.plain import exported
from laconvnet.pipeline.inference.portable import Portable

Key = tuple[Any, ...]


def write(model: Portable, example: tuple[Tensor, Tensor], facts: Mapping[str, str], out: Path, operator: bool) -> None:
    """Write the model for inputs like these, of any number of examples, with facts as extra files, NAME.txt.

    ``example``: images (B, 3, S, S) and tokens (B, L). With ``operator`` the program calls ours.
    """
    several = torch.export.Dim("batch", min=1)
    with torch.no_grad():
        program = torch.export.export(model, example, dynamic_shapes={"images": {0: several}, "tokens": {0: several}})
    if not operator:
        spell_out(program)
    written = io.BytesIO()  # of a full disk torch says a RuntimeError of many lines
    torch.export.save(program, written, extra_files={f"{name}.txt": value for name, value in facts.items()})
    out.write_bytes(written.getbuffer())


def spell_out(program: torch.export.ExportedProgram) -> None:
    """Puts the taps of `kernels.plain.exported` in place of every call of our operator.

    Traced by `torch.export` they take far longer than all the rest, for it works out the shape of each; those of one
    place are all alike.
    """
    for node in list(program.graph.nodes):
        if node.target is torch.ops.laconv.laconv.default:
            *tensors, kernel_size, groups, _, _, interleaved = node.args
            _inline(_taps(kernel_size, groups, interleaved), tensors, node)
    program.graph_module.recompile()


def _taps(kernel_size: int, groups: int, interleaved: bool) -> fx.Graph:
    def laconv(x: Tensor, cond: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return exported.laconv(x, cond, weight, bias, kernel_size, groups, interleaved)

    return fx.symbolic_trace(laconv).graph


def _inline(plain: fx.Graph, arguments: Sequence[fx.Node | None], call: fx.Node) -> None:
    """Put the nodes of a graph, given these arguments, in place of a call, each with what it gives."""
    given = iter(arguments)
    copies: dict[fx.Node, Any] = {}
    known: dict[Key, Tensor] = {}
    with call.graph.inserting_before(call):
        for node in plain.nodes:
            if node.op == "placeholder":
                copies[node] = next(given)
            elif node.op == "output":
                call.replace_all_uses_with(copies[node.args[0]])
            else:
                copies[node] = call.graph.node_copy(node, copies.__getitem__)
                copies[node].meta["val"] = _value(copies[node], call, known)
    call.graph.erase_node(call)


def _value(node: fx.Node, call: fx.Node, known: dict[Key, Tensor]) -> Tensor:
    """A tensor without data of the shape that a node gives. Taps of the same inputs differ in place, not in shape."""
    values = fx.map_arg(node.args, lambda argument: argument.meta["val"])
    key = (node.target, *(id(value) for value in values if isinstance(value, Tensor)))
    if key not in known:
        mode = call.meta["val"].fake_mode
        with mode, mode.shape_env.suppress_guards():  # what is looked up of the example's batch is no condition
            known[key] = node.target(*values)  # type: ignore[operator]
    return known[key]
