"""Which libraries a room may know, and that our names do not get in the way of the libraries."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

from tests.test_imports import READING_SIDE

ROOT = Path(__file__).resolve().parents[2]
MAY_IMPORT = {
    "shards": {"shards"},
    "kernels": {"kernels"},
    "pipeline": {"pipeline", "kernels", "shards", "configs"},
    "launch": {"launch", "pipeline", "kernels", "shards", "configs"},
}
ROOMS = (*MAY_IMPORT, "configs")


def imports(file: Path) -> set[str]:
    """The names that a file imports, those of the package without its own in front: shards.errors."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == "laconvnet":
            found |= {f"laconvnet.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return {name.removeprefix("laconvnet.") for name in found}


def test_nothing_is_imported_by_a_name_that_only_a_checkout_has() -> None:
    for file in (path for top in (*ROOMS, "laconvnet", "tests") for path in (ROOT / top).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, ast.Import | ast.ImportFrom):
                continue
            imported = [alias.name for alias in node.names]
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else imported
            assert not {name.split(".")[0] for name in names} & set(ROOMS), f"{file}, line {node.lineno}"


def test_the_pipeline_sees_only_the_reading_side_of_shards() -> None:
    seen = {name for file in (ROOT / "pipeline").rglob("*.py") for name in imports(file) if name.startswith("shards")}
    assert seen
    assert seen <= READING_SIDE


def test_what_all_share_knows_the_standard_library_only() -> None:
    names = {name.split(".")[0] for name in imports(ROOT / "laconvnet" / "files.py")}
    assert names <= set(sys.stdlib_module_names)


def test_the_names_of_files_of_runs_and_stages_stand_once() -> None:
    from laconvnet.pipeline.runs import layout

    known = {value for value in vars(layout).values() if isinstance(value, str) and "." in value[1:]}
    assert {"DONE.json", "config.yaml", "state.pt", "graph.json"} <= known - {layout.__file__}
    files = [file for room in ("pipeline", "launch") for file in (ROOT / room).rglob("*.py")]
    for file in files:
        if file == Path(layout.__file__) or "bench" in file.parts:  # benches have folders of their own
            continue
        texts = {node.value for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Constant)}
        assert not texts & known, f"{file}: {texts & known} stand in laconvnet.pipeline.runs.layout"


def test_shards_know_no_torch() -> None:
    names = {name.split(".")[0] for file in (ROOT / "shards").rglob("*.py") for name in imports(file)}
    assert names.isdisjoint({"torch", "deepspeed", "accelerate", "nvidia"})


def test_kernels_know_only_torch() -> None:
    """And the bench's rival Triton, where there is one."""
    found: dict[str, set[str]] = {}
    for file in (ROOT / "kernels").rglob("*.py"):
        for name in imports(file):
            found.setdefault(name.split(".")[0], set()).add(file.name)
    assert found.pop("triton") == {"triton_rival.py"}
    assert found.keys() - set(sys.stdlib_module_names) == {"torch", "kernels", "files", "terminal", "trust"}


def test_libraries_import_from_the_project_root_where_a_folder_is_called_kernels() -> None:
    """transformers looks for a package of that name, by its version."""
    code = "import transformers, accelerate, deepspeed, laconvnet.kernels; print(laconvnet.kernels.__file__)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert str(ROOT / "kernels") in done.stdout


def test_the_command_starts_without_the_heavy_libraries() -> None:
    heavy = "{'torch', 'deepspeed', 'nvidia', 'submitit', 'pyarrow'}"
    code = f"import sys; from laconvnet.launch import cli; cli.parser(); print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
