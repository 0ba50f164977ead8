"""A set that heals: where pictures have come or changed since it was finished, the same command builds it again.

What comes out has the bytes of a build that has found all of them at once. The set as it was stays until then: it is
replaced by a whole one or not at all.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from laconvnet.shards.build.brake import NO_BRAKE, Brake
from laconvnet.shards.build.builder import build
from laconvnet.shards.build.construction import is_finished, replacing, settings_of
from laconvnet.shards.build.inputs import Inputs, inputs_now
from laconvnet.shards.build.plan import SHARD_BYTES
from laconvnet.shards.errors import InputError
from laconvnet.shards.format.manifest import AGAIN, Manifest
from laconvnet.shards.format.raw import Samples

_LOG = logging.getLogger(__name__)
_LISTED = 3


def build_or_heal(
    read: Callable[[], Samples],
    out: Path,
    *,
    source: str,
    licence: str,
    options: dict[str, Any],
    shard_bytes: int = SHARD_BYTES,
    workers: int = 1,
    progress: bool = True,
    brake: Brake = NO_BRAKE,
    retry: bool = False,
) -> Manifest:
    """`shards.build.builder.build` of what ``read`` gives, which also looks whether a finished set could be better now.

    Lost pictures whose files have come or changed since are tried again, with ``retry`` all of them. Where one can be
    used now, or the file of a picture in the set is another one, the set is built again beside the old and takes its
    place when it is whole; ``brake`` judges it before that. Raises what `build` does, and InputError where the set was
    built from other annotations, or where building again would lose pictures that are in it and whose files are gone.
    """
    given: dict[str, Any] = {"source": source, "licence": licence, "options": options, "shard_bytes": shard_bytes}
    made: dict[str, Any] = given | {"workers": workers, "progress": progress, "brake": brake}
    if not is_finished(out, settings_of(**given)):
        return build(read(), out, **made)
    manifest = Manifest.open(out)
    if "ledger" not in manifest.meta:
        _LOG.warning("%s: was built before there was a ledger: nobody can tell whether it could be better now", out)
        brake.judge_finished(manifest)
        return manifest
    found = inputs_now(manifest, read(), retry, progress)
    if found.useless:
        told = "; ".join(found.useless[:_LISTED])
        _LOG.warning("%s: %d lost pictures were tried again and cannot be used: %s", out, len(found.useless), told)
    if not found.come and not found.changed:
        if found.gone:
            what = f"the files of {len(found.gone)} pictures that are in it are gone or broken, such as {found.gone[0]}"
            _LOG.warning("%s: %s: it keeps these as they were", out, what)
        if (out / AGAIN).is_dir():  # a build that was broken off, of pictures that are gone again
            with replacing(out) as again:
                shutil.rmtree(again)
        brake.judge_finished(manifest)
        return manifest
    _refuse_loss(out, found)
    _LOG.warning("%s: %s: built again beside the old set, which stays until the new is whole", out, _changes(found))
    with replacing(out) as again:
        build(read(), again, **made)
    return Manifest.open(out)


def _changes(found: Inputs) -> str:
    return f"{found.come} pictures that were lost can be used now and {found.changed} of the set have changed"


def _refuse_loss(out: Path, found: Inputs) -> None:
    if found.gone:
        raise InputError(
            f"{out}: {_changes(found)}, but the files of {len(found.gone)} that are in it are gone or broken, such "
            f"as {found.gone[0]}: building again would lose these; put them back, or give another --out"
        )
