"""The pretraining pipeline for LaConvNet, under one name.

`laconvnet.shards`, `.kernels`, `.pipeline`, `.launch` and `.configs` are the rooms. In a checkout they are the folders
beside this one, so that the same imports work from a checkout without an install, an editable install and a wheel.
"""

import os
from pathlib import Path

__version__ = "0.1.0"

_HERE = Path(__file__).resolve().parent
ROOT = _HERE.parent
if not (_HERE / "shards").is_dir():
    __path__.append(str(ROOT))


def python_path() -> str:
    """The PYTHONPATH of a process that is to import this package."""
    return os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
