"""One image, one sentence: the answer, and a drawing of it."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageOps, UnidentifiedImageError

from laconvnet.images import FORMATS, ImageLimitError, opened, read_bytes
from laconvnet.pipeline.data.decode import Decoder
from laconvnet.pipeline.data.geometry import Letterbox
from laconvnet.pipeline.data.loader import Batch
from laconvnet.pipeline.data.masks import decode
from laconvnet.pipeline.errors import ConfigError
from laconvnet.pipeline.inference.restore import restore
from laconvnet.pipeline.report.overlay import PREDICTED, overlay
from laconvnet.terminal import complain


@torch.inference_mode()
def predict(run: Path, image: Path, text: str, out: Path | None = None, last: bool = False) -> dict[str, Any]:
    """The answer of a run on an image file; ``out`` receives the image with the answer drawn on it.

    The checkpoint is the one that `restore` takes; a line says which.

    Raises ConfigError for an image that cannot be read, a text without words and an ``out`` that cannot be written.
    """
    loaded = _open(image)
    ready = restore(run, last)
    complain(ready.origin)
    config = ready.config.data
    letterbox = Letterbox.fit(np.array([loaded.width]), np.array([loaded.height]), config.size)
    lossless = io.BytesIO()
    loaded.save(lossless, "PNG", compress_level=1)
    images = Decoder(1, 1, ready.device).decode([np.frombuffer(lossless.getvalue(), np.uint8)], letterbox)
    tokens = torch.from_numpy(ready.vocabulary.encode([text], config.words)).to(ready.device)
    nothing = torch.empty(0)
    batch = Batch(np.zeros(1, np.int64), images, tokens, nothing, nothing, letterbox)
    (answer,) = ready.task.answer(ready.model(images, tokens).float(), batch)
    if out:
        try:
            draw(loaded, text, answer).save(out)
        except (OSError, ValueError) as error:
            raise ConfigError(f"--out: {out}: cannot be written ({error}); expected a name such as a.png") from error
    return {"image": str(image), "text": text, **answer}


def draw(image: Image.Image, text: str, answer: dict[str, Any]) -> Image.Image:
    """The image, at least 320 pixels wide, with the text below it and the box, the mask or the answer."""
    scale = max(1, -(-320 // image.width))
    width, height = image.width * scale, image.height * scale
    shown, answer_text = image.resize((width, height), Image.Resampling.LANCZOS), answer.get("answer")
    if "mask" in answer:
        mask = decode(answer["mask"], image.height, image.width)
        shown, answer_text = overlay(shown, mask, PREDICTED), None if mask.any() else "nothing"
    sheet = Image.new("RGB", (width, height + 34), "white")
    sheet.paste(shown)
    pen = ImageDraw.Draw(sheet)
    if "box" in answer:
        x, y, w, h = (side * scale for side in answer["box"])
        pen.rectangle((x, y, x + w, y + h), outline=PREDICTED, width=max(2, width // 200))
    pen.text((6, height + 10), text if answer_text is None else f"{text}  ->  {answer_text}", fill="black")
    return sheet


def _open(image: Path) -> Image.Image:
    try:
        with opened(read_bytes(image)) as found:
            upright = ImageOps.exif_transpose(found)
            if upright.has_transparency_data:  # laid on white, as the shards are built
                layers = upright.convert("RGBA")
                upright = Image.alpha_composite(Image.new("RGBA", layers.size, "white"), layers)
            return upright.convert("RGB")
    except FileNotFoundError as error:
        raise ConfigError(f"--image: {image}: no such file") from error
    except ImageLimitError as error:
        raise ConfigError(f"--image: {image}: refused: {error}; give a smaller image, or save it again") from error
    except UnidentifiedImageError as error:
        expected = ", ".join(FORMATS)
        raise ConfigError(f"--image: {image}: not an image that can be decoded; expected one of {expected}") from error
    except Exception as error:  # decoders raise nearly anything on malformed bytes
        raise ConfigError(f"--image: {image}: not an image that can be decoded ({error})") from error
