"""Decoding and letterboxing in DALI: one graph, on the CPU or with its decoder on the GPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from nvidia.dali import fn, pipeline_def
from nvidia.dali.types import DALIDataType, DALIImageType

from pipeline.data.geometry import Letterbox

PADDING = 127


@pipeline_def
def _graph(size: int, decoder: str) -> Any:
    data: Any = fn.external_source(name="data", dtype=DALIDataType.UINT8, ndim=1)
    sides = fn.external_source(name="sides", dtype=DALIDataType.FLOAT, ndim=1)
    corner = fn.external_source(name="corner", dtype=DALIDataType.FLOAT, ndim=1)
    # The builder stored upright pictures and the annotations refer to the stored pixels: nothing may turn them here.
    images: Any = fn.decoders.image(data, device=decoder, output_type=DALIImageType.RGB, adjust_orientation=False)
    images = fn.resize(images, size=sides)
    square = np.array([size, size], np.float32)
    images = fn.slice(
        images,
        corner,
        square,
        axes=(0, 1),
        normalized_anchor=False,
        normalized_shape=False,
        out_of_bounds_policy="pad",
        fill_values=PADDING,
    )
    return fn.crop_mirror_normalize(images, mean=[0.0], std=[255.0], dtype=DALIDataType.FLOAT, output_layout="CHW")


class Decoder:
    """Encoded pictures to float tensors (B, 3, size, size) in [0, 1], padded with 127/255.

    ``device`` is where the tensors land; on CUDA the decoder is DALI's "mixed" one. The graph draws no random
    number and keeps no state between batches, so it needs no place in a checkpoint.
    """

    def __init__(self, size: int, batch: int, threads: int, device: torch.device) -> None:
        self._device = device
        on_gpu = device.type == "cuda"
        self._pipeline = _graph(
            size=size,
            decoder="mixed" if on_gpu else "cpu",
            batch_size=batch,
            num_threads=threads,
            device_id=(device.index or 0) if on_gpu else None,
            # The loader runs ahead in a thread of its own; a queue inside DALI would hold a second copy.
            prefetch_queue_depth=1,
        )
        self._pipeline.build()

    def decode(self, data: list[NDArray[np.uint8]], letterbox: Letterbox) -> torch.Tensor:
        """At most ``batch`` pictures through the graph; the letterbox says where each one goes."""
        sides = np.stack([letterbox.new_height, letterbox.new_width], 1).astype(np.float32)
        corner = -np.stack([letterbox.top, letterbox.left], 1).astype(np.float32)
        images: Any
        (images,) = self._pipeline.run(data=data, sides=list(sides), corner=list(corner))
        if self._device.type == "cuda":
            return torch.from_dlpack(images.as_tensor()).clone()
        return torch.from_numpy(np.array(images.as_array()))
