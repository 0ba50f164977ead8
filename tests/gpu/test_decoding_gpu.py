"""The "mixed" decoder, on the GPU and by its JPEG unit, beside the graph for a CPU: picture by picture, in levels."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU: torch.cuda.is_available() is False"),
]
SIZE = 128
MOST, MEAN = 24.0, 1.0  # levels: decoders of JPEG differ by their transforms and by how they widen colours


def pixels(width: int, height: int, seed: int) -> NDArray[np.uint8]:
    """Gradients with an edge and grain: what decoders and resizing treat differently."""
    draw = np.random.default_rng(seed)
    down, across = np.mgrid[0:height, 0:width]
    made = np.stack([255 * across / width, 255 * down / height, 255 * (across > width / 2)], 2)
    return (made + draw.normal(0, 4, made.shape)).clip(0, 255).astype(np.uint8)


def encoded() -> dict[str, tuple[bytes, int, int]]:
    """Pictures of every kind that sets hold: name -> file, width, height."""
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    kinds = {
        "JPEG 4:2:0": ("RGB", "JPEG", {"quality": 90}),
        "JPEG 4:4:4": ("RGB", "JPEG", {"quality": 95, "subsampling": 0}),
        "JPEG progressive": ("RGB", "JPEG", {"quality": 85, "progressive": True}),
        "JPEG grey": ("L", "JPEG", {"quality": 90}),
        "PNG": ("RGB", "PNG", {}),
    }
    made = {}
    for number, (name, (mode, kind, options)) in enumerate(kinds.items()):
        for width, height in ((200, 120), (97, 131)):
            stream = io.BytesIO()
            image.fromarray(pixels(width, height, number)).convert(mode).save(stream, kind, **options)
            made[f"{name} {width}x{height}"] = (stream.getvalue(), width, height)
    return made


@pytest.mark.parametrize("share", [0.0, 0.65, 1.0])
def test_mixed_decoding_is_that_of_the_cpu(share: float, capsys: pytest.CaptureFixture[str]) -> None:
    """``share`` of the JPEGs goes to the GPU's own decoder."""
    pytest.importorskip("nvidia.dali", reason="DALI is not installed")
    from laconvnet.pipeline.data.decode import Decoder
    from laconvnet.pipeline.data.geometry import Letterbox

    pictures = encoded()
    data = [np.frombuffer(file, np.uint8) for file, _, _ in pictures.values()]
    sides = np.array([(width, height) for _, width, height in pictures.values()])
    letterbox = Letterbox.fit(sides[:, 0], sides[:, 1], SIZE)
    expected = Decoder(len(data), 1, torch.device("cpu")).decode(data, letterbox)
    found = Decoder(len(data), 1, torch.device("cuda", 0), hw_decoder_load=share).decode(data, letterbox)
    assert found.is_cuda
    apart = 255 * (found.cpu() - expected).abs().flatten(1)
    lines = [
        f"mixed, share {share:g}, {name}: at most {float(one.max()):.2f} levels, {float(one.mean()):.3f} in the mean"
        for name, one in zip(pictures, apart, strict=True)
    ]
    with capsys.disabled():
        print("", *lines, sep="\n")
    assert all(one.max() <= MOST and one.mean() <= MEAN for one in apart), "\n".join(lines)
