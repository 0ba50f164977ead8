"""A checkpoint takes its place in a run: whole or not at all, and only where this process may publish."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import BinaryIO

from laconvnet.files import naming, publishing_folder, sync_tree
from laconvnet.pipeline.runs import checkpoints, fence, owner
from laconvnet.pipeline.runs.checkpoints import Facts
from laconvnet.pipeline.runs.layout import CHECKPOINTS, COMMIT, STATE, VOCABULARY, step_folder, step_of
from laconvnet.pipeline.runs.memory import Kept


def publish(
    final: Path,
    facts: Facts,
    write: Callable[[BinaryIO], object],
    vocabulary: str,
    may_publish: Callable[[], None] = fence.check,
) -> None:
    """Publish a checkpoint as this folder; ``write`` writes its state. One process calls it.

    Everything is written and synced in a folder of another name, the commit marker last, and the rename makes it a
    checkpoint: a kill at any point leaves the ones before untouched. ``may_publish`` raises where this process must
    not publish any more.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    with publishing_folder(final) as partial:
        with naming(final / STATE), (partial / STATE).open("wb") as file:
            write(file)
        (partial / VOCABULARY).write_text(vocabulary, encoding="utf-8")
        marker = {
            "version": checkpoints.VERSION,
            **{field.name: getattr(facts, field.name) for field in fields(Facts)},
            "files": {name: checkpoints.describe(partial / name) for name in (STATE, VOCABULARY)},
        }
        (partial / COMMIT).write_text(json.dumps(marker))
        sync_tree(partial)  # takes long: nothing but the rename may come after the look at the fence
        may_publish()
        if final.exists():
            drop(final)


def publish_kept(kept: Kept) -> Path | None:
    """Publish what a rank has left in memory, for the next start of its job; None where the run has come as far.

    Raises ConfigError where another process has taken the run over since, TrainingError where its job has been
    started again.
    """
    record = kept.record
    run = Path(record.run)
    if any(step_of(folder) >= record.step for folder in checkpoints.published(run)):
        return None
    final = run / CHECKPOINTS / step_folder(record.step)

    def write(file: BinaryIO) -> None:
        with kept.file.open("rb") as state:
            shutil.copyfileobj(state, file, 1 << 22)

    with owner.succeed(run, record.owner) as own:

        def may_publish() -> None:
            fence.check()
            own.check()

        publish(final, record, write, kept.vocabulary, may_publish)
    return final


def drop(folder: Path) -> None:
    """Delete a checkpoint; a kill leaves no part of it under its name."""
    gone = folder.with_name(f".{folder.name}.dropped")
    shutil.rmtree(gone, ignore_errors=True)
    folder.rename(gone)
    shutil.rmtree(gone)
