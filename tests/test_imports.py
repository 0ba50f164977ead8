"""Which module may know which: no circles, no arrow upward. Imports inside functions count, those for types do not."""

from __future__ import annotations

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("configs", "shards", "kernels", "pipeline", "launch")
# Modules of the package itself: every room may import them, they import no room.
SHARED = ("files", "images", "masks", "page", "progress", "svg", "terminal", "trust")
MAY_IMPORT: dict[str, set[str]] = {
    **{name: set() for name in SHARED},
    "configs": set(),
    "shards": set(),
    "kernels": set(),
    "pipeline": {"kernels", "shards", "configs"},
    "launch": {"pipeline", "kernels", "shards", "configs"},
}
READING_SIDE = {
    "shards.format.manifest",
    "shards.format.areas",
    "shards.format.record",
    "shards.errors",
}  # all that the pipeline may know of shards
Graph = dict[str, set[str]]


def short(name: str) -> str:
    """A module's name without that of the package."""
    return name.removeprefix("laconvnet.")


def modules() -> dict[str, Path]:
    """Every module of the rooms by its short name."""
    found = {file.stem: file for file in (ROOT / "laconvnet").glob("*.py") if file.stem not in ("__init__", "__main__")}
    for room in ROOMS:
        for file in (ROOT / room).rglob("*.py"):
            parts = file.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


def imported(tree: ast.AST, module: str, package: bool) -> Iterator[str]:
    """Full names of what a module imports when it runs; of `from a import b` both a and a.b."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            for other in node.orelse:
                yield from imported(other, module, package)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parent = module.split(".")[: len(module.split(".")) - node.level + package]
                base = ".".join([*parent, base] if base else parent)
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)
        else:
            yield from imported(node, module, package)


def graph_of(files: dict[str, Path]) -> Graph:
    """Module -> the modules of the rooms that it imports.

    A package that is named only on the way to one of its modules (`from a import b`, b a module) is no arrow.
    """
    graph: Graph = {}
    for module, file in files.items():
        tree = ast.parse(file.read_text(encoding="utf-8"))
        names = [short(name) for name in imported(tree, module, file.name == "__init__.py")]
        found = set()
        for place, name in enumerate(names):
            if name not in files:
                continue
            inside = [other for other in names[place + 1 :] if other.rpartition(".")[0] == name]
            if not (inside and all(other in files for other in inside)):
                found.add(name)
        graph[module] = found - {module}
    return graph


@pytest.fixture(scope="module")
def graph() -> Graph:
    return graph_of(modules())


def test_the_graph_is_that_of_the_project(graph: Graph) -> None:
    assert len(graph) > 150
    assert {name.split(".")[0] for name in graph} == {*ROOMS, *SHARED}
    assert "launch.commandline" in graph["launch.cli"] | graph["launch.commands.training"]
    assert "pipeline.training.loop" in graph["launch.commands.training"], "imports inside functions count"


def test_there_are_no_circles(graph: Graph) -> None:
    try:
        tuple(graphlib.TopologicalSorter(graph).static_order())
    except graphlib.CycleError as error:
        pytest.fail(f"circle: {' <- '.join(error.args[1])}")


def test_nothing_imports_upward(graph: Graph) -> None:
    upward = [
        f"{module} -> {name}"
        for module, names in graph.items()
        for name in names
        if (above := name.split(".")[0]) != (room := module.split(".")[0]) and above not in {*MAY_IMPORT[room], *SHARED}
    ]
    assert upward == []


def test_the_pipeline_sees_only_the_reading_side_of_shards(graph: Graph) -> None:
    seen = {
        name
        for module, names in graph.items()
        if module.startswith("pipeline")
        for name in names
        if name.startswith("shards")
    }
    assert seen
    assert seen <= READING_SIDE


def test_circles_and_their_exceptions_are_seen(tmp_path: Path) -> None:
    texts = {
        "a": "def f():\n    import b\n",
        "b": "from c import thing\n",
        "c": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import a\n",
    }
    files = {name: tmp_path / f"{name}.py" for name in texts}
    for name, text in texts.items():
        files[name].write_text(text)
    assert graph_of(files) == {"a": {"b"}, "b": {"c"}, "c": set()}
    files["c"].write_text("try:\n    import a\nfinally:\n    pass\n")
    with pytest.raises(graphlib.CycleError):
        tuple(graphlib.TopologicalSorter(graph_of(files)).static_order())
