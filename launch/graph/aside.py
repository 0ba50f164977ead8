"""Starting a stage from nothing without deleting what it has made."""

from __future__ import annotations

from laconvnet.launch.graph.stages import Graph, Stage
from laconvnet.pipeline.runs.layout import REPLACED


def set_aside(graph: Graph, stage: Stage) -> None:
    """Keep a stage's folder, where there is one, as `replaced/<stage>-<hash>.<n>` beside the others."""
    if not stage.folder.exists():
        return
    aside = graph.folder / REPLACED
    aside.mkdir(exist_ok=True)
    number = 1 + sum(1 for _ in aside.glob(f"{stage.folder.name}.*"))
    stage.folder.rename(aside / f"{stage.folder.name}.{number}")
