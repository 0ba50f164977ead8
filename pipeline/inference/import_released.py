"""A checkpoint file of the authors' released code -> the folder of a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from laconvnet.files import publishing_folder, read_json, remove_leftovers
from laconvnet.pipeline.config import TrainConfig
from laconvnet.pipeline.data.loader import DataConfig
from laconvnet.pipeline.data.text import AUTHORS_RULE, Vocabulary, words
from laconvnet.pipeline.errors import ConfigError
from laconvnet.pipeline.model.released import convert
from laconvnet.pipeline.runs import folder
from laconvnet.pipeline.tensor_file import load_tensors
from laconvnet.pipeline.training import checkpoint

_STATE_DICTS = ("state_dict", "net_state_dict")  # where the released train.py and utils/ckpt.py put them
_SPECIAL = ("PAD", "UNK", "CLS")  # CLS has a vector, but no text gives it: words are in lower case


def import_released(file: Path, vocabulary: Path, out: Path) -> dict[str, Any]:
    """Write the run folder ``out``, which `predict`, `eval` and `init_from` take; returns what was found.

    The released training saves its EMA weights as `state_dict`, and those of the last step nowhere: they are taken
    as the run's weights. Optimizer and schedule are left behind. ``vocabulary`` is what ``file`` lacks, see
    `read_vocabulary`. Raises ConfigError, one line naming file and tensor or word, for whatever does not fit; then
    nothing is written.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"--out: {out}: is there already; expected a new or empty folder")
    theirs, origin = _read(file)
    known = read_vocabulary(vocabulary)
    released = convert(theirs, len(known), f"{file}: {origin}")
    source = f"imported from {file}"
    config = TrainConfig(data=DataConfig(folder=source), model=released.config)
    state = {
        "step": 0,
        "task": released.config.task,
        "data": source,
        "model": released.weights,
        "moments": {},
        "ema": None,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(out.parent, out.name)
    with publishing_folder(out) as partial:
        checkpoint.save(checkpoint.folder_of(partial, 0), state, known.to_json())
        folder.prepare(config, partial)
    return {
        "run": str(out),
        "preset": released.config.preset,
        "task": released.config.task,
        "head": released.config.head,
        "tensors": len(theirs),
        "words": len(known),
        "taken": origin,
    }


def read_vocabulary(file: Path) -> Vocabulary:
    """The vocabulary of released weights, PAD and UNK (our padding and unknown word) first, from JSON.

    Either its words in the order of their numbers, or {word: number}, or the annotation file that the weights were
    trained on, {split: [{"refs": [expression, ...]}, ...]}: the released code never stores a vocabulary but numbers the
    words of all splits, test splits as well, as they come in that file. Raises ConfigError.
    """
    try:
        loaded = read_json(file)
    except (OSError, ValueError) as error:
        raise ConfigError(f"--vocabulary: {file}: cannot be read as JSON ({error})") from error
    tokens = loaded
    if isinstance(loaded, dict):
        numbered = all(type(number) is int for number in loaded.values())
        tokens = sorted(loaded, key=loaded.__getitem__) if numbered else list(dict.fromkeys(_annotated(loaded, file)))
        if numbered and sorted(loaded.values()) != list(range(len(loaded))):
            raise ConfigError(f"--vocabulary: {file}: expected the numbers 0 to {len(loaded) - 1}, each once")
    if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
        raise ConfigError(f"--vocabulary: {file}: expected a list of words, {{word: number}} or an annotation file")
    if tuple(tokens[:2]) != _SPECIAL[:2]:
        raise ConfigError(f"--vocabulary: {file}: begins with {tokens[:2]}, expected {list(_SPECIAL[:2])}")
    if len(set(tokens)) < len(tokens):
        (twice, _), *_ = Counter(tokens).most_common(1)
        raise ConfigError(f"--vocabulary: {file}: {twice!r} stands there twice; expected every word once")
    return Vocabulary(tuple(tokens[2:]), rule=AUTHORS_RULE)


def _annotated(splits: dict[str, Any], file: Path) -> Iterable[str]:
    """The words of an annotation file as they come; that of a word's first coming is its number."""
    yield from _SPECIAL
    try:
        for objects in splits.values():
            for described in objects:
                for expression in described["refs"]:
                    yield from words(expression, AUTHORS_RULE)
    except (TypeError, KeyError, AttributeError) as error:
        raise ConfigError(
            f'--vocabulary: {file}: neither {{word: number}} nor an annotation file, {{split: [{{"refs": [...]}}]}}'
        ) from error


def _read(file: Path) -> tuple[dict[str, Tensor], str]:
    """The weights in a checkpoint file, and what they were called there. No code in it is run."""
    loaded = load_tensors(file)
    if not isinstance(loaded, dict):
        raise ConfigError(f"{file}: holds a {type(loaded).__name__}, expected a state dict or a checkpoint with one")
    name = next((name for name in _STATE_DICTS if name in loaded), None)
    tensors = loaded[name] if name else loaded
    if not isinstance(tensors, dict) or not tensors or not all(map(_is_weight, tensors.items())):
        keys = ", ".join(map(str, list(loaded)[:5])) or "nothing"
        raise ConfigError(f"{file}: holds {keys}: expected tensors by name, or {' or '.join(_STATE_DICTS)} with them")
    epoch = f" of epoch {loaded['epoch']}" if name and isinstance(loaded.get("epoch"), int) else ""
    return dict(tensors), f"{name}{epoch}" if name else "state dict"


def _is_weight(entry: tuple[Any, Any]) -> bool:
    name, tensor = entry
    return isinstance(name, str) and isinstance(tensor, Tensor) and tensor.layout is torch.strided
