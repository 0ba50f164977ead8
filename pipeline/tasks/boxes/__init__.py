"""Box coders by the name of the head whose output they read."""

from laconvnet.pipeline.tasks.boxes.anchors import AnchorBoxes
from laconvnet.pipeline.tasks.boxes.base import BoxCoder
from laconvnet.pipeline.tasks.boxes.points import PointBoxes

CODERS: dict[str, type[BoxCoder]] = {"anchors": AnchorBoxes, "points": PointBoxes}

__all__ = ["CODERS", "BoxCoder"]
