"""Small data sets of RefCOCO's layout with a fault in them, and what a build makes of a source."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from PIL import Image

from laconvnet.shards import sources
from laconvnet.shards.build.brake import NO_BRAKE, Brake
from laconvnet.shards.build.builder import build
from laconvnet.shards.format.manifest import SAMPLE_SCHEMA, Manifest, schema_metadata

WIDTH, HEIGHT = 64, 48
TRIANGLE = [[5, 5, 20, 5, 20, 20, 5, 20]]


def draw(folder: Path, *names: str, size: tuple[int, int] = (WIDTH, HEIGHT)) -> None:
    """Images of noise, so that no two are the same."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.effect_noise(size, 50).convert("RGB").save(folder / name)


def annotation(id: Any, image_id: int, **changes: Any) -> dict[str, Any]:
    """One of instances.json."""
    shape = {"bbox": [5, 5, 16, 16], "segmentation": TRIANGLE}
    return {"id": id, "image_id": image_id, "category_id": 1, "iscrowd": 0, **shape, **changes}


def ref(number: int, image_id: int, split: str = "train", **changes: Any) -> dict[str, Any]:
    """One of a refs pickle, of annotation 10 * number."""
    sentences = [{"sent_id": 100 * number, "sent": f"square {number}", "raw": "", "tokens": []}]
    fields = {"ref_id": number, "ann_id": 10 * number, "image_id": image_id, "split": split, "sentences": sentences}
    return {**fields, "category_id": 1, "file_name": "x.jpg", **changes}


def refer(
    root: Path,
    refs: list[Any],
    annotations: list[Any] | None = None,
    images: list[Any] | None = None,
    name: str = "refcoco",
    partition: str = "unc",
) -> Path:
    """Refs on images 1, 2 and 3, each with its annotation."""
    folder = root / name
    folder.mkdir(parents=True)
    sizes = {"width": WIDTH, "height": HEIGHT}
    instances = {
        "images": images or [{"id": number, "file_name": f"{number}.jpg", **sizes} for number in (1, 2, 3)],
        "annotations": annotations or [annotation(10 * number, number) for number in (1, 2, 3)],
        "categories": [{"id": 1, "name": "thing"}],
    }
    (folder / f"refs({partition}).p").write_bytes(pickle.dumps(refs, 2))
    (folder / "instances.json").write_text(json.dumps(instances))
    draw(root / "images", "1.jpg", "2.jpg", "3.jpg")
    return root


REFS = [ref(1, 1, "val"), ref(2, 2), ref(3, 3)]


def built(
    name: str, root: Path, images: Path | None = None, brake: Brake = NO_BRAKE, **options: Any
) -> tuple[Manifest, list[dict[str, Any]]]:
    """The set of a source, beside its root, and the rows of its quarantine."""
    origin = sources.get(name)
    samples = origin.samples(root, images=images, **{"splits": None, "partition": None, **options})
    out = root.parent / f"{root.name}-set"
    manifest = build(samples, out, source=name, licence=origin.licence, options={}, progress=False, brake=brake)
    return manifest, pq.read_table(out / "quarantine.parquet").to_pylist()


def account(manifest: Manifest, split: str, kind: str) -> tuple[int, int, dict[str, int]]:
    """Of the ledger: how many were read, how many kept, and the lost by cause."""
    found = manifest.meta["ledger"][split][kind]
    return found["read"], found["kept"], found["lost"]


def texts(manifest: Manifest) -> dict[str, str]:
    """The texts of the examples by id."""
    return {row["item_id"]: row["text"] for row in manifest.examples.to_pylist()}


def resealed(manifest: Manifest, facts: dict[str, Any]) -> None:
    """Write the manifest again with these facts, as if the set had been built so."""
    path = manifest.folder / "manifest.parquet"
    table = pq.read_table(path).cast(SAMPLE_SCHEMA)
    schema = SAMPLE_SCHEMA.with_metadata(schema_metadata(facts))
    with pq.ParquetWriter(path, schema, compression="zstd", write_page_checksum=True) as writer:
        writer.write_table(table.replace_schema_metadata(schema.metadata))
