"""The mutants of a file: each is its text with one change, found by its syntax tree."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

_FLIPPED: dict[type[ast.AST], type[ast.cmpop]] = {
    **{ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq},
    **{ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is},
}
_SIGNS: dict[type[ast.AST], type[ast.operator]] = {ast.Add: ast.Sub, ast.Sub: ast.Add}
# Annotations and decorators are no behaviour; the text of a message and a check of our own are not what is guarded.
_PASSED_OVER = ("annotation", "returns", "decorator_list", "type_params")
_CLOSED = (ast.JoinedStr, ast.Raise, ast.Assert, ast.Import, ast.ImportFrom)


Identity = tuple[str, str, str, str]


@dataclass(frozen=True)
class Mutant:
    """One change of one file; ``line`` is the text of its first line."""

    file: str
    number: int
    kind: str
    line: str
    change: str
    text: str

    @property
    def identity(self) -> Identity:
        """What a verdict is about: a line that moves keeps its own."""
        return self.file, self.kind, self.line, self.change

    @property
    def name(self) -> str:
        return f"{self.file}:{self.number}:{self.kind}"


def mutants_of(file: str, text: str) -> list[Mutant]:
    """All mutants of a file's text, in its order; names are told apart by a number where a line has several."""
    # ast counts columns in bytes.
    lines = [line.encode() for line in text.splitlines(keepends=True)]
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line))
    data, found, names = text.encode(), list[Mutant](), Counter[tuple[int, str]]()
    for kind, node, new in _changes(ast.parse(text), Counter()):
        assert node.end_lineno
        assert node.end_col_offset
        begin, end = starts[node.lineno - 1] + node.col_offset, starts[node.end_lineno - 1] + node.end_col_offset
        names[node.lineno, kind] += 1
        same = names[node.lineno, kind]
        found.append(
            Mutant(
                file,
                node.lineno,
                kind if same == 1 else f"{kind}-{same}",
                lines[node.lineno - 1].decode().strip(),
                f"{_short(data[begin:end].decode())} -> {_short(new)}",
                (data[:begin] + new.encode() + data[end:]).decode(),
            )
        )
    return found


def _short(code: str) -> str:
    return " ".join(code.split())


def _changes(node: ast.AST, bound: Counter[str]) -> Iterator[tuple[str, ast.expr | ast.stmt, str]]:
    """Kind, what is replaced, and by which text; ``bound`` counts how often a name is bound in what is around."""
    for kind, place, new in _changes_here(node):
        if kind != "deletion" or not _is_only_binding(place, bound):
            yield kind, place, new
    if isinstance(node, _CLOSED) or _is_text(node):
        return
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
        bound = Counter(child.id for child in ast.walk(node) if isinstance(child, ast.Name) and _is_bound(child))
        bound += Counter(child.arg for child in ast.walk(node) if isinstance(child, ast.arg))
    for name, value in ast.iter_fields(node):
        if name not in _PASSED_OVER and not (name == "keywords" and _is_zip(node)):
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    yield from _changes(child, bound)


def _is_bound(name: ast.Name) -> bool:
    return isinstance(name.ctx, ast.Store)


def _is_only_binding(node: ast.AST, bound: Counter[str]) -> bool:
    """Without it the name is unknown: any test that comes by fails, and says nothing of what it asserts."""
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    stored = [child for target in targets for child in ast.walk(target) if isinstance(child, ast.expr)]
    names = [child for child in stored if not isinstance(child, ast.Tuple)]
    return bool(names) and all(isinstance(child, ast.Name) and bound[child.id] == 1 for child in names)


def _is_zip(node: ast.AST) -> bool:
    """Its ``strict`` is a check of our own."""
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "zip"


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _changes_here(node: ast.AST) -> Iterator[tuple[str, ast.expr | ast.stmt, str]]:
    match node:
        case ast.Compare(left, operators, others):
            for at, operator in enumerate(operators):
                changed = [*operators[:at], _FLIPPED[type(operator)](), *operators[at + 1 :]]
                yield "comparison", node, _expression(ast.Compare(left, changed, others))
        case ast.BinOp(left, operator, right) if type(operator) in _SIGNS:
            yield "sign", node, _expression(ast.BinOp(left, _SIGNS[type(operator)](), right))
        case ast.AugAssign(target, operator, value) if type(operator) in _SIGNS:
            yield "sign", node, ast.unparse(ast.AugAssign(target, _SIGNS[type(operator)](), value))
        case ast.Constant(bool() as value):
            yield "constant", node, str(not value)
        case ast.Constant(int() | float() as value):
            yield "constant", node, str(value + 1)
        case ast.BoolOp(operator, values):
            yield (
                "and-or",
                node,
                _expression(ast.BoolOp(ast.Or() if isinstance(operator, ast.And) else ast.And(), values)),
            )
        case ast.UnaryOp(ast.Not(), operand):
            yield "not", node, _expression(operand)
        case ast.Dict(keys, values):
            for at in range(len(keys)):
                kept = [*keys[:at], *keys[at + 1 :]], [*values[:at], *values[at + 1 :]]
                yield "key", node, _expression(ast.Dict(*kept))
        case ast.Call(ast.Name("mix"), arguments) if len(arguments) > 1:  # of a draw's key: two draws become alike
            for at in range(len(arguments)):
                yield "argument", node, _expression(ast.Call(node.func, [*arguments[:at], *arguments[at + 1 :]], []))
        case ast.Return(value) if value is not None and not (isinstance(value, ast.Constant) and not value.value):
            yield "return", node, "return None"
        case ast.Expr(ast.Call()) | ast.Assign() | ast.AugAssign() | ast.Raise():
            yield "deletion", node, "pass"
        case ast.AnnAssign(value=ast.expr()):
            yield "deletion", node, "pass"
    match node:
        case ast.If(test) | ast.While(test) | ast.IfExp(test) if not isinstance(test, ast.UnaryOp | ast.Compare):
            yield "not", test, f"(not ({ast.unparse(test)}))"


def _expression(node: ast.expr) -> str:
    return f"({ast.unparse(node)})"
