"""Other ways to decode and letterbox than the pipeline's own, and the one that is exact."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from nvidia.dali import fn, pipeline_def
from nvidia.dali.types import DALIDataType, DALIImageType
from PIL import Image

from laconvnet.pipeline.data.decode import place_of
from laconvnet.pipeline.data.geometry import PADDING, Letterbox
from laconvnet.pipeline.data.squares import squares

Bytes = NDArray[np.uint8]

# Each differs from the pipeline's graph in what its name says.
VARIANTS: dict[str, dict[str, bool]] = {
    "without antialiasing": {"antialias": False},
    "quick cosine transform": {"quick_transform": True},
    "padding before the floats": {"apart": True},
    "padding before the floats, these by PyTorch": {"apart": True, "as_bytes": True},
    "decoding alone": {"alone": True},
}
ONLY_CPU = ("quick cosine transform",)


@pipeline_def
def _graph(
    size: int,
    decoder: str,
    antialias: bool = True,
    quick_transform: bool = False,
    apart: bool = False,
    as_bytes: bool = False,
    alone: bool = False,
) -> Any:
    data: Any = fn.external_source(name="data", dtype=DALIDataType.UINT8, ndim=1)
    sides = fn.external_source(name="sides", dtype=DALIDataType.FLOAT, ndim=1)
    place: Any = fn.external_source(name="place", dtype=DALIDataType.FLOAT, ndim=1)
    corner = fn.external_source(name="corner", dtype=DALIDataType.FLOAT, ndim=1)
    how: Any = {"use_fast_idct": True} if quick_transform else {}
    images: Any = fn.decoders.image(
        data, device=decoder, output_type=DALIImageType.RGB, adjust_orientation=False, **how
    )
    if alone:
        # A corner of each image is kept, so that what it takes to hand images over does not count.
        return fn.crop(images, crop=(1, 1)), sides, place, corner
    images = fn.resize(images, size=sides, antialias=antialias)
    pad: Any = {"out_of_bounds_policy": "pad", "fill_values": PADDING}
    if apart:
        square = np.array([size, size], np.float32)
        images = fn.slice(images, corner, square, axes=(0, 1), normalized_anchor=False, normalized_shape=False, **pad)
        if as_bytes:
            return images, sides, place, corner
    images = fn.crop_mirror_normalize(
        images,
        crop=(size, size),
        crop_pos_y=place[0],
        crop_pos_x=place[1],
        dtype=DALIDataType.FLOAT,
        output_layout="HWC",
        **pad,
    )
    return images, sides, place, corner


class Variant:
    """A graph of DALI's that differs from the pipeline's."""

    def __init__(self, size: int, batch: int, threads: int, device: torch.device, **settings: bool) -> None:
        self._device, self._settings, self._size = device, settings, size
        on_gpu = device.type == "cuda"
        self._pipeline = _graph(
            size=size,
            decoder="mixed" if on_gpu else "cpu",
            batch_size=batch,
            num_threads=threads,
            device_id=(device.index or 0) if on_gpu else None,
            prefetch_queue_depth=1,
            **settings,
        )
        self._pipeline.build()

    def of(self, data: list[Bytes], letterbox: Letterbox) -> Callable[[], torch.Tensor]:
        """Makes the batch (B, 3, S, S) of these images; of decoding alone it is empty, NaN."""
        sides = list(np.stack([letterbox.new_height, letterbox.new_width], 1).astype(np.float32))
        place = list(place_of(letterbox))
        corner = list(-np.stack([letterbox.top, letterbox.left], 1).astype(np.float32))

        def make() -> torch.Tensor:
            images: Any = self._pipeline.run(data=data, sides=sides, place=place, corner=corner)[0]
            found: torch.Tensor = torch.from_dlpack(images.as_tensor())
            if self._settings.get("alone"):
                return torch.full((len(data), 3, 1, 1), torch.nan).expand(-1, -1, self._size, self._size)
            if self._settings.get("as_bytes"):
                found = found.float()
            return found.mul(1 / 255).permute(0, 3, 1, 2)

        return make


def per_picture(data: list[Bytes], letterbox: Letterbox) -> torch.Tensor:
    """The batch (B, 3, S, S) in [0, 1] of these B files of bytes (n,), one after the other in Pillow.

    Raises Pillow's UnidentifiedImageError for bytes that are no image.
    """
    return squares([Image.open(io.BytesIO(one.tobytes())).convert("RGB") for one in data], letterbox)


def exact(data: list[Bytes], letterbox: Letterbox) -> torch.Tensor:
    """As `per_picture`, (B, 3, S, S), but resized in floating point: nothing is rounded behind the decoder."""
    found = torch.full((len(data), 3, letterbox.size, letterbox.size), PADDING / 255)
    for index, one in enumerate(data):
        bands = Image.open(io.BytesIO(one.tobytes())).convert("RGB").split()
        new = (int(letterbox.new_width[index]), int(letterbox.new_height[index]))
        for channel, band in enumerate(bands):
            resized = band.convert("F").resize(new, Image.Resampling.BILINEAR)
            found[(index, channel, *letterbox.inside(index))] = torch.from_numpy(np.array(resized) / 255)
    return found
