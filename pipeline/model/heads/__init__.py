"""The heads, by the name that `model.head` takes. A new one is a file and a line here: its keys appear by themselves.

The first head of a task is its default, unless the preset has another.
"""

from __future__ import annotations

from dataclasses import field, make_dataclass
from typing import TYPE_CHECKING, Any

from laconvnet.pipeline.model.heads.anchors import AnchorHead
from laconvnet.pipeline.model.heads.answers import AnswerHead
from laconvnet.pipeline.model.heads.base import Features, Head
from laconvnet.pipeline.model.heads.masks import MaskHead
from laconvnet.pipeline.model.heads.points import PointHead

HEADS: dict[str, type[Head]] = {
    "anchors": AnchorHead,
    "points": PointHead,
    "masks": MaskHead,
    "answers": AnswerHead,
}

if TYPE_CHECKING:
    HeadsConfig = Any
else:
    # A frozen dataclass with one field a head, made from the registry.
    HeadsConfig = make_dataclass(
        "HeadsConfig",
        [(name, head.Config, field(default_factory=head.Config)) for name, head in HEADS.items()],
        frozen=True,
        namespace={
            "__module__": __name__,
            "__doc__": "The heads' own keys; those of the head in use count.\n\nArgs:\n"
            + "".join(f"    {name}: {head.Config.__doc__.splitlines()[0]}\n" for name, head in HEADS.items()),
        },
    )

TASKS = tuple(dict.fromkeys(task for head in HEADS.values() for task in head.tasks))


def heads_of(task: str) -> list[str]:
    """Names of the heads that a task can read, its default first."""
    return [name for name, head in HEADS.items() if task in head.tasks]


__all__ = ["HEADS", "TASKS", "Features", "Head", "HeadsConfig", "heads_of"]
