"""The graph of DALI operators that decodes and letterboxes images."""

from __future__ import annotations

from typing import Any

from nvidia.dali import fn, pipeline_def
from nvidia.dali.types import DALIDataType, DALIImageType

from laconvnet.pipeline.data.geometry import PADDING


@pipeline_def
def graph(settings: dict[str, Any], coloured: bool) -> Any:
    data: Any = fn.external_source(name="data", dtype=DALIDataType.UINT8, ndim=1)
    sides = fn.external_source(name="sides", dtype=DALIDataType.FLOAT, ndim=1)
    place: Any = fn.external_source(name="place", dtype=DALIDataType.FLOAT, ndim=1)
    square: Any = fn.external_source(name="square", dtype=DALIDataType.FLOAT, ndim=1)
    # The builder stored upright images and the annotations refer to the stored pixels: nothing may turn them here.
    images: Any = fn.decoders.image(data, **settings, output_type=DALIImageType.RGB, adjust_orientation=False)
    images = fn.resize(images, size=sides)
    if coloured:
        factors: Any = fn.external_source(name="colour", dtype=DALIDataType.FLOAT, ndim=1)
        # Before the padding: that keeps its grey.
        images = fn.color_twist(images, brightness=factors[0], contrast=factors[1], saturation=factors[2])
    # Cutting, padding and turning into floats at one go: apart they cost a CPU some fifth more time.
    return fn.crop_mirror_normalize(
        images,
        crop=square,
        crop_pos_y=place[0],
        crop_pos_x=place[1],
        out_of_bounds_policy="pad",
        fill_values=PADDING,
        dtype=DALIDataType.FLOAT,
        output_layout="HWC",  # the network's memory format: it would copy planes
    )
