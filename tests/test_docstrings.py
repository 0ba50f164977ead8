"""Every public function that takes or gives tensors or arrays says of which shape they are."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
ROOMS = ("configs", "kernels", "laconvnet", "launch", "pipeline", "shards")

ARRAYS = ("Tensor", "ndarray", "NDArray")
# `(B, C, H, W)`, `(2 * n,)`, `(B, widths[i], S / (8, 16, 32)[i], ...)`: sizes, at least one comma, no prose; or words.
_NAME = r"(?:\w+|\.\.\.|\([\w, ]+\))(?:\[[^\[\]]+\])?"
_SIZE = rf"{_NAME}(?: ?(?:\*\*|[*/+-]) ?{_NAME}| or {_NAME})*"
SHAPE = re.compile(rf"\({_SIZE}(?:,|(?:, {_SIZE})+)\)|\bscalars?\b|\bshaped?\b")
BY_THE_CLASS = ("__init__", "__call__", "forward")  # whose shapes the docstring of the class may state


def test_shapes_are_stated() -> None:
    trees = {path: ast.parse(path.read_text()) for path in product()}
    arrays = re.compile(rf"\b({'|'.join((*ARRAYS, *aliases(trees.values())))})\b")
    missing = [
        f"{path.relative_to(CHECKOUT)}:{function.lineno} {function.name}"
        for path, tree in trees.items()
        for function, documents in public(tree)
        if handles(function, arrays) and not any(SHAPE.search(ast.get_docstring(each) or "") for each in documents)
    ]
    assert not missing, "docstrings without shapes:\n" + "\n".join(missing)


def test_shapes_are_told_from_prose() -> None:
    for shape in (
        "x (B, C, H, W)",
        "(N,)",
        "(B, k*k*g, H, W)",
        "(2 * n, S / (8, 16)[i], ...)",
        "a scalar",
        "any shape",
    ):
        assert SHAPE.search(shape), shape
    for prose in ("(rounded down, at least one)", "(SGD)", "f(x)", "(v2 Eq. 2)", "(see `forward`, below)"):
        assert not SHAPE.search(prose), prose


def product() -> Iterator[Path]:
    for room in ROOMS:
        yield from sorted((CHECKOUT / room).rglob("*.py"))


def aliases(trees: Iterable[ast.Module]) -> set[str]:
    """Names of types that stand for arrays, such as `Rows = NDArray[np.int64]`."""
    direct = re.compile(rf"\b({'|'.join(ARRAYS)})\b")
    return {
        node.targets[0].id
        for tree in trees
        for node in tree.body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and isinstance(node.value, ast.Subscript | ast.BinOp)
        and direct.search(ast.unparse(node.value))
    }


def public(tree: ast.Module) -> Iterator[tuple[ast.FunctionDef, list[ast.FunctionDef | ast.ClassDef]]]:
    """Public functions and methods, each with the nodes whose docstrings count for it."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            yield node, [node]
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            for method in node.body:
                if isinstance(method, ast.FunctionDef) and method.name in BY_THE_CLASS:
                    yield method, [method, node]
                elif isinstance(method, ast.FunctionDef) and not method.name.startswith("_"):
                    yield method, [method]


def handles(function: ast.FunctionDef, arrays: re.Pattern[str]) -> bool:
    given = function.args
    every = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
    notes = [argument.annotation for argument in every if argument is not None] + [function.returns]
    return any(arrays.search(ast.unparse(note)) for note in notes if note is not None)
