"""The code and configurations of a submission, copied beside its stages, so that a queued job runs what was submitted.

`<out>/code-<hash>/` holds the package; the same code gives the same folder. It is written under another name and
renamed, so that a folder of this name is always whole.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import laconvnet
from laconvnet import configs
from laconvnet.files import publish_text, publishing_folder
from laconvnet.launch.graph.fingerprint import config_files
from laconvnet.launch.graph.stages import Stage
from laconvnet.pipeline.runs.layout import JOBS

ROOMS = ("shards", "kernels", "pipeline", "launch", "configs")
_PLACES = tuple(map(Path, laconvnet.__path__))


def code(folder: Path) -> Path:
    """The copy of the code that runs now, under `folder`; made where it is not there."""
    final = folder / name()
    if final.is_dir():
        return final
    try:
        with publishing_folder(final) as partial:
            for name_in_copy, file in _files().items():
                (partial / name_in_copy).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, partial / name_in_copy)
    except OSError:
        if not final.is_dir():  # another launch has just made the same
            raise
    return final


def name() -> str:
    """The name of the copy: the first ten hexadecimal digits of the SHA-256 of all names and contents."""
    digest = hashlib.sha256()
    for name_in_copy, file in sorted(_files().items()):
        content = file.read_bytes()
        digest.update(f"{name_in_copy}\0{len(content)}\0".encode() + content)
    return f"code-{digest.hexdigest()[:10]}"


def arguments(stage: Stage) -> tuple[str, ...]:
    """The stage's arguments with every configuration file that exists now replaced by a copy in the stage's folder.

    The copy holds what the file's bases say as well.
    """
    import yaml

    from laconvnet.pipeline import yaml_files

    argv = list(stage.argv)
    for position, name in config_files(argv).items():
        source = configs.found(name)
        if source.is_file():
            copy = stage.folder / JOBS / f"config-{position}-{source.name}"
            copy.parent.mkdir(parents=True, exist_ok=True)
            publish_text(copy, yaml.safe_dump(yaml_files.tree(source), sort_keys=False))
            argv[position] = f"--config={copy}" if argv[position].startswith("--config=") else str(copy)
    return tuple(argv)


def _files() -> dict[str, Path]:
    """Name in the copy -> file, of the package as an install lays it out, wherever its rooms lie."""
    own = (file for file in _PLACES[0].iterdir() if file.is_file() and not file.name.startswith("."))
    found = {f"laconvnet/{file.name}": file for file in own}
    for room in ROOMS:
        top = next(place / room for place in _PLACES if (place / room).is_dir())
        for folder, inner, names in os.walk(top):
            inner[:] = [name for name in inner if name != "__pycache__" and not name.startswith(".")]
            files = (Path(folder, name) for name in names if not name.startswith("."))
            found |= {f"laconvnet/{room}/{file.relative_to(top).as_posix()}": file for file in files}
    return found
