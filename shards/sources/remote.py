"""Raw data sets at URLs: what a build reads of them lies on this machine first, in the user's cache.

Annotations are fetched before a source looks at them, from stores that can list what they hold; images by their names,
as the annotations give them. An image that the store says is not there is missing, as on a disk. A store that fails
again and again ends the build: nothing that could not be reached is counted as lost.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from operator import length_hint
from pathlib import Path

import xxhash

from laconvnet.files import find_object, publish_json, publishing
from laconvnet.images import MAX_BYTES
from laconvnet.shards.errors import InputError
from laconvnet.shards.format.mirror import own_cache
from laconvnet.shards.format.raw import RawSample, Samples
from laconvnet.shards.format.remote import Folder, url_of
from laconvnet.shards.sources.base import Source
from laconvnet.shards.sources.reading import inside

_IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
_FETCHED = ".fetched.json"  # what the store told of each file when it was fetched
_THREADS, _AHEAD = 16, 256  # that fetch images, and images that are asked for together


def samples_of(
    source: Source,
    root: Path,
    images: Path | None,
    splits: Collection[str] | None,
    partition: str | None,
    look: bool = True,
) -> Samples:
    """What a source reads (`Source.samples`), root and images on this machine or at URLs, which a Path may hold.

    Without ``look`` no image is looked for, nor fetched.
    """
    root_url, images_url = url_of(root), url_of(images) if images else None
    place = at_hand(root)
    store, below = (Folder(root_url), place) if root_url and not images else (None, place)
    if images_url:
        store = Folder(images_url)
        images = below = local_folder(store)
    options = {"images": images, "splits": splits, "partition": partition}
    samples = source.samples(place, **options, with_images=look and store is None)  # type: ignore[arg-type]
    return with_images(samples, below, store) if store and look else samples


def at_hand(root: Path) -> Path:
    """A root on this machine: where its annotations lie, fetched as `local_root` where it is a URL."""
    url = url_of(root)
    return local_root(Folder(url)) if url else root


def local_root(folder: Folder) -> Path:
    """The folder on this machine with all files under a URL but the images, as they are there now.

    Raises InputError for a store that lists nothing, as web servers, and for a name that leaves its folder.
    """
    place = local_folder(folder)
    before = find_object(place / _FETCHED) or {}
    listed = {name: facts for name, facts in folder.listed().items() if not name.lower().endswith(_IMAGES)}
    if not listed:
        raise InputError(
            f"{folder.url}: no annotations are listed there; expected a store such as s3:// and its prefix"
        )
    for name, facts in listed.items():
        file = inside(place, name, folder.url)
        if before.get(name) != facts or not file.is_file():
            _fetch(folder, name, file)
    for name in before.keys() - listed.keys():
        inside(place, name, folder.url).unlink(missing_ok=True)
    publish_json(place / _FETCHED, listed)
    return place


def local_folder(folder: Folder) -> Path:
    """Where files of a URL are kept: under LACONVNET_RAW_CACHE, else in the user's cache; this user's alone."""
    caches = own_cache("LACONVNET_RAW_CACHE", "raw", "fetched files")
    place = caches / xxhash.xxh3_128_hexdigest(folder.url.encode("utf-8", "surrogateescape"))
    place.mkdir(mode=0o700, exist_ok=True)
    return place


def with_images(samples: Samples, place: Path, folder: Folder) -> Samples:
    """The samples, each when its image has been fetched from the URL to ``place``, under which the source expects it.

    One that is there already is not fetched again, one that was missing is asked for again.
    """
    return Samples(_fetched(samples, place, folder), length_hint(samples), samples.account)


def _fetched(samples: Iterable[RawSample], place: Path, folder: Folder) -> Iterator[RawSample]:
    stream = iter(samples)
    with ThreadPoolExecutor(_THREADS) as pool:
        while block := tuple(islice(stream, _AHEAD)):
            for _ in pool.map(lambda sample: _fetch_image(folder, place, sample.image), block):
                pass
            yield from block


def _fetch_image(folder: Folder, place: Path, image: Path) -> None:
    if image.exists():
        return
    try:
        _fetch(folder, image.relative_to(place).as_posix(), image, MAX_BYTES)
    except FileNotFoundError:
        return  # the builder finds none, and says so


def _fetch(folder: Folder, name: str, file: Path, most: int | None = None) -> None:
    """A file, whole or not at all, of at most so many bytes."""
    size = folder.size(name)
    if most is not None and size > most:
        raise InputError(f"{folder.place(name)}: {size} bytes, an image may have {most}")
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with publishing(file) as partial:
        folder.get(name, partial, size)
