"""The backbones LaConv layers can stand on, by the name that `model.backbone` takes. A new one is a file and a line."""

from collections.abc import Callable

from laconvnet.pipeline.model.backbones.base import Backbone
from laconvnet.pipeline.model.backbones.csp_darknet import csp_darknet53
from laconvnet.pipeline.model.backbones.resnet import resnet34, resnet101
from laconvnet.pipeline.model.backbones.weights import load_weights

BACKBONES: dict[str, Callable[[], Backbone]] = {
    "resnet34": resnet34,
    "resnet101": resnet101,
    "csp_darknet53": csp_darknet53,
}

__all__ = ["BACKBONES", "Backbone", "load_weights"]
