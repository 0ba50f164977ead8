"""Decoding and letterboxing in DALI: one graph, on the CPU or with its decoder on the GPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from laconvnet.pipeline.data.geometry import Floats, Letterbox

HW_DECODER_LOAD = 0.65  # DALI's default


class Decoder:
    """Encoded images to float tensors (B, 3, S, S) in [0, 1], channels last, padded with 127/255, of any side S.

    ``device`` is where the tensors land; on CUDA the decoder is DALI's "mixed" one, and ``hw_decoder_load`` the share
    of the JPEGs that it gives to the GPU's own decoder. ``coloured``: whether `decode` is given factors of colour. The
    graph draws no random number and keeps no state between batches, so it needs no place in a checkpoint.
    """

    def __init__(
        self,
        batch: int,
        threads: int,
        device: torch.device,
        coloured: bool = False,
        hw_decoder_load: float = HW_DECODER_LOAD,
    ) -> None:
        from laconvnet.pipeline.data.graph import graph  # DALI; a model is asked without it, too

        on_gpu = device.type == "cuda"
        self._pipeline: Any = graph(
            settings={"device": "mixed", "hw_decoder_load": hw_decoder_load} if on_gpu else {"device": "cpu"},
            coloured=coloured,
            batch_size=batch,
            num_threads=threads,
            device_id=(device.index or 0) if on_gpu else None,
            # The loader runs ahead in a thread of its own; a queue inside DALI would hold a second copy.
            prefetch_queue_depth=1,
        )
        self._pipeline.build()

    def decode(self, data: list[NDArray[np.uint8]], letterbox: Letterbox, colour: Floats | None = None) -> torch.Tensor:
        """At most ``batch`` encoded images, each (bytes,), through the graph: (B, 3, S, S) float32 in [0, 1].

        The letterbox says how large the square is and where each one goes. Raises RuntimeError (DALI's) for an image
        that cannot be decoded. ``colour`` (B, 3) are factors of brightness, contrast and saturation: saturation about
        the grey of the same luma (ITU-R BT.601), contrast about 128; they strike in the order saturation, contrast,
        brightness, in levels that are cut at 0 and 255 after the last.
        """
        sides = np.stack([letterbox.new_height, letterbox.new_width], 1).astype(np.float32)
        fed = {} if colour is None else {"colour": list(np.asarray(colour, np.float32))}
        fed["square"] = list(np.full((len(data), 2), letterbox.size, np.float32))
        images: Any
        (images,) = self._pipeline.run(data=data, sides=list(sides), place=list(place_of(letterbox)), **fed)
        # A copy: the next run writes where this one wrote.
        return torch.from_dlpack(images.as_tensor()).mul(1 / 255).permute(0, 3, 1, 2)


def place_of(letterbox: Letterbox) -> Floats:
    """Where each image stands (B, 2), down and across, as DALI counts: from 0 to 1 of what it is apart from the
    square in length. Its position to the pixel is its product with that, rounded.
    """
    corner = np.stack([letterbox.top, letterbox.left], 1)
    room = letterbox.size - np.stack([letterbox.new_height, letterbox.new_width], 1)
    return (corner / np.where(room == 0, 1, room)).astype(np.float32)


def can_decode(image: NDArray[np.uint8]) -> bool:
    """Whether DALI decodes this image, encoded, (bytes,): of a batch it does not tell which one it fails at."""
    one = np.ones(1, np.int64)
    try:
        Decoder(1, 1, torch.device("cpu")).decode([image], Letterbox.fit(one, one, 1))
    except RuntimeError:
        return False
    return True
