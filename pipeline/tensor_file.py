"""Files of `torch.save` that others wrote: read as data, and told apart from pickles that want to run code."""

from __future__ import annotations

import pickle
import pickletools
import re
import warnings
import zipfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import torch

from laconvnet.files import retried
from laconvnet.pipeline.errors import ConfigError
from laconvnet.terminal import one_line

# What torch says of them differs with what it makes of the name.
_REFUSED = re.compile(r"(?:Unsupported global: GLOBAL|Trying to load unsupported GLOBAL) ([^\s,]+)")
_OF_TENSORS = re.compile(r"torch\b.*|collections\.OrderedDict")
_OPCODES = 1_000_000  # looked through for a name: some seconds
_PICKLE_BYTES = 64 * 2**20


def load_tensors(file: Path) -> Any:
    """What `torch.save` wrote, tensors on the CPU; only tensors and plain values are unpickled, no code is run.

    Raises ConfigError, one line that begins with the file: for one that cannot be read, one that is none, and a pickle
    that asks for anything else, with the name it asks for.
    """
    try:
        return read_tensors(file)
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read ({error.strerror or error})") from error


def read_tensors(file: Path, mmap: bool = False) -> Any:
    """As `load_tensors`, with ``mmap`` mapped from the file; raises OSError as `files.retried`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the pickle's protocol, before it is refused
            return retried(file, lambda: torch.load(file, map_location="cpu", weights_only=True, mmap=mmap))
    except OSError:
        raise
    except Exception as error:  # malformed bytes raise nearly anything
        name = _asked_for(file, str(error))
        if name:
            raise ConfigError(
                f"{file}: is a pickle that asks for {one_line(name)}; only tensors and plain values are read, as "
                "anything else may run code, and nothing of it has run: ask for a file with the state_dict alone, or "
                "save one where you trust the file"
            ) from error
        raise ConfigError(f"{file}: not a whole file of torch.save; get the file again") from error


def _asked_for(file: Path, said: str) -> str | None:
    """The first name of code in a file that torch refused, None where there is none."""
    found = _REFUSED.search(said)
    if found:
        return found[1]
    try:
        with file.open("rb") as stream:
            if not zipfile.is_zipfile(stream):
                stream.seek(0)
                return _first_code(stream)
            with zipfile.ZipFile(stream) as archive:
                (name,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
                if archive.getinfo(name).file_size <= _PICKLE_BYTES:
                    with archive.open(name) as inner:
                        return _first_code(inner)
    # As above; what is no pickle asks for nothing.
    except Exception:
        return None
    return None


def _first_code(stream: Any) -> str | None:
    for name in _globals(stream):
        if not _OF_TENSORS.fullmatch(name):
            return name
    return None


def _globals(stream: BinaryIO) -> Iterator[str]:
    """The names of code in a pickle, without running it."""
    texts = ["", ""]
    try:
        for opcode, argument, _ in islice(pickletools.genops(stream), _OPCODES):
            if opcode.name in ("GLOBAL", "INST"):
                yield str(argument).replace(" ", ".", 1)
            elif opcode.name == "STACK_GLOBAL":
                yield ".".join(texts)
            elif isinstance(argument, str):
                texts = [texts[1], argument]
    except (ValueError, pickle.UnpicklingError):
        return
