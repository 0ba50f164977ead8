"""The pretraining pipeline for LaConvNet, under one name.

`laconvnet.shards`, `.kernels`, `.pipeline`, `.launch` and `.configs` are the rooms. In a checkout they are the folders
beside this one, so that the same imports work from a checkout without an install, an editable install and a wheel.

From Python:

    import laconvnet

    model = laconvnet.load("runs/refcoco")
    answer = model("street.jpg", "the red car on the left")
    answer.box, answer.confidence
    answer.draw().save("answer.png")

`PUBLIC` are the names for that; they are imported when they are asked for. `Predictor` says what a model takes.
"""

import os
from importlib import import_module
from pathlib import Path
from typing import Any

__version__ = "0.1.0"

_HERE = Path(__file__).resolve().parent
ROOT = _HERE.parent
if not (_HERE / "shards").is_dir():
    __path__.append(str(ROOT))


def python_path() -> str:
    """The PYTHONPATH of a process that is to import this package."""
    return os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))


PUBLIC = {
    "load": "laconvnet.pipeline.inference.predictor",
    "Predictor": "laconvnet.pipeline.inference.predictor",
    "Answer": "laconvnet.pipeline.inference.answer",
    "Box": "laconvnet.pipeline.inference.answer",
    "Explanation": "laconvnet.pipeline.explain.explanation",
    "ConfigError": "laconvnet.pipeline.errors",
}


def __getattr__(name: str) -> Any:
    if name not in PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *PUBLIC})
