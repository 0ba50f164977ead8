"""The weights of an earlier stage in the model of this one: every tensor whose name and shape fit, whatever the task.

Authors' code starts its tasks from each other so (luogen1996/LaConvNet: `load_state_dict` with ``strict=False``), which
fills what their heads share. Here only a head, and rows for new words and answers, may begin fresh.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from laconvnet.pipeline.errors import ConfigError
from laconvnet.pipeline.model.model import Model

WORDS = "language.embedding.weight"
_HEAD = "head."


@dataclass(frozen=True)
class Inherited:
    """Names of tensors: those taken from the earlier stage, of which some have grown; those that begin fresh, and those
    of the earlier stage that have no place here."""

    taken: tuple[str, ...]
    grown: tuple[str, ...]
    new: tuple[str, ...]
    left: tuple[str, ...]

    def __str__(self) -> str:
        total = len(self.taken) + len(self.new)
        grown = f" ({len(self.grown)} with new rows)" if self.grown else ""
        parts = [f"{len(self.taken)} of {total} tensors taken{grown}"]
        parts += [f"{what}: {_by_part(names)}" for what, names in (("new", self.new), ("left", self.left)) if names]
        return ", ".join(parts)


def inherit(model: Model, earlier: dict[str, Tensor], place: Path) -> Inherited:
    """Copy into ``model`` what fits of ``earlier``; raises ConfigError for a misfit outside of the head.

    Tensors with a row a word or answer, (N, ...), may be longer than the earlier ones; the rows behind those stay as
    they are. All others are of one shape, (...), in both.
    """
    wanted = model.state_dict()
    growing = {WORDS, *(f"{_HEAD}{name}" for name in model.head.grows)}
    fits = {name for name in wanted if name in earlier and _fits(wanted[name], earlier[name], name in growing)}
    for name in wanted:
        if name not in fits and not name.startswith(_HEAD):
            raise ConfigError(_misfit(place, name, wanted[name], earlier.get(name)))
    left = tuple(name for name in earlier if name not in fits)
    foreign = [name for name in left if not name.startswith(_HEAD)]
    if foreign:
        raise ConfigError(
            f"init_from: {place}: has {foreign[0]} and {len(foreign) - 1} more that this model lacks; is model.preset "
            "the same?"
        )
    for name in fits:
        _copy(wanted[name], earlier[name])
    model.load_state_dict(wanted, strict=True)
    return Inherited(
        tuple(name for name in wanted if name in fits),
        tuple(name for name in wanted if name in fits and wanted[name].shape != earlier[name].shape),
        tuple(name for name in wanted if name not in fits),
        left,
    )


def _fits(ours: Tensor, theirs: Tensor, may_grow: bool) -> bool:
    if may_grow:
        return theirs.shape[1:] == ours.shape[1:] and len(theirs) <= len(ours)
    return theirs.shape == ours.shape


def _copy(ours: Tensor, theirs: Tensor) -> None:
    if theirs.dim():
        ours[: len(theirs)] = theirs
    else:
        ours.copy_(theirs)


def _misfit(place: Path, name: str, ours: Tensor, theirs: Tensor | None) -> str:
    if theirs is None:
        return f"init_from: {place}: lacks {name}; is model.preset the same?"
    return (
        f"init_from: {place}: {name} has shape {tuple(theirs.shape)}, this model {tuple(ours.shape)}; model and "
        "data.vectors must be those of the earlier stage"
    )


def _by_part(names: Iterable[str]) -> str:
    """The names by the first two of their parts, with how many there are of each."""
    parts = Counter(".".join(name.split(".")[:2]) for name in names)
    return ", ".join(f"{part} ({number})" for part, number in sorted(parts.items()))
